"""A run in stages: each with its clips, learning rates and frozen groups, and resumed inside any of them."""

from __future__ import annotations

import json
import math
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from small_runs import RECIPE, checkpoint, differences, finetune, metrics, same, ttstrain, write_clips, write_recipe

from ttstrain.contract.task import Loss
from ttstrain.errors import CheckpointError, Preempted, RecipeError
from ttstrain.families.flow.task import FlowTask
from ttstrain.runs.resume import resume
from ttstrain.train import loop, measure
from ttstrain.train.run import Run

TEXT = RECIPE.replace("steps: 8, ", "").replace(
    "optim: {", 'optim: {groups: [{name: text, match: ["*text_embed*"], lr_scale: 2}], '
)
SHORT_S = 1.3  # of the eight clips two are longer
STAGES = f"""
stages:
  - {{name: general, steps: 4}}
  - {{name: target, steps: 4, lr_scale: 0.3, group_lr_scale: {{text: 0.5}}, data: {{max_s: {SHORT_S}}}}}
  - {{name: text, steps: 3, lr_scale: 0.1, only: [text], schedule: {{kind: constant, warmup_steps: 0}}}}
"""
STOPPING = """
stages:
  - {name: general, steps: 20, early_stop: {patience: 1, min_delta: 100}}
  - {name: target, steps: 4, lr_scale: 0.3}
"""
STEPS = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "speech")


@pytest.fixture(scope="module")
def recipe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "r.yaml", data=data, text=TEXT + STAGES)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("whole"), "name=whole")


def steps_of(run: Path) -> list[dict[str, float]]:
    return [row for row in metrics(run) if "train/loss/model" in row]


def cosine(step: int, *, total: int, warmup: int = 2, peak: float) -> float:
    """The recipe's schedule, written down independently: from a tenth up to the peak, and down to a tenth of it."""
    if step < warmup:
        return peak * (0.1 + 0.9 * step / warmup)
    return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - warmup) / (total - 1 - warmup))) / 2)


def cut_off(run: Path, copy: Path, *, after: int) -> Path:
    """Copy a run's folder as it was when `after` was its last step."""
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").glob("step-*"):
        if int(folder.name[-8:]) > after:
            shutil.rmtree(folder)
    (copy / "checkpoints" / "last").write_text(f"step-{after:08d}\n")
    return copy


# ---------------------------------------------------------------- what a stage is


def test_every_stage_has_its_learning_rates_and_a_schedule_of_its_own(whole: Path) -> None:
    rows = steps_of(whole)
    assert [row["train/stage"] for row in rows] == 4 * [1] + 4 * [2] + 3 * [3]
    general = [cosine(step, total=4, peak=1e-3) for step in range(4)]
    target = [cosine(step, total=4, peak=0.3e-3) for step in range(4)]
    assert [row["optim/lr/model/default"] for row in rows] == pytest.approx([*general, *target, 0, 0, 0], rel=1e-12)
    text = [2 * lr for lr in general] + [2 * 0.5 * lr for lr in target] + 3 * [2 * 0.1 * 1e-3]
    assert [row["optim/lr/model/text"] for row in rows] == pytest.approx(text, rel=1e-12)


