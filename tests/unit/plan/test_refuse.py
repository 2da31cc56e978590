from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ttstrain.errors import DataError, RecipeError
from ttstrain.plan.plan import DataFacts, Plan, StageFacts
from ttstrain.plan.refuse import check_resume
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import Cosine

MakePlan = Callable[..., Plan]


def refused(make_plan: MakePlan, *overrides: str, recipe: str = "", **facts: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        make_plan(*overrides, recipe=recipe, **facts)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("warmup", [100, 250])
def test_warmup_as_long_as_the_run_is_refused(make_plan: MakePlan, warmup: int) -> None:
    error = refused(make_plan, "train.steps=100", f"optim.schedule.warmup_steps={warmup}")
    assert "never reaches its peak" in error.message
    assert "`optim.schedule.warmup_steps=auto`" in str(error.hint)
    assert f"train.steps={10 * warmup}" in str(error.hint)


def test_a_groups_own_warmup_is_judged_too(make_plan: MakePlan) -> None:
    recipe = (
        'optim: {groups: [{name: a, match: ["*text_embed*"]}, {name: b, match: ["*.ff.*"], '
        "schedule: {kind: constant, warmup_steps: 100}}]}\n"
    )
    error = refused(make_plan, "train.steps=100", recipe=recipe)
    assert "group `model/b`" in error.message
    assert "`optim.groups.1.schedule.warmup_steps=auto`" in str(error.hint)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 99, 5000])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "cosine_restarts", "wsd", "exponential", "f5_linear"])
def test_what_is_automatic_is_never_refused(make_plan: MakePlan, steps: int, kind: str) -> None:
    if kind == "f5_linear" and steps == 1:  # a warmup of one step is longer than the rest
        return
    assert make_plan(f"train.steps={steps}", f"optim.schedule.kind={kind}").steps == steps


def test_upstreams_schedule_without_warmup_is_refused(make_plan: MakePlan) -> None:
    error = refused(make_plan, "train.steps=100", "optim.schedule.kind=f5_linear", "optim.schedule.warmup_steps=0")
    assert "without warmup never leaves 1e-08 of the peak" in error.message


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_a_decay_to_zero_at_the_very_end_is_allowed(make_plan: MakePlan, kind: str) -> None:
    assert make_plan("train.steps=1000", f"optim.schedule.kind={kind}", "optim.schedule.end_factor=0")


def test_an_lr_that_fades_before_the_end_is_refused(make_plan: MakePlan) -> None:
    error = refused(make_plan, "train.steps=2000", "optim.schedule.kind=exponential", "optim.schedule.gamma=0.8")
    # 20 steps to the epoch: 0.8 ** 31 is the first factor below 1e-3, 31 epochs after the warmup of 100 steps
    assert "from step 720 of 2,000 on" in error.message
    assert "`optim.schedule.gamma`" in str(error.hint)


def test_restarts_may_touch_the_bottom_but_not_stay_there(make_plan: MakePlan) -> None:
    common = ("train.steps=2000", "optim.lr=1e-3", "optim.schedule.kind=cosine_restarts", "optim.schedule.t_0=500")
    assert make_plan(*common, "optim.schedule.eta_min=0", "optim.schedule.t_mult=1")
    assert "above the group's peak LR" in refused(make_plan, *common, "optim.schedule.eta_min=1e-2").message


def test_phases_longer_than_the_run_are_refused(make_plan: MakePlan) -> None:
    error = refused(
        make_plan,
        "train.steps=100",
        "optim.schedule={kind: wsd, warmup_steps: 50, decay_steps: 80}",
    )
    assert "needs 50 steps of warmup and 80 of decay" in error.message


def test_an_average_longer_than_the_run_is_refused(make_plan: MakePlan) -> None:
    error = refused(make_plan, "train.steps=1000", "ema.decay=0.9999")
    assert "averages over 10,000 steps, but the run has 1,000" in error.message
    assert "`ema.decay=auto`" in str(error.hint)
    assert make_plan("train.steps=10000", "ema.decay=0.9999").ema_horizon == 10_000


def test_an_average_that_starts_after_the_end_is_refused(make_plan: MakePlan) -> None:
    assert "starts at step 100" in refused(make_plan, "train.steps=100", "ema.start_step=100").message


def test_a_group_frozen_after_the_end_is_refused(make_plan: MakePlan) -> None:
    recipe = 'optim: {groups: [{name: a, match: ["*.ff.*"], frozen: [100, 200]}]}\n'
    assert "frozen from step 100" in refused(make_plan, "train.steps=100", recipe=recipe).message


def test_a_budget_below_the_shortest_clip_is_refused(make_plan: MakePlan) -> None:
    error = refused(make_plan, "data.batch_frames=99", num_clips=0, batches_per_epoch=0, hours=0.0)
    assert "`data.batch_frames` is 99, the shortest clip has 100 frames" in error.message
    assert error.hint == "`data.batch_frames=298` is enough for every clip"


