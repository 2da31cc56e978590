"""Refuse a run that cannot work, before it starts, with a hint on how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ttstrain import registry
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data.text_summary import check_texts
from ttstrain.errors import DataError, RecipeError
from ttstrain.optim.settings import FINDS_LR, READS_BETAS, READS_EPS, READS_MOMENTUM, settings_of
from ttstrain.optim.stages import Curriculum, Place, Stage, check_groups, steps_of
from ttstrain.plan.plan import DataFacts, GroupPlan, Plan
from ttstrain.recipe.faults import read_faults
from ttstrain.recipe.schema import (
    JUDGE,
    ChainedLinear,
    CosineRestarts,
    Exponential,
    OptimConfig,
    OptimizerKind,
    Schedule,
)

LR_FLOOR = 1e-3  # share of the peak LR below which nothing is learnt
FLOOR_SHARE = 0.05  # largest share of the run below the floor: a cosine to zero spends 2 % there, which is normal
CURVE_POINTS = 2000  # updates looked at; enough to measure a share of a long run

MOST_STEPS = 100_000_000
# Peak LRs that no run recovers from: for all weights of a base, for adapters over it, for a net from scratch. Adam
# and its like move every weight by about the LR in each update, whatever the gradient; the others move it by less.
HIGHEST_LR = (5e-3, 5e-2, 0.1)
HIGHEST_LR_OF: Mapping[OptimizerKind, tuple[float, float, float]] = {
    "muon": (5e-2, 5e-2, 0.5),
    "prodigy": (1e3, 1e3, 1e3),  # a factor of what it finds, as high as the schema allows
    "scaled_adam": (0.1, 0.1, 0.5),
    "sgd": (1.0, 1.0, 1.0),
}
MEASURED = ("loss", "ema_loss", "retention", "ema_retention", "stage")  # kinds of eval metrics: `eval/<kind>/...`


def check_read(recipe: ResolvedRecipe, origins: Mapping[str, str]) -> None:
    """Refuse settings that this run would not use. Raises RecipeError."""
    optim, defaults = recipe.optim, OptimConfig()
    kinds = {override.kind or optim.kind for override in optim.optimizers.values()} or {optim.kind}
    for key, readers in (("betas", READS_BETAS), ("eps", READS_EPS), ("momentum", READS_MOMENTUM)):
        changed = getattr(optim, key) != getattr(defaults, key)
        if changed and _is_set(f"optim.{key}", origins) and not kinds & readers:
            raise RecipeError(
                f"`optim.{key}` is not used by `{', '.join(sorted(kinds))}`",
                hint=f"drop it (`~optim.{key}`); it is used by {', '.join(sorted(readers))}",
            )
    if optim.d_coef != defaults.d_coef and not kinds & FINDS_LR:
        raise RecipeError(
            f"`optim.d_coef` is not used by `{', '.join(sorted(kinds))}`",
            hint=f"drop it (`~optim.d_coef`); it is used by {', '.join(sorted(FINDS_LR))}",
        )
    if recipe.lora is not None and recipe.base is None:
        raise RecipeError("`lora` needs a base, and `base` is not set", hint="name the base weights with `--base PATH`")
    _check_lengths(recipe, origins)
    _check_metrics(recipe, origins)
    if not recipe.stages and (recipe.checkpoint.best or "").startswith("eval/stage/"):
        raise RecipeError(
            f"`checkpoint.best` is `{recipe.checkpoint.best}`, and the recipe has no stages",
            hint="set it to `eval/loss/total`, or give the run `stages`",
        )
    _check_judge(recipe)
    if recipe.eval.every is not None:
        return
    if recipe.checkpoint.best not in (None, JUDGE) and _is_set("checkpoint.best", origins):
        raise RecipeError(
            "`checkpoint.best` needs evaluations, and `eval.every` is null", hint="set `eval.every=auto`, or drop one"
        )
    if recipe.train.early_stop is not None and recipe.train.early_stop.metric != JUDGE:
        raise RecipeError(
            "`train.early_stop` needs evaluations, and `eval.every` is null", hint="set `eval.every=auto`, or drop one"
        )
    for index, stage in enumerate(recipe.stages):
        if stage.early_stop is not None and stage.early_stop.metric != JUDGE:
            raise RecipeError(
                f"`stages.{index}.early_stop` needs evaluations, and `eval.every` is null",
                hint="set `eval.every=auto`, or drop one",
            )


def _check_judge(recipe: ResolvedRecipe) -> None:
    """Refuse a judge that would have nothing to listen to, and a choice by one that does not listen."""
    silent = recipe.sample.every is None
    if (key := registry.planner_of(recipe).lacks_for_speech()) and (
        recipe.judge.enabled is True or recipe.checkpoint.best == JUDGE
    ):
        asked = "checkpoint.best" if recipe.checkpoint.best == JUDGE else "judge.enabled"
        raise RecipeError(
            f"`{asked}` needs generated speech, and this model generates none without `{key}`, which is not set",
            hint=f"set `{key}` to a file, an export or a run, or drop `{asked}`",
        )
    if recipe.judge.enabled is True and silent:
        raise RecipeError(
            "`judge.enabled` needs samples, and `sample.every` is null", hint="set `sample.every=auto`, or drop one"
        )
    for place, other in _judged_by(recipe):
        if silent or recipe.judge.enabled is False:
            key = "sample.every=auto" if silent else "judge.enabled=auto"
            raise RecipeError(
                f"`{place}` is `judge`, and the run is not judged", hint=f"set `{key}`, or `{place}={other}`"
            )


def _judged_by(recipe: ResolvedRecipe) -> list[tuple[str, str]]:
    """List (key, another value) of what the judge decides."""
    places = [("checkpoint.best", "eval/loss/total")] if recipe.checkpoint.best == JUDGE else []
    stops = [("train.early_stop.metric", recipe.train.early_stop, "eval/loss/total")]
    stops += [
        (f"stages.{index}.early_stop.metric", stage.early_stop, "eval/stage/total")
        for index, stage in enumerate(recipe.stages)
    ]
    return [*places, *((key, other) for key, stop, other in stops if stop is not None and stop.metric == JUDGE)]


def _check_metrics(recipe: ResolvedRecipe, origins: Mapping[str, str]) -> None:
    """Refuse names of metrics that no evaluation of this run can give; a task's losses are checked at step 0."""
    given = [kind for kind in MEASURED if _is_measured(kind, recipe)]
    for key, metric in _named_metrics(recipe, origins):
        place, _, rest = metric.partition("/")
        kind, _, name = rest.partition("/")
        if place == "eval" and name and kind in (*given, "stage"):  # `stage` has a message of its own
            continue
        why = ""
        if place == "eval" and name and kind in MEASURED:
            why = f": it needs {'`ema.enabled`' if kind == 'ema_loss' else '`data.replay` with clips held out'}"
        raise RecipeError(
            f"`{key}` is `{metric}`, which no evaluation of this run measures{why}",
            hint="its metrics are " + ", ".join(f"`eval/{kind}/<loss>`" for kind in given) + ", such as "
            f"`eval/{given[0]}/total`",
        )


