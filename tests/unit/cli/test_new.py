"""`ttstrain new` asks, or takes options, and writes a recipe with the commands that follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttstrain.cli.main import app
from ttstrain.plan import gpu
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "gpu_memory", lambda: None)
    (tmp_path / "my voice").mkdir()
    yield


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Pretend a terminal on which these answers are typed; return the prompts."""
    prompts: list[str] = []
    left = iter(answers)

    def answer(prompt: str = "") -> str:
        prompts.append(prompt)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("ttstrain.cli.new._asks", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    return prompts


def test_with_options_nothing_is_asked(tmp_path: Path) -> None:
    shown = run(app, ["new", "--data", "my voice", "--yes"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    recipe = parse(compose(tmp_path / "my_voice.yaml"))
    assert (recipe.data.path, recipe.train.device) == ("my voice", "cpu")
    for command in (
        "ttstrain doctor 'my voice' --recipe ./my_voice.yaml",
        "ttstrain plan ./my_voice.yaml",
        "ttstrain prove ./my_voice.yaml",
        "ttstrain finetune ./my_voice.yaml",
    ):
        assert command in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_five_questions_are_asked_and_wrong_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = answering(monkeypatch, "9", "1", "nowhere", "my voice", "", "single_gpu_24gb", "b.pt")
    shown = run(app, ["new", "mine.yaml"])
    assert shown.exit_code == 0
    assert len(prompts) == 7  # five, and two again
    assert [f"{number}. " in shown.stdout for number in range(1, 6)] == [True] * 5
    assert "there is no `9`" in shown.stdout
    assert "`nowhere` does not exist" in shown.stdout
    recipe = parse(compose(tmp_path / "mine.yaml"))
    assert (recipe.base, recipe.train.device) == ("b.pt", "cuda")


def test_answers_that_end_early_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "1", "my voice")
    shown = run(app, ["new", "mine.yaml"])
    assert shown.exit_code == 2
    assert "the answers ended" in shown.stderr
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "needs `--data`"),
        (["--data", "my voice"], 2, "add `--yes`"),
        (["--data", "nowhere", "--yes"], 3, "`nowhere` does not exist"),
        (["--data", "my voice", "--yes", "--goal", "song"], 2, "`--goal song` is not one of voice, minute, language"),
        (["--data", "my voice", "--yes", "--hardware", "toaster"], 2, "`--hardware toaster` is not one of cpu,"),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments: list[str], code: int, said: str) -> None:
    shown = run(app, ["new", *arguments])
    assert shown.exit_code == code
    assert said in shown.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine", encoding="utf-8")
    shown = run(app, ["new", "mine.yaml", "--data", "my voice", "--yes"])
    assert shown.exit_code == 2
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "mine"


def test_a_terminal_is_asked_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from ttstrain.cli import new

    monkeypatch.setattr(sys, "stdin", None)
    assert not new._asks()