def test_no_clips_is_an_error_of_the_data(tmp_path: Path, facts: DataFacts) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("task: flow\nextends: [models/f5_tiny]\n", encoding="utf-8")
    composed = compose(path)
    nothing = dataclasses.replace(facts, num_clips=0, frames=(), batches_per_epoch=0)
    with pytest.raises(DataError, match=re.escape("no clip is left to train on: skipped 2 too_short")):
        resolve(parse(composed), origins=composed.origins, facts=nothing)


@pytest.mark.parametrize(
    ("overrides", "facts", "message"),
    [
        (("eval.every=5",), {"num_holdout": 0}, "`eval.every` is set, but no clip is held out"),
        (("train.early_stop={}",), {"num_holdout": 0}, "`train.early_stop` is set, but no clip is held out"),
        (("train.early_stop={}", "eval.every=null"), {}, "`train.early_stop` needs evaluations"),
        (("checkpoint.best=eval/loss/total", "eval.every=null"), {}, "`checkpoint.best` needs evaluations"),
        (("optim.momentum=0.8",), {}, "`optim.momentum` is not used by `adamw`"),
        (("optim.kind=lion", "optim.eps=1e-6"), {}, "`optim.eps` is not used by `lion`"),
        (("optim.kind=sgd", "optim.betas=[0.8, 0.9]"), {}, "`optim.betas` is not used by `sgd`"),
    ],
)
def test_a_setting_that_would_not_be_read_is_refused(
    make_plan: MakePlan, overrides: tuple[str, ...], facts: dict[str, object], message: str
) -> None:
    assert message in refused(make_plan, *overrides, **facts).message


def test_what_is_read_is_allowed(make_plan: MakePlan) -> None:
    assert make_plan("optim.momentum=0.8", "optim.kind=sgd")
    assert make_plan("eval.every=null")
    assert make_plan("optim.momentum=0.9")  # as by default: a resolved recipe names every key


@pytest.mark.parametrize("step", [0, 1, 99])
def test_a_run_that_has_steps_left_goes_on(make_plan: MakePlan, step: int) -> None:
    check_resume(make_plan("train.steps=100"), step)


@pytest.mark.parametrize("step", [100, 150])
def test_a_run_whose_schedule_has_ended_is_refused_with_three_ways_out(make_plan: MakePlan, step: int) -> None:
    plan = make_plan("train.steps=100", "optim.lr=1e-4")
    with pytest.raises(RecipeError, match=f"has 100 steps and the run is at step {step}") as caught:
        check_resume(plan, step)
    assert "LR 1e-05 for `model/default`" in caught.value.message  # a tenth of the peak
    hint = str(caught.value.hint)
    assert "`--reset-step`" in hint
    assert f"`train.steps={step + 100}`" in hint
    assert f"`train.steps={step + 100} optim.schedule.kind=constant`" in hint