def check_measured(recipe: ResolvedRecipe, origins: Mapping[str, str], measured: Collection[str]) -> None:
    """Refuse names of metrics that are not among those which the first evaluation gave. Raises RecipeError."""
    known = {*measured, *(name.replace("eval/loss/", "eval/stage/") for name in measured if recipe.stages)}
    for key, metric in _named_metrics(recipe, origins):
        if metric not in known:
            names = sorted(name for name in known if name.startswith("eval/"))
            near = difflib.get_close_matches(metric, names, n=1, cutoff=0.9)
            raise RecipeError(
                f"`{key}` is `{metric}`, and evaluations measure {', '.join(f'`{name}`' for name in names)}",
                hint=f"did you mean `{near[0]}`?" if near else f"set `{key}` to one of them",
            )


def _named_metrics(recipe: ResolvedRecipe, origins: Mapping[str, str]) -> list[tuple[str, str]]:
    """List (key, metric) of the metrics for the best checkpoint and early stopping that are set explicitly."""
    named = []
    best = recipe.checkpoint.best
    if best is not None and best != JUDGE and _is_set("checkpoint.best", origins):
        named.append(("checkpoint.best", best))
    if recipe.train.early_stop is not None and recipe.train.early_stop.metric != JUDGE:
        named.append(("train.early_stop.metric", recipe.train.early_stop.metric))
    stops = ((index, stage.early_stop) for index, stage in enumerate(recipe.stages))
    return [
        *named,
        *(
            (f"stages.{index}.early_stop.metric", stop.metric)
            for index, stop in stops
            if stop is not None and stop.metric != JUDGE
        ),
    ]


