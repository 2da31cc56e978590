"""The command line in processes of its own that need not import first what most need: a server that did forks them.

What they run is the program's own entry point, `ttstrain.cli.main.main`. What depends on a fresh interpreter, on a
process's signals or on the installed program starts that instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

from ttstrain.cli.main import COMMANDS

PRELOADED = [
    "ttstrain.runs.resume",
    *sorted({command.target.partition(":")[0] for command in COMMANDS.values()}),
    "ttstrain.plan.new_recipe",
    "ttstrain.export.write",
    "ttstrain.infer.load",
    *(f"ttstrain.families.flow.{module}" for module in ("planner", "task", "upstream", "project")),
    "ttstrain.families.gpt_sovits",
    "ttstrain.families.orpheus",
    "pypinyin",  # with rjieba the dictionaries of F5's tokenizer: most of a second
    "rjieba",
    "torchaudio",
    "transformers.models.bert.modeling_bert",
    "transformers.models.hubert.modeling_hubert",
    "transformers.models.llama.modeling_llama",
]


def server() -> ForkServerContext:
    """Return the context whose processes begin with torch imported; its server starts with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run(
    arguments: list[str], *, environment: Mapping[str, str], cwd: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `ttstrain ARGUMENTS` in a new process and return what it said, as `subprocess.run` does."""
    return _run(_command_line, ["ttstrain", *arguments], environment, cwd, timeout_s)


def run_file(path: Path, arguments: list[str], *, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a file as a program, `python PATH ARGUMENTS`."""
    return _run(_file, [str(path), *arguments], environment, None, 300)


def _run(
    program: Callable[[], None],
    argv: list[str],
    environment: Mapping[str, str],
    cwd: Path | None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "out"), Path(scratch, "err")
        for path in said:
            path.touch()
        process = server().Process(target=_begin, args=(program, argv, dict(environment), cwd or Path.cwd(), said))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(argv, timeout_s, *(path.read_bytes() for path in said))
        texts = (path.read_text(encoding="utf-8") for path in said)
        return subprocess.CompletedProcess(argv, process.exitcode, *texts)


def _begin(
    program: Callable[[], None], argv: list[str], environment: dict[str, str], cwd: Path, said: tuple[Path, Path]
) -> None:
    for number, path in enumerate(said, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = argv
    program()


def _command_line() -> None:
    from ttstrain.cli.main import main

    main()


def _file() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")
