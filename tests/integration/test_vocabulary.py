"""Another vocabulary than the base's, through a whole run: rows, the first stage, and a vocab file that moves away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_runs import checkpoint, differences, finetune, write_clips, write_recipe

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow.interpretations import TABLE
from ttstrain.families.flow.transplant import transplant
from ttstrain.runs.resume import resume

ALONE, STEPS = 3, 6
OLD = (" ", *"oinshrdlcumwfgypbvkETAOINSHRDLCUMWFGYPBVK.,'jqxz")
MINE = (" ", "अ", "e", "t", "a", *OLD[:0:-1])  # four that the base's vocab lacks, and another order
FAST = (
    f"train.steps={STEPS}",
    "train.accumulate=1",
    "eval.every=null",
    "checkpoint.best=null",
    "optim.schedule.warmup_steps=1",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))


@pytest.fixture(scope="module")
def base(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    own = [f"model.vocab={write(root / 'old.txt', OLD)}", "model.max_unknown=1"]
    return finetune(recipe, root, *FAST, *own, "name=base", "train.steps=2")


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("vocab") / "mine.txt", MINE)


def write(path: Path, tokens: Sequence[str]) -> Path:
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


def settings(base: Path, vocab: Path) -> list[str]:
    return [*FAST, f"base={base}", f"model.vocab={vocab}", f"model.first_new_rows={ALONE}", "model.max_unknown=1"]


@pytest.fixture(scope="module")
def run(recipe: Path, base: Path, vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("run"), *settings(base, vocab), "name=run")


def test_only_the_new_rows_move_in_the_first_stage(base: Path, run: Path) -> None:
    start = checkpoint(base, 2).state["task"]
    made = transplant(start[TABLE], old=OLD, new=MINE)
    new = [number for number, token in enumerate(MINE, start=1) if token in made.new]
    old = [number for number in range(len(MINE) + 1) if number not in new]
    assert len(new) == 4
    for step in range(1, ALONE + 1):
        weights = checkpoint(run, step).state["task"]
        assert torch.equal(weights[TABLE][old], made.table[old])
        assert [name for name in start if name != TABLE and not torch.equal(weights[name], start[name])] == []
    assert not torch.equal(checkpoint(run, ALONE).state["task"][TABLE][new], made.table[new])
    after = checkpoint(run, ALONE + 1).state["task"]
    assert not torch.equal(after[TABLE][old], made.table[old])
    assert not torch.equal(after["transformer.proj_out.weight"], start["transformer.proj_out.weight"])


def test_the_average_starts_as_the_carried_over_weights(base: Path, run: Path) -> None:
    """While nothing but new rows moves, the average of all else is what it started as."""
    made = transplant(checkpoint(base, 2).state["task"][TABLE], old=OLD, new=MINE)
    average = checkpoint(run, ALONE).state["ema"]["weights"][TABLE]
    old = [number for number, token in enumerate(MINE, start=1) if token not in made.new]
    assert torch.equal(average[[0, *old]], made.table[[0, *old]])
    torch.testing.assert_close(average, made.table, rtol=0, atol=0.02)


def test_every_parameter_starts_its_moments_when_the_stage_is_over(run: Path) -> None:
    during = checkpoint(run, ALONE).state["optimizers"]["model"]
    assert [name for name, moments in during.items() if moments] == [TABLE]
    after = checkpoint(run, ALONE + 1).state["optimizers"]["model"]
    assert {float(moments["step"]) for moments in after.values()} == {1.0}


@pytest.mark.parametrize("step", [ALONE - 1, ALONE, ALONE + 1])
def test_a_resume_in_or_after_the_stage_is_exact(run: Path, tmp_path: Path, step: int) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    resume(again, [], checkpoint=Path(f"step-{step:08d}"))
    assert differences(checkpoint(again, STEPS).state, checkpoint(run, STEPS).state) == []


def test_a_run_survives_the_loss_and_the_change_of_its_vocab(
    recipe: Path, base: Path, vocab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.txt"
    shutil.copy(vocab, own)
    short = finetune(recipe, tmp_path, *settings(base, own), "name=short")
    assert (short / "checkpoints" / f"step-{STEPS:08d}" / "vocab.txt").read_text(encoding="utf-8") == own.read_text()
    whole = checkpoint(short, STEPS).state
    own.unlink()
    capfd.readouterr()
    resume(short, [], checkpoint=Path(f"step-{ALONE + 1:08d}"))
    assert f"`{own}` is gone" in capfd.readouterr().err
    assert differences(checkpoint(short, STEPS).state, whole) == []
    write(short / "vocab.txt", (" ", *MINE[:0:-1]))
    resume(short, [], checkpoint=Path(f"step-{ALONE + 1:08d}"))
    assert "has changed since" in capfd.readouterr().err
    assert differences(checkpoint(short, STEPS).state, whole) == []
    opened = open_checkpoint(short)
    assert Path(str(opened.section["vocab"])).parent == opened.path


def test_a_damaged_copy_of_the_vocab_is_refused(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    copy = again / "checkpoints" / f"step-{ALONE:08d}" / "vocab.txt"
    copy.write_bytes(copy.read_bytes().replace(b"a", b"b"))
    with pytest.raises(CheckpointError, match=r"vocab\.txt.*damaged"):
        resume(again, [], checkpoint=Path(f"step-{ALONE:08d}"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["base=null"], "needs a base: without pretrained weights"),
        (["model.vocab=OLD"], "an embedding for every token"),
        ([f"model.first_new_rows={STEPS}"], f"is {STEPS} steps, but the whole run has only {STEPS}"),
        (["optim.groups=[{name: text, match: ['*text_embed*'], frozen: true}]"], "but that table is frozen"),
    ],
)
def test_a_first_stage_that_makes_no_sense_is_refused(
    recipe: Path, base: Path, vocab: Path, tmp_path: Path, *, overrides: list[str], said: str
) -> None:
    overrides = [override.replace("OLD", str(base.parent / "old.txt")) for override in overrides]
    with pytest.raises(RecipeError, match=said):
        finetune(recipe, tmp_path, *settings(base, vocab), *overrides, "name=r")
    assert not (tmp_path / "r").exists()