def test_a_stage_trains_on_its_clips_alone(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    step = loop.train_step

    def noted(run: Run, batches: Any, **options: Any) -> Any:
        seen.append({clip for batch in batches for clip in batch.ids})
        return step(run, batches, **options)

    monkeypatch.setattr(loop, "train_step", noted)
    run = finetune(recipe, tmp_path, "name=r")
    clips = [json.loads(line) for line in (run / "data" / "train.jsonl").read_text().splitlines()]
    short = {clip["id"] for clip in clips if clip["duration_s"] <= SHORT_S}
    everything = {clip["id"] for clip in clips}
    assert short < everything
    assert set().union(*seen[4:8]) == short
    assert set().union(*seen[:4]) == everything
    assert set().union(*seen[8:]) == everything


def test_frozen_groups_keep_weights_and_moments_and_go_on_from_them(whole: Path) -> None:
    states = [checkpoint(whole, step).state for step in range(1, STEPS + 1)]
    for name in states[0]["task"]:
        if name.endswith("inv_freq") or name == "transformer.text_embed.text_embed.weight":
            continue  # a buffer; rows of the table that no text uses have no gradient
        moved = [not same(one["task"][name], two["task"][name]) for one, two in pairwise(states)]
        counts = [state["optimizers"]["model"][name]["step"].item() for state in states]
        if "text_embed" in name:
            assert all(moved[2:]), name
            assert counts == list(range(1, STEPS + 1)), name
        else:
            assert moved[7:] == [False] * 3, name
            assert counts == [*range(1, 9), 8, 8, 8], name


def test_held_out_clips_of_the_stage_are_measured_apart(recipe: Path, tmp_path: Path) -> None:
    run = finetune(recipe, tmp_path, "name=r", "data.holdout=4")
    held = [json.loads(line) for line in (run / "data" / "held_out.jsonl").read_text().splitlines()]
    assert 0 < sum(clip["duration_s"] <= SHORT_S for clip in held) < len(held)
    rows = {int(row["step"]): row for row in metrics(run) if "eval/loss/total" in row}
    assert set(rows) == {0, 2, 4, 6, 8, 10, 11}  # the ends of stages, too
    alike = {step: row["eval/loss/total"] == row["eval/stage/total"] for step, row in rows.items()}
    assert alike == {0: True, 2: True, 4: True, 6: False, 8: False, 10: True, 11: True}


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_a_run_cut_inside_any_stage_ends_bit_for_bit_as_the_whole(whole: Path, tmp_path: Path, cut: int) -> None:
    run = cut_off(whole, tmp_path / "cut", after=cut)
    assert resume(run, []) == run
    mine, theirs = checkpoint(run, STEPS), checkpoint(whole, STEPS)
    assert {"curriculum", "loader", "ema"} <= set(mine.state)
    assert differences(mine.state, theirs.state) == []
    assert differences(mine.per_rank, theirs.per_rank) == []
    assert metrics(run) == metrics(whole)


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stopped")
    recipe = write_recipe(root / "r.yaml", data=data, text=TEXT + STOPPING)
    return finetune(recipe, root, "name=whole")


def test_a_stage_that_no_longer_improves_makes_way_for_the_next(stopped: Path) -> None:
    rows = steps_of(stopped)
    # evaluated at 2 and 4: nothing improves by 100
    assert [row["train/stage"] for row in rows] == 4 * [1] + 4 * [2]
    assert [row["train/total_steps"] for row in rows] == 4 * [24] + 4 * [8]
    general = [cosine(step, total=20, peak=1e-3) for step in range(4)]  # cut short, not squeezed
    target = [cosine(step, total=4, peak=0.3e-3) for step in range(4)]
    assert [row["optim/lr/model/default"] for row in rows] == pytest.approx([*general, *target], rel=1e-12)
    schedule = checkpoint(stopped, 8).meta.schedule
    assert schedule is not None
    assert (schedule.total, schedule.ended, schedule.stages) == (8, True, (("general", 4),))


@pytest.mark.parametrize("cut", [2, 4, 5, 7])
def test_where_a_stage_ended_early_is_part_of_the_state(stopped: Path, tmp_path: Path, cut: int) -> None:
    run = cut_off(stopped, tmp_path / "cut", after=cut)
    resume(run, [])
    assert metrics(run) == metrics(stopped)
    assert differences(checkpoint(run, 8).state, checkpoint(stopped, 8).state) == []


def test_an_evaluation_that_a_signal_left_out_ends_its_stage_when_the_run_goes_on(
    stopped: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, preempted = measure.evaluate, list[int]()

    def preempt(run: Run, *arguments: Any, **options: Any) -> dict[str, float]:
        if run.progress.step == 4 and not preempted:
            preempted.append(4)
            signal.raise_signal(signal.SIGTERM)
        return evaluate(run, *arguments, **options)

    monkeypatch.setattr(measure, "evaluate", preempt)
    recipe = write_recipe(tmp_path / "r.yaml", data=data, text=TEXT + STOPPING)
    with pytest.raises(Preempted):
        finetune(recipe, tmp_path, "name=run")
    resume(tmp_path / "run", [])
    assert preempted == [4]
    assert metrics(tmp_path / "run") == metrics(stopped)
    assert differences(checkpoint(tmp_path / "run", 8).state, checkpoint(stopped, 8).state) == []


def test_a_run_whose_stages_ended_early_has_ended(stopped: Path) -> None:
    with pytest.raises(RecipeError, match="its schedule has 8 steps and the run is at step 8") as caught:
        resume(stopped, [])
    assert "`stages.1.steps=8` plans a longer stage" in str(caught.value.hint)


def test_later_stages_may_change_and_finished_ones_may_not(whole: Path, tmp_path: Path) -> None:
    run = cut_off(whole, tmp_path / "cut", after=6)
    longer = "stages=[{name: general, steps: 9}, {name: target, steps: 6, lr_scale: 0.3}, {name: more, steps: 3}]"
    resume(run, [longer])
    rows = steps_of(run)
    assert [row["train/stage"] for row in rows] == 4 * [1] + 6 * [2] + 3 * [3]  # general had ended after 4
    target = [cosine(step, total=6, peak=0.3e-3) for step in range(2, 6)]
    assert [row["optim/lr/model/default"] for row in rows][6:10] == pytest.approx(target, rel=1e-12)
    other = cut_off(whole, tmp_path / "other", after=6)
    with pytest.raises(CheckpointError, match="has already finished the stages `general`"):
        resume(other, ["stages=[{name: first, steps: 4}, {name: target, steps: 4}]"])


def test_a_stage_added_to_a_finished_run_is_entered(whole: Path, tmp_path: Path) -> None:
    run = cut_off(whole, tmp_path / "copy", after=STEPS)
    stages = json.loads((run / "plan.json").read_text())["recipe"]["stages"]
    more = [*stages, {"name": "polish", "steps": 3, "data": {"max_s": SHORT_S}}]
    resume(run, [f"stages={json.dumps(more)}"])
    assert [row["train/stage"] for row in steps_of(run)][-3:] == [4, 4, 4]
    assert checkpoint(run, STEPS + 3).state["loader"]["stage"] == "polish"


def test_reset_step_begins_with_the_first_stage_again(whole: Path, tmp_path: Path) -> None:
    run = cut_off(whole, tmp_path / "copy", after=STEPS)
    fresh = resume(run, [], reset_step=True)
    assert [row["train/stage"] for row in steps_of(fresh)] == 4 * [1] + 4 * [2] + 3 * [3]
    lrs, first = ([row["optim/lr/model/default"] for row in steps_of(one)] for one in (fresh, whole))
    assert lrs == first


def test_a_rollback_never_leaves_its_stage(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, attempts = FlowTask.losses, []

    def spoiled(self: FlowTask, batch: Any) -> Any:
        for loss in losses(self, batch):
            attempts.append(batch)
            bad = 10 <= len(attempts) < 16  # of two micro-batches each: the first three attempts at step 6
            yield Loss(loss.value * math.nan if bad else loss.value)

    monkeypatch.setattr(FlowTask, "losses", spoiled)
    run = finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=100", "guard.examine=0")
    (incident,) = [
        json.loads(file.read_text()) for file in (run / "incidents").iterdir() if "rollback" in file.read_text()
    ]
    assert incident["restored_step"] == 4
    rows = steps_of(run)
    assert [row["train/stage"] for row in rows][-7:] == 4 * [2] + 3 * [3]
    assert rows[-1]["step"] == STEPS


def test_the_resolved_recipe_says_the_same_stages(data: Path, tmp_path: Path) -> None:
    text = TEXT + "\nstages: [{name: a, share: 0.25}, {name: b, share: 0.75, only: [text]}]\n"
    recipe = write_recipe(tmp_path / "r.yaml", data=data, text=text)
    run = finetune(recipe, tmp_path, "name=r", "train.steps=12")
    assert [row["train/stage"] for row in steps_of(run)] == 3 * [1] + 9 * [2]
    written = (run / "recipe.yaml").read_text()
    assert "steps: 3\n" in written
    assert "steps: 9\n" in written
    again = cut_off(run, tmp_path / "cut", after=3)
    resume(again, [])
    assert metrics(again) == metrics(run)


# ---------------------------------------------------------------- for people


def test_the_command_line_shows_stages_and_how_they_ended(data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", data=data, text=TEXT + STOPPING)
    done = ttstrain("finetune", recipe, "name=run", "--run-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "stage 2 of 2, `target`: steps 4 to 8, of 8" in said
    assert "done: step 8/8" in said
    assert "stages: general 4 of 20 steps target 4 steps" in said


@pytest.mark.parametrize(
    ("stage", "message", "hint"),
    [
        ("only: [txt]", "names `txt`, which matches no trained parameter group", "did you mean `text`?"),
        ("frozen: ['*']", "stage `s` freezes every parameter group", "remove groups"),
        ("frozen: [discriminator/text]", "names `discriminator/text`", "`model/text`, `model/default`"),
        ("data: {speakers: [anna]}", "no clip has `anna`", "the data name none"),
        ("data: {min_s: 60}", "leaves stage `s` nothing to train on", "`min_s` lets 0 of 6 clips pass"),
        ("data: {clips: ['x*']}", "pattern `x*` matches no clip", "ids look like"),
        (
            "schedule: {warmup_steps: 9}",
            "the warmup of group `model/text` takes 9 steps and stage `s` has 3",
            "stages.0",
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused(data: Path, tmp_path: Path, stage: str, message: str, hint: str) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", data=data, text=f"{TEXT}\nstages: [{{name: s, steps: 3, {stage}}}]\n")
    with pytest.raises(RecipeError) as caught:
        finetune(recipe, tmp_path, "name=r")
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert not (tmp_path / "r").exists()