def _is_measured(kind: str, recipe: ResolvedRecipe) -> bool:
    replay = recipe.data.replay
    needs = {
        "ema_loss": recipe.ema.enabled,
        "retention": replay is not None and replay.holdout > 0,
        "ema_retention": recipe.ema.enabled and replay is not None and replay.holdout > 0,
        "stage": bool(recipe.stages),
    }
    return needs.get(kind, True)


def _check_lengths(recipe: ResolvedRecipe, origins: Mapping[str, str]) -> None:
    """Refuse a recipe that sets both the run's length and its stages' lengths."""
    if not recipe.stages or recipe.stages[0].share is not None:
        return
    for key in ("steps", "epochs"):
        if getattr(recipe.train, key) is not None and _is_set(f"train.{key}", origins):
            raise RecipeError(
                f"`train.{key}` is not used: the stages set the length of the run",
                hint=f"drop it (`~train.{key}`), or give every stage a `share` of it",
            )


def check_data(recipe: ResolvedRecipe, facts: DataFacts) -> None:
    """Refuse data that make no micro-batch, texts that cannot be read, and evaluations without held-out clips."""
    if not facts.frames:
        why = ", ".join(f"{count} {reason}" for reason, count in facts.skipped.items())
        raise DataError(
            "no clip is left to train on" + (f": skipped {why}" if why else ""),
            hint="`ttstrain prepare` says what is wrong with each row; at least 2 clips are needed for a held-out one",
        )
    if facts.texts is not None:
        check_texts(facts.texts)
    budget = recipe.data.batch_frames
    if facts.batches_per_epoch == 0:
        raise RecipeError(
            f"no clip fits a micro-batch: `data.batch_frames` is {budget:,}, "
            f"the shortest clip has {min(facts.frames):,} frames",
            hint=f"`data.batch_frames={max(facts.frames)}` is enough for every clip",
        )
    if facts.replay is not None and facts.replay.num_clips == 0:
        raise RecipeError(
            "`data.replay`: no clip is left for training",
            hint=f"{facts.replay.num_overlong} do not fit `data.batch_frames`, {facts.replay.num_holdout} are held out",
        )
    measured = facts.num_holdout + (0 if facts.replay is None else facts.replay.num_holdout)
    if measured == 0 and isinstance(recipe.eval.every, int):
        raise RecipeError(
            "`eval.every` is set, but no clip is held out",
            hint="set `data.holdout`, or add clips; `eval.every=null` trains without a held-out loss",
        )
    if facts.num_holdout == 0 and recipe.train.early_stop is not None:
        raise RecipeError(
            "`train.early_stop` is set, but no clip is held out",
            hint="set `data.holdout`, or add clips; `train.early_stop=null` trains to the last step",
        )
    _check_stages(recipe, facts)


