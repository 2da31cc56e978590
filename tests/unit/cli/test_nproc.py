"""`--nproc N` starts the same command N times, without `--nproc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttstrain.cli.main import app
from ttstrain.runs import launch as launching


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int, int]]:
    calls: list[tuple[list[str], int, int]] = []

    def launch(arguments: Sequence[str], *, nproc: int, max_restarts: int = 0, go_on: str = "") -> int:
        calls.append((list(arguments), nproc, max_restarts))
        return 75

    monkeypatch.setattr(launching, "launch", launch)
    return calls


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "from_scratch"],
        ["finetune", "from_scratch", "optim.lr=1e-4", "train.steps=600", "--data", "a b", "--run-dir", "c"],
        ["finetune", "from_scratch", "--base", "hf://a/b/c"],
        ["resume", "runs/x"],
        ["resume", "runs/x", "--base", "a b", "--base", "c"],
        ["resume", "runs/x", "train.steps=9", "--reset-step", "--reset-optimizer", "--from", "best", "--recipe", "r"],
    ],
)
def test_every_argument_reaches_the_processes_and_their_code_comes_back(
    launched: list[tuple[list[str], int, int]], arguments: list[str]
) -> None:
    for more, restarts in (([], 3), (["--max-restarts", "0"], 0)):
        result = CliRunner().invoke(app, [*arguments, "--nproc", "2", *more])
        assert result.exit_code == 75, result.output
        assert launched.pop() == (arguments, 2, restarts)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "a b", "--recipe", "from_scratch"],
        ["prepare", "a b", "data.max_s=9", "--recipe", "from_scratch", "-o", "c", "--show-tokens", "2", "--json"],
    ],
)
def test_every_argument_reaches_the_processes_that_prepare(
    launched: list[tuple[list[str], int, int]], arguments: list[str]
) -> None:
    result = CliRunner().invoke(app, [*arguments, "--nproc", "2"])
    assert result.exit_code == 75, result.output
    assert launched == [(arguments, 2, 0)]


@pytest.mark.parametrize(
    "arguments",
    [["a"], ["a", "--recipe", "from_scratch", "--cut", "b"], ["a", "optim.lrr=1", "--recipe", "from_scratch"]],
)
def test_what_several_processes_cannot_prepare_starts_none(
    launched: list[tuple[list[str], int, int]], arguments: list[str]
) -> None:
    assert CliRunner().invoke(app, ["prepare", *arguments, "--nproc", "3"]).exit_code == 2
    assert launched == []


def test_a_bad_recipe_starts_no_process(launched: list[tuple[list[str], int, int]], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["finetune", "from_scratch", "optim.lrr=1", "--nproc", "3"]).exit_code == 2
    assert launched == []


@pytest.mark.parametrize("command", ["finetune", "resume", "prepare"])
def test_less_than_one_process_is_wrong_usage(command: str) -> None:
    assert CliRunner().invoke(app, [command, "x", "--nproc", "0"]).exit_code == 2
