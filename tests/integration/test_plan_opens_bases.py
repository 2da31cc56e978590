"""`plan` and `--dry-run` open a local base as a run would, and refuse what a run would refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_orpheus
import sovits_toys as toys
from safetensors.torch import load_file, save_file
from small_runs import write_clips, write_recipe
from typer.testing import CliRunner

from ttstrain.checkpoint.merging import check_base
from ttstrain.cli.main import app
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

NET: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 32, "text_dim": 16, "conv_layers": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_recipe(folder / "r.yaml", data=write_clips(folder / "speech", count=6))
    save_file(FlowTask(FlowConfig(**NET)).state_dict(), folder / "whole.safetensors")
    return folder


def missing(root: Path) -> str:
    return str(root / "nothing.safetensors")


def damaged(root: Path) -> str:
    (root / "cut.safetensors").write_bytes((root / "whole.safetensors").read_bytes()[:-1000])
    return str(root / "cut.safetensors")


def foreign(root: Path) -> str:
    return str(toys.write_s1(root / "s1.ckpt"))


def another_size(root: Path) -> str:
    save_file(FlowTask(FlowConfig(**{**NET, "dim": 64})).state_dict(), root / "wide.safetensors")
    return str(root / "wide.safetensors")


def a_part(root: Path) -> str:
    tensors = load_file(root / "whole.safetensors")
    save_file({k: v for k, v in tensors.items() if "norm_out" not in k}, root / "part.safetensors")
    return str(root / "part.safetensors")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing, "does not exist"),
        (damaged, "cut short"),
        (foreign, "of family `gpt_sovits`, the recipe trains `flow`"),
        (another_size, "dim: 64 in the file, 32 in the recipe"),
        (a_part, "2 missing in the file"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["finetune", "--dry-run"]], ids=["plan", "dry-run"])
def test_a_base_that_cannot_be_started_from_is_refused_by_the_plan(
    root: Path, make: Callable[[Path], str], said: str, command: list[str]
) -> None:
    done = CliRunner().invoke(app, [*command, str(root / "r.yaml"), "--base", make(root)])
    assert (done.exit_code, said in done.stderr) == (4, True), done.stderr


@pytest.mark.parametrize("versions", [("v1", "v2"), ("v2", "v1"), ("v2", "v2ProPlus")])
def test_parts_of_two_versions_are_refused_by_the_plan(tmp_path: Path, versions: tuple[Any, Any]) -> None:
    recipe = toys.write_recipe(tmp_path / "r.yaml", "joint", version="v2")
    gpt = toys.write_s1(tmp_path / "s1.ckpt", version=versions[0])
    files = [gpt, toys.write_s2g(tmp_path / "G.pth", version=versions[1]), toys.write_s2d(tmp_path / "D.pth")]
    with pytest.raises(CheckpointError, match=r"version|v1|another"):
        check_base(parse(compose(recipe, [f"base=[{','.join(map(str, files))}]"])))


def test_whole_bases_pass(root: Path, tmp_path: Path) -> None:
    check_base(parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}"])))
    check_base(parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}", "lora={rank: 2}"])))
    (root / "own.txt").write_text(" \na\nb\n", encoding="utf-8")  # rows are carried over by token
    check_base(
        parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}", f"model.vocab={root / 'own.txt'}"]))
    )
    check_base(parse(compose(small_orpheus.write_all(tmp_path / "orpheus"))))
    files = [toys.write_s2g(tmp_path / "G.pth"), toys.write_s2d(tmp_path / "D.pth")]
    base = f"base=[{files[0]},{files[1]}]"
    check_base(parse(compose(toys.write_recipe(tmp_path / "vae.yaml", "vae"), [base])))
    s1 = toys.write_s1(tmp_path / "s1.ckpt")
    check_base(parse(compose(toys.write_recipe(tmp_path / "gpt.yaml", "gpt"), [f"base={s1}"])))
    check_base(
        parse(compose(toys.write_recipe(tmp_path / "joint.yaml", "joint"), [f"base=[{s1},{files[0]},{files[1]}]"]))
    )


def test_what_the_hub_holds_is_not_asked_for(root: Path) -> None:
    check_base(parse(compose(root / "r.yaml", ["base=hf://nobody/nothing/model.safetensors"])))