def _check_stages(recipe: ResolvedRecipe, facts: DataFacts) -> None:
    for index, (stage, found) in enumerate(zip(recipe.stages, facts.stages, strict=True)):
        if found.num_clips == 0:
            raise RecipeError(
                f"`data.batch_frames` {recipe.data.batch_frames:,} is too small for every clip of stage `{stage.name}`",
                hint=f"`data.batch_frames={max(facts.frames)}` is enough for every clip",
            )
        stop = stage.early_stop
        if stop is not None and stop.metric.startswith("eval/stage/") and found.num_holdout == 0:
            raise RecipeError(
                f"`stages.{index}.early_stop`: none of the {facts.num_holdout} held-out clips belongs to stage "
                f"`{stage.name}`",
                hint="hold out more clips (`data.holdout`), or set its `metric: eval/loss/total`, which is of all",
            )


def check_plan(plan: Plan) -> None:
    """Refuse a plan whose length, learning rates, parameter groups or EMA cannot work. Raises RecipeError."""
    for name, other in _judged_by(plan.recipe):
        if plan.sample_every is None:
            raise RecipeError(
                f"`{name}` is `judge`, and there is no sentence to generate: nothing is held out",
                hint=f"hold clips out (`data.holdout`), or set `{name}={other}`",
            )
    if plan.steps > MOST_STEPS:
        raise RecipeError(
            f"the run would have {plan.steps:,} steps", hint=f"give it {MOST_STEPS:,} at most, or fewer `train.epochs`"
        )
    registry.planner_of(plan.recipe).check_run(plan.recipe, steps=plan.steps)
    if not _trained(plan):
        raise RecipeError(
            "every parameter group is frozen: nothing would be trained",
            hint="remove `frozen` from at least one rule of `optim.groups`",
        )
    for group in plan.groups:
        if isinstance(group.frozen, tuple) and group.frozen[0] >= plan.steps:
            raise RecipeError(
                f"group `{group.name}` is frozen from step {group.frozen[0]:,}, but the run has {plan.steps:,} steps",
                hint="lower the start of `frozen`, or drop it: it has no effect",
            )
    check_groups(plan.stages, _trained(plan))
    for place in Curriculum(plan.stages).places():
        if place.stage.steps < 1:
            raise RecipeError(
                f"stage `{place.stage.name}` has zero steps",
                hint=f"raise `stages.{place.index}.share`, or drop the stage",
            )
        for group in _trained(plan):
            if place.stage.trains(group):
                _check_height(group, plan, place)
                _check_warmup(group, plan, place)
                _check_floor(group, plan, place)
    _check_ema(plan)
    _check_faults(plan)


def _check_faults(plan: Plan) -> None:
    """Refuse a fault that is due after the run's last step."""
    for fault in read_faults(plan.recipe.debug.inject):
        if fault.step > plan.steps:
            raise RecipeError(
                f"`debug.inject`: `{fault}` comes after the last step, and the run has {plan.steps:,} steps",
                hint="name an earlier step, or give the run more `train.steps`",
            )


def check_resume(plan: Plan, step: int, *, ended: Sequence[Sequence[Any]] = (), owes_evaluation: bool = False) -> None:
    """Refuse to continue at `step` if the schedule has ended there, or if only its floor is left.

    `ended` are the finished stages, each with its last step. A complete run that `owes_evaluation` is not refused: its
    last evaluation is missing. Raises RecipeError with the LR that would be used and three ways to continue.
    """
    curriculum = Curriculum(plan.stages, ended=steps_of(plan.stages, ended))
    total = curriculum.total_steps
    left = range(step, total)
    if owes_evaluation and not left:
        return
    if left and any(not _all_below_floor(group, curriculum, first=step) for group in _trained(plan)):
        return
    lrs = ", ".join(f"{_lr_text(group, curriculum, step, plan)} for `{group.key}`" for group in _trained(plan))
    ended_how = (
        f"its schedule has {total:,} steps and the run is at step {step:,}"
        if not left
        else f"from step {step:,} on, its schedule stays below {LR_FLOOR:g} of the peak"
    )
    longer = _longer(plan, len(plan.stages) - 1, run_steps=max(2 * total, step + total))
    constant = "optim.schedule.kind=constant"
    if plan.staged:
        constant = f"'stages.{len(plan.stages) - 1}.schedule={{kind: constant}}'"
    raise RecipeError(
        f"this run has ended: {ended_how}; the next update would use LR {lrs}",
        hint=(
            "three ways to continue: `--reset-step` restarts the schedule and keeps weights and optimizer state; "
            f"`{longer}` plans a longer {'stage' if plan.staged else 'run'}; "
            f"`{longer} {constant}` continues at the peak LR"
        ),
    )


