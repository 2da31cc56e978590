"""What may know what: checked on the source, file by file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ttstrain
from ttstrain import registry

PACKAGE = Path(ttstrain.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)
# Imported by `ttstrain --help`, `ttstrain plan` or `ttstrain report`.
WITHOUT_TORCH = (
    "ttstrain.bands.tracker",
    "ttstrain.cli.main",
    "ttstrain.recipe.compose",
    "ttstrain.plan.facts",
    "ttstrain.recipe.shipped",
    "ttstrain.plan.plan",
    "ttstrain.plan.render",
    "ttstrain.forecast.forecast",
    "ttstrain.forecast.ledger",
    "ttstrain.plan.resolve",
    "ttstrain.plan.json_schema",
    "ttstrain.data.audit",
    "ttstrain.data.manifest",
    "ttstrain.data.readers",
    "ttstrain.data.sampler",
    "ttstrain.data.split",
    "ttstrain.families",
    "ttstrain.registry",
    "ttstrain.optim",
    "ttstrain.optim.schedule",
    "ttstrain.optim.settings",
    "ttstrain.report.write",
)
LONGEST_FILE = 600  # lines


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def files_of(*parts: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(PACKAGE).parts[0] in parts]


def imports(path: Path) -> Iterator[str]:
    """Yield every module a file imports, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 50
    assert files_of("families")
    assert registry.names()


@pytest.mark.parametrize("path", files_of("families"), ids=name_of)
def test_no_family_knows_another(path: Path) -> None:
    parts = path.relative_to(PACKAGE / "families").parts
    own = parts[0] if len(parts) > 1 else ""
    others = [name for name in registry.names() if name != own]
    known = tuple(f"ttstrain.families.{name}" for name in others)
    assert [module for module in imports(path) if module.startswith(known)] == []


BARE = re.compile(r"\bjson\.loads?\(|\byaml\.(?:safe_)?load|\bsafe_load\(|\bpickle\.load")
# A copy of our own values; a program of its own that reads what we wrote for it; batches from our own workers.
READS_ITS_OWN = ("infer/load.py", "families/orpheus/reader.py", "data/loader.py", "data/pool.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_json_and_yaml_are_read_with_limits(path: Path) -> None:
    if name_of(path).removeprefix("ttstrain/") in ("documents.py", *READS_ITS_OWN):
        return
    code = "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    assert BARE.findall(code) == [], "use `ttstrain.documents` or `ttstrain.recipe.yaml12`"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sums_are_made_in_one_place(path: Path) -> None:
    if path.name == "digest.py":
        return
    assert not re.search(r"\bhashlib\.(?:sha256|new|file_digest)|from hashlib", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_not_imported_where_a_plan_is_made(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("family", registry.names())
def test_a_family_is_found_without_torch(family: str) -> None:
    asked = "family.load_project(), family.load_readers(), family.load_line_formats()"
    code = (
        f"import sys; from ttstrain import registry; family = registry.load({family!r}); {asked}; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_has_one_subject(path: Path) -> None:
    assert path.stem not in ("utils", "helpers", "misc", "common")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


# ---------------------------------------------------------------- commands that are printed

_COMMAND = re.compile(
    r"(?:ttstrain (?:finetune|resume|export|sample|prepare|inspect-ckpt|recipes migrate)|wandb sync)\b"
)
_FLAG = re.compile(r"(?:--(?:base|data|from|run-dir)|(?<![\w-])-o|touch) ?$")


def unquoted_words(path: Path) -> Iterator[str]:
    """Yield what an f-string puts into a command without quoting it for a shell."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
                continue
            within = before.rpartition("`")[2]  # of the command, whose backtick may be open
            word = ast.unparse(part)
            if (_COMMAND.search(within) or _FLAG.search(within)) and "quoted(" not in word:
                yield word
            before += "word"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_printed_command_can_be_pasted(path: Path) -> None:
    plain = ("{sound.name}", "{former}", "{checkpoint.name}")  # `step-00000004` and its like
    assert [word for word in unquoted_words(path) if word.strip("f'\"") not in plain] == []


def test_a_word_that_is_not_quoted_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("f'x `ttstrain resume {run}` y'\nf'--base {quoted(a)}'\nf'{a} is `b`'\nf'-o {c}'\n")
    assert [word.strip("f'\"") for word in unquoted_words(tmp_path / "a.py")] == ["{run}", "{c}"]