def test_upstreams_floor_is_named_when_its_schedule_has_ended(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=100", "optim.lr=1e-4", "optim.schedule.kind=f5_linear")
    with pytest.raises(RecipeError, match="LR 1e-12 for"):
        check_resume(plan, 100)


def test_a_run_that_has_only_its_floor_left_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=1000", "optim.schedule.kind=linear", "optim.schedule.end_factor=0")
    check_resume(plan, 990)
    with pytest.raises(RecipeError, match=re.escape("from step 999 on, its schedule stays below 0.001")):
        check_resume(plan, 999)


def test_the_ways_out_lead_out(make_plan: MakePlan) -> None:
    check_resume(make_plan("train.steps=200"), 100)
    longer = make_plan("train.steps=200", "optim.schedule.kind=constant")
    check_resume(longer, 100)
    assert not isinstance(longer.groups[0].schedule, Cosine)


# ---------------------------------------------------------------- stages

FOUND = (
    StageFacts(num_clips=95, hours=0.5, num_holdout=5, batches_per_epoch=20),
    StageFacts(num_clips=3, hours=0.1, num_holdout=0, batches_per_epoch=1),
)


@pytest.mark.parametrize(
    ("stages", "overrides", "message"),
    [
        ("[{name: a, steps: 9}, {name: b, steps: 9}]", ["train.steps=10"], "`train.steps` is not used"),
        ("[{name: a, steps: 9}, {name: b, steps: 9}]", ["train.epochs=10"], "`train.epochs` is not used"),
        ("[{name: a, share: 0.5}, {name: b, steps: 9}]", [], "give every stage a `share`, or none"),
        ("[{name: a, share: 0.5}, {name: b, share: 0.4}]", [], "the shares add up to 0.9, not to 1"),
        ("[{name: a, steps: 9}, {name: a, steps: 9}]", [], "two have the name `a`"),
        ("[{name: a, steps: 9, epochs: 1}]", [], "has both `steps` and `epochs`"),
        ("[{name: a}]", [], "has no length"),
        ("[{name: a, steps: 9, only: [x], frozen: [y]}]", [], "give `frozen` or `only`, not both"),
        ("[{name: a, share: 0.999}, {name: b, share: 0.001}]", ["train.steps=10"], "stage `b` has zero steps"),
        ("[{name: a, steps: 9}, {name: b, steps: 9, early_stop: {}}]", [], "none of the 5 held-out clips belongs to"),
        (
            "[{name: a, steps: 9, early_stop: {}}, {name: b, steps: 9}]",
            ["eval.every=null"],
            "`stages.0.early_stop` needs evaluations",
        ),
        (
            "[{name: a, steps: 900}, {name: b, steps: 900, schedule: {kind: exponential, gamma: 0.5}}]",
            [],
            "in stage `b` on, group `model/default` would train below 0.001 of its peak",
        ),
    ],
)
def test_stages_that_contradict_are_refused(
    make_plan: MakePlan, stages: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(f"stages={stages}", *overrides, stages=FOUND)
    assert message in caught.value.message


def test_the_best_of_a_stage_needs_stages(make_plan: MakePlan) -> None:
    assert "has no stages" in refused(make_plan, "checkpoint.best=eval/stage/total").message


def test_a_staged_run_has_ended_where_its_stages_did(make_plan: MakePlan) -> None:
    plan = make_plan("stages=[{name: a, steps: 90}, {name: b, steps: 30}]", stages=FOUND)
    check_resume(plan, 69, ended=[("a", 40)])
    with pytest.raises(RecipeError, match="its schedule has 70 steps and the run is at step 70") as caught:
        check_resume(plan, 70, ended=[("a", 40)])
    assert "`stages.1.steps=60` plans a longer stage" in str(caught.value.hint)


# ---------------------------------------------------------------- hints that help

STAGES = {
    "steps": "stages: [{name: a, steps: 20}, {name: b, steps: 20, SCHEDULE}]\n",
    "epochs": "stages: [{name: a, epochs: 1}, {name: b, epochs: 1, SCHEDULE}]\n",
    "share": "train: {steps: 40}\nstages: [{name: a, share: 0.5}, {name: b, share: 0.5, SCHEDULE}]\n",
}
TWO_STAGES = (StageFacts(100, 0.5, 5, 20),) * 2
OVERRIDE = re.compile(r"`((?:~?[a-z]\w*\.)[\w.]+=[^`\s]+)`")


def proposed(error: RecipeError) -> list[str]:
    return OVERRIDE.findall(str(error.hint))


@pytest.mark.parametrize("length", STAGES)
def test_a_stage_is_made_longer_by_the_key_that_says_its_length(make_plan: MakePlan, length: str) -> None:
    schedule = "schedule: {kind: cosine, warmup_steps: 30}"
    recipe = STAGES[length].replace("SCHEDULE", schedule)
    error = refused(make_plan, recipe=recipe, stages=TWO_STAGES)
    *_, longer = proposed(error)
    assert make_plan(longer, recipe=recipe, stages=TWO_STAGES).stages[1].steps >= 300
    ended = STAGES[length].replace(", SCHEDULE", "")
    plan = make_plan(recipe=ended, stages=TWO_STAGES)
    with pytest.raises(RecipeError) as caught:
        check_resume(plan, 40)
    [longer] = proposed(caught.value)
    check_resume(make_plan(longer, recipe=ended, stages=TWO_STAGES), 40)


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (("train.steps=100", "optim.schedule.warmup_steps=100"), {}),
        (("train.steps=100", "optim.schedule={kind: f5_linear, warmup_steps: 0}"), {}),
        (("train.steps=100", "ema.decay=0.9999"), {}),
        (("train.steps=100", "ema.start_step=100"), {}),
        (("train.steps=100", "eval.every=null", "checkpoint.best=eval/loss/total"), {}),
        (("train.steps=100", "checkpoint.best=eval/stage/total"), {}),
        (("train.steps=100", "checkpoint.best=eval/los/total"), {}),
        (("train.steps=100", "data.batch_frames=99"), {"num_clips": 0, "batches_per_epoch": 0, "hours": 0.0}),
    ],
)
def test_a_value_that_a_hint_proposes_is_not_refused(
    make_plan: MakePlan, overrides: tuple[str, ...], facts: dict[str, object]
) -> None:
    for override in proposed(refused(make_plan, *overrides, **facts)):
        key = override.partition("=")[0]
        kept = [given for given in overrides if not given.startswith(f"{key}=")]
        assert make_plan(*kept, override)