def _lr_text(group: GroupPlan, curriculum: Curriculum, step: int, plan: Plan) -> str:
    """Write the LR of an update; of an optimizer that finds its LR, the factor of what it finds."""
    found = settings_of(plan.recipe.optim, group.optimizer).kind in FINDS_LR
    return f"{curriculum.lr_of(group, step):.3g}{' × what the optimizer finds' if found else ''}"


def _longer(plan: Plan, index: int, *, run_steps: int, times: int = 2) -> str:
    """Write the override that makes a stage that many times as long, with the key that sets its length.

    Where that is a share of the run, or where there are no stages, the run gets `run_steps`.
    """
    stages = plan.recipe.stages
    if not stages or stages[index].share is not None:
        return f"train.steps={min(run_steps, MOST_STEPS)}"
    if (epochs := stages[index].epochs) is not None:
        return f"stages.{index}.epochs={times * epochs:g}"
    return f"stages.{index}.steps={min(times * plan.stages[index].steps, MOST_STEPS)}"


def _check_height(group: GroupPlan, plan: Plan, place: Place) -> None:
    """Refuse a peak LR that destroys the weights. Raises RecipeError."""
    recipe = plan.recipe
    kind = settings_of(recipe.optim, group.optimizer).kind
    where = ("all weights of a base", "adapters", "from scratch")[_start(recipe)]
    highest = highest_lr(recipe, group.optimizer)
    peak = place.stage.peak_lr(group)
    if peak > highest:
        raise RecipeError(
            f"group `{group.key}` would train at LR {peak:g}: above {highest:g}, training {where} with `{kind}` "
            "destroys the model",
            hint="the shipped recipes use 5e-6 to 2e-4 (`ttstrain recipes show NAME`): lower `optim.lr`",
        )


def highest_lr(recipe: ResolvedRecipe, optimizer: str) -> float:
    """Return the highest peak LR that a plan accepts for an optimizer's groups."""
    return HIGHEST_LR_OF.get(settings_of(recipe.optim, optimizer).kind, HIGHEST_LR)[_start(recipe)]


def _start(recipe: ResolvedRecipe) -> int:
    """Return the place in `HIGHEST_LR` for what is trained: all weights of a base, adapters, a net from scratch."""
    if recipe.lora is not None:
        return 1
    return 2 if recipe.base is None else 0


def _check_warmup(group: GroupPlan, plan: Plan, place: Place) -> None:
    stage = place.stage
    schedule, warmup = stage.schedule_of(group), stage.warmup_of(group)
    key = _schedule_key(group, plan, place)
    if isinstance(schedule, ChainedLinear) and warmup == 0:
        raise RecipeError(
            f"`{key}.kind: {schedule.kind}` without warmup never leaves {schedule.warmup_start:g} of the peak LR",
            hint=f"set `{key}.warmup_steps=auto`",
        )
    if warmup >= stage.steps and warmup > 0:
        times = -(-10 * warmup // stage.steps)
        longer = f"train longer, `{_longer(plan, place.index, times=times, run_steps=times * plan.steps)}`"
        if not plan.staged:
            longer = f"train longer, `train.steps={min(10 * warmup, MOST_STEPS)}`"
        raise RecipeError(
            f"the warmup of group `{group.key}` takes {warmup:,} steps and {_what(stage)} has {stage.steps:,}: "
            f"the LR never reaches its peak of {stage.peak_lr(group):g}",
            hint=f"`{key}.warmup_steps=auto` warms up for 5 % of {_what(stage)}; or {longer}",
        )


def _check_floor(group: GroupPlan, plan: Plan, place: Place) -> None:
    stage = place.stage
    stride = max(stage.steps // CURVE_POINTS, 1)
    steps = range(stage.warmup_of(group), stage.steps, stride)
    peak = stage.peak_lr(group)
    below = [step for step in steps if stage.lr_of(group, step) < LR_FLOOR * peak]
    if len(below) * stride <= FLOOR_SHARE * stage.steps or len(below) == 1:
        return
    key = _schedule_key(group, plan, place)
    raise RecipeError(
        f"from step {below[0]:,} of {stage.steps:,}{f' in {_what(stage)}' if plan.staged else ''} on, group "
        f"`{group.key}` would train below {LR_FLOOR:g} of its peak LR of {peak:g}",
        hint=f"{_raise_floor(stage.schedule_of(group), key)}, or train for fewer steps",
    )


def _what(stage: Stage) -> str:
    return f"stage `{stage.name}`" if stage.name else "the run"


def _check_ema(plan: Plan) -> None:
    if plan.ema_horizon is None:
        return
    start = plan.recipe.ema.start_step
    if start >= plan.steps:
        raise RecipeError(
            f"the EMA starts at step {start:,}, but the run has {plan.steps:,} steps",
            hint="lower `ema.start_step`, or set `ema.enabled=false`",
        )
    if plan.ema_horizon > plan.steps - start:
        raise RecipeError(
            f"`ema.decay` {plan.ema_decay:g} averages over {plan.ema_horizon:,} steps, but the run has "
            f"{plan.steps - start:,}: the EMA weights would stay near the base weights",
            hint="`ema.decay=auto` averages over a tenth of the run",
        )


def _raise_floor(schedule: Schedule, key: str) -> str:
    if isinstance(schedule, Exponential):
        return f"raise `{key}.gamma`"
    if isinstance(schedule, CosineRestarts):
        return f"raise `{key}.eta_min`"
    return (
        f"raise `{key}.end_factor`" if "end_factor" in type(schedule).model_fields else f"choose another `{key}.kind`"
    )


def _schedule_key(group: GroupPlan, plan: Plan, place: Place) -> str:
    """Name the recipe's key that holds the schedule a group follows in a stage."""
    if place.stage.schedule is not None:
        return f"stages.{place.index}.schedule"
    names = [rule.name for rule in plan.recipe.optim.groups if rule.schedule is not None]
    if group.name not in names:
        return "optim.schedule"
    index = [rule.name for rule in plan.recipe.optim.groups].index(group.name)
    return f"optim.groups.{index}.schedule"


def _trained(plan: Plan) -> list[GroupPlan]:
    return [group for group in plan.groups if group.frozen is not True]


def _all_below_floor(group: GroupPlan, curriculum: Curriculum, *, first: int) -> bool:
    """Tell whether a group stays below its floor to the end; where it is frozen, it does."""
    last = curriculum.total_steps
    stride = max((last - first) // CURVE_POINTS, 1)
    return all(_below_floor(group, curriculum, step) for step in range(first, last, stride))


def _below_floor(group: GroupPlan, curriculum: Curriculum, step: int) -> bool:
    return curriculum.lr_of(group, step) < LR_FLOOR * curriculum.at(step).stage.peak_lr(group)


def _is_set(key: str, origins: Mapping[str, str]) -> bool:
    return origins.get(key, "default") != "default"
