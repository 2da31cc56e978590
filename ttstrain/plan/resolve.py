"""From a composed recipe to a plan: check it against the schema, then resolve every `auto`. Pure.

What `auto` means:

* `train.steps`: 50 passes over an hour of data, fewer over more (hours ** -0.4): 125 over six minutes, 20 over ten
  hours, 8 over a hundred. Between 5 and 200 passes, and never under 400 steps.
* warmup: see `ttstrain.optim.schedule.warmup_length`.
* `ema.decay`: a horizon of a tenth of the run, between 10 and 10,000 steps.
* `eval.every`, `checkpoint.every`: about ten times in the run, at least every 1000 steps; samples half as often.
* `guard.snapshot_every`: 100 steps, or a tenth of the run when that is less.
* `train.parallel.shard`: see `ttstrain.plan.sharding.choose_sharding`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from ttstrain import registry
from ttstrain.contract.model import ComparesMemory, ResolvedRecipe
from ttstrain.data.formats import AUTO, choices
from ttstrain.errors import RecipeError
from ttstrain.optim.schedule import warmup_length
from ttstrain.optim.settings import peak_lr, settings_of
from ttstrain.optim.stages import Stage
from ttstrain.plan.complaints import complaint, known_keys, no_such_choice
from ttstrain.plan.estimate import checkpoint_bytes, memory_bytes, num_checkpoints
from ttstrain.plan.faster import check_faster
from ttstrain.plan.mixing import auxiliary_ratio, clip_share, solve_shares
from ttstrain.plan.parallel import check_parallel, memory_by_shards
from ttstrain.plan.parameters import count_parameters, trainable_names
from ttstrain.plan.plan import DataFacts, GroupPlan, Plan
from ttstrain.plan.refuse import check_data, check_plan, check_read
from ttstrain.plan.sharding import NO_GPU, Room, choose_sharding
from ttstrain.plan.small_cards import check_small_cards
from ttstrain.recipe.compose import Composed
from ttstrain.recipe.schema import GroupRule, OptimConfig, Recipe

DEFAULT = "default"  # the origin of a value that is set nowhere
DEFAULT_GROUP = "default"  # as in `ttstrain.optim.groups`, which imports torch

PASSES_OVER_ONE_HOUR = 50.0
FEWEST_PASSES, MOST_PASSES = 5.0, 200.0
FEWEST_STEPS = 400
EMA_HORIZON_SHARE = 0.1
EMA_HORIZONS = (10, 10_000)  # steps


def parse(composed: Composed) -> ResolvedRecipe:
    """Check a composed recipe against the schema, its `model:` section against that of its task.

    Raises RecipeError that names the key, the file and line, and the nearest known key, or a place that the task's
    features cannot be read from.
    """
    try:
        recipe = Recipe.model_validate(composed.values)
    except ValidationError as error:
        known = [*known_keys(Recipe), *_model_keys(composed.values.get("task"))]
        raise complaint(error, values=composed.values, places=composed.places, known=known) from error
    _check_formats(recipe, composed.places)
    spec = registry.find_task(recipe.task)
    try:
        model = spec.read_model(recipe.model)
    except ValidationError as error:
        known = [*_model_keys(recipe.task), *known_keys(Recipe)]
        raise complaint(error, values=recipe.model, places=composed.places, known=known, at=("model",)) from error
    if recipe.data.features == "device" and spec.planner(model).features_on_host:
        raise RecipeError(
            f"`data.features=device` is not for `{recipe.task}`: its rows of tokens are laid out on the host",
            hint="use `data.features=memory`: a row is a few kilobytes, and nothing would be gained on the device",
        )
    if recipe.train.compile:
        _check_compile(recipe, compiles=spec.planner(model).compiles)
    resolved = ResolvedRecipe.of(recipe, model)
    check_faster(resolved)
    return resolved


def _check_compile(recipe: Recipe, *, compiles: bool) -> None:
    """Refuse `train.compile` where blocks cannot be compiled."""
    if not compiles:
        raise RecipeError(
            f"`train.compile` is not for `{recipe.task}`: its blocks would be compiled anew for nearly every batch",
            hint="leave `train.compile` out",
        )
    if recipe.train.parallel.shard != 1:
        raise RecipeError(
            "`train.compile` and `train.parallel.shard` do not go together: blocks whose weights are gathered for each "
            "use are not compiled",
            hint="leave one of them out",
        )


def _check_formats(recipe: Recipe, places: Mapping[str, str]) -> None:
    """Refuse data layouts that neither ttstrain nor a family can read."""
    named = {"data.format": recipe.data.format}
    if recipe.data.replay is not None:
        named["data.replay.format"] = recipe.data.replay.format
    for key, written in named.items():
        if written != AUTO and written not in (known := choices()):
            raise no_such_choice(key, written, known, places)


def _model_keys(task: Any) -> list[str]:
    spec = registry.tasks().get(task) if isinstance(task, str) else None
    return [] if spec is None else known_keys(spec.config, "model")


def resolve(
    recipe: ResolvedRecipe,
    *,
    origins: Mapping[str, str],
    facts: DataFacts,
    world_size: int = 1,
    source_name: str = "recipe",
    room: Room = NO_GPU,
) -> Plan:
    """Resolve every `auto` of a recipe, and refuse a run that cannot train.

    `source_name` names the run when the recipe does not, and `room` is what `train.parallel.shard: auto` depends on.
    Raises RecipeError with a hint, DataError when there is nothing to train on.
    """
    check_read(recipe, origins)
    check_small_cards(recipe)
    check_data(recipe, facts)
    check_parallel(recipe, world_size)
    accumulate = _accumulate(recipe, world_size)
    batches_per_step = accumulate * world_size
    planner = registry.planner_of(recipe)
    ratio = auxiliary_ratio(planner)
    steps_per_epoch = facts.batches_per_epoch / batches_per_step / clip_share(ratio)
    stages = tuple(_stages(recipe, facts, batches_per_step, ratio))
    steps = sum(stage.steps for stage in stages)
    groups = tuple(_groups(recipe))
    decay, horizon = _ema(recipe, steps)
    parameters = count_parameters(recipe)
    weight_bytes = planner.weight_bytes()
    memory = memory_bytes(recipe, parameters, lengths=facts.frames, accumulate=accumulate, weight_bytes=weight_bytes)
    sharding = choose_sharding(recipe, memory, world_size=world_size, weight_bytes=weight_bytes, room=room)
    save_every = _every(recipe.checkpoint.every, steps, times=10, at_least_every=1000)
    kept = num_checkpoints(recipe.checkpoint, steps=steps, save_every=save_every)
    plan = Plan(
        recipe=recipe,
        origins=_complete_origins(recipe, origins),
        name=recipe.name or source_name,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        stages=stages,
        warmup_steps=warmup_length(stages[0].schedule or recipe.optim.schedule, stages[0].steps),
        eval_every=_eval_every(recipe, facts, steps),
        sample_every=_sample_every(recipe, facts, steps),
        save_every=save_every,
        snapshot_every=_snapshot_every(recipe, steps),
        ema_decay=decay,
        ema_horizon=horizon,
        groups=groups,
        facts=facts,
        world_size=world_size,
        sharding=sharding,
        accumulate=accumulate,
        parameters=parameters,
        memory=memory_by_shards(memory, recipe, shard=sharding.degree, weight_bytes=weight_bytes),
        disk_bytes=kept * checkpoint_bytes(recipe, parameters, weight_bytes=weight_bytes),
        num_checkpoints=kept,
        schemes=tuple(planner.memory_schemes(recipe, parameters)) if isinstance(planner, ComparesMemory) else (),
    )
    check_plan(plan)
    return plan


def _accumulate(recipe: ResolvedRecipe, world_size: int) -> int:
    """Return the micro-batches per step and device: the recipe's number, or the one nearest to its frames per step."""
    wanted = recipe.train.step_frames
    if wanted is None:
        return recipe.train.accumulate
    at_once = recipe.data.batch_frames * world_size
    if 2 * wanted < at_once:
        raise RecipeError(
            f"`train.step_frames` {wanted:,} is less than half of what {world_size} processes take, {at_once:,}",
            hint="lower `data.batch_frames`, or start fewer processes",
        )
    return max(1, round(wanted / at_once))


def _stages(
    recipe: ResolvedRecipe, facts: DataFacts, batches_per_step: int, ratio: Callable[[float], float]
) -> Iterator[Stage]:
    """Yield the parts of the run, each with its length in steps.

    Where auxiliary data is mixed in, at a ratio that changes over the run, a pass over the clips takes more steps.
    """
    whole = facts.batches_per_epoch / batches_per_step / clip_share(ratio)
    if not recipe.stages:
        steps = _steps(recipe, facts, whole)
        yield Stage("", steps=steps, steps_per_epoch=whole, early_stop=recipe.train.early_stop)
        return
    of_clips = [found.batches_per_epoch / batches_per_step for found in facts.stages]

    def lengths_for(shares: Sequence[float]) -> list[int]:
        return _stage_steps(recipe, facts, whole, [own / share for own, share in zip(of_clips, shares, strict=True)])

    shares = solve_shares(ratio, lengths_for, parts=len(of_clips))
    own = [steps / share for steps, share in zip(of_clips, shares, strict=True)]
    for stage, steps, steps_per_epoch in zip(recipe.stages, lengths_for(shares), own, strict=True):
        yield Stage(
            name=stage.name,
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            lr_scale=stage.lr_scale,
            group_lr_scale=stage.group_lr_scale,
            frozen=tuple(stage.frozen),
            only=tuple(stage.only),
            schedule=stage.schedule,
            early_stop=stage.early_stop or recipe.train.early_stop,
        )


def _stage_steps(recipe: ResolvedRecipe, facts: DataFacts, steps_per_epoch: float, own: Sequence[float]) -> list[int]:
    """Return each stage's length; shares are rounded so that they add up to the run's."""
    shares = [stage.share for stage in recipe.stages if stage.share is not None]
    if shares:
        total = _steps(recipe, facts, steps_per_epoch)
        ends = [round(sum(shares[: index + 1]) * total) for index in range(len(shares))]
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [
        stage.steps if stage.steps is not None else _whole_epochs(stage.epochs or 0.0, per_epoch)
        for stage, per_epoch in zip(recipe.stages, own, strict=True)
    ]


def _whole_epochs(epochs: float, steps_per_epoch: float) -> int:
    return math.ceil(epochs * steps_per_epoch - 1e-9)  # three epochs of 37/3 steps are 37 steps


def _steps(recipe: ResolvedRecipe, facts: DataFacts, steps_per_epoch: float) -> int:
    if isinstance(recipe.train.steps, int):
        return recipe.train.steps
    if recipe.train.epochs is not None:
        return _whole_epochs(recipe.train.epochs, steps_per_epoch)
    passes = PASSES_OVER_ONE_HOUR * facts.hours**-0.4
    passes = min(max(passes, FEWEST_PASSES), MOST_PASSES)
    return max(_two_digits(passes * steps_per_epoch), FEWEST_STEPS)


def _two_digits(value: float) -> int:
    """Round to two significant digits."""
    unit = 10 ** max(math.floor(math.log10(value)) - 1, 0) if value >= 1 else 1
    return round(value / unit) * unit


def _every(setting: int | str, steps: int, *, times: int, at_least_every: int) -> int:
    """Return a set interval, or a round one (1, 2, 5 times a power of ten) that comes about `times` times in a run."""
    if isinstance(setting, int):
        return setting
    wanted = max(min(steps / times, at_least_every), 1)
    power = int(10 ** math.floor(math.log10(wanted)))
    return max(unit * power for unit in (1, 2, 5) if unit * power <= wanted)


def _eval_every(recipe: ResolvedRecipe, facts: DataFacts, steps: int) -> int | None:
    num_retained = 0 if facts.replay is None else facts.replay.num_holdout
    if recipe.eval.every is None or facts.num_holdout + num_retained == 0:
        return None
    return _every(recipe.eval.every, steps, times=10, at_least_every=1000)


def _sample_every(recipe: ResolvedRecipe, facts: DataFacts, steps: int) -> int | None:
    sentences = recipe.sample.texts or (facts.num_holdout and recipe.sample.count)
    if recipe.sample.every is None or not sentences or registry.planner_of(recipe).lacks_for_speech():
        return None
    return _every(recipe.sample.every, steps, times=5, at_least_every=2000)


def _snapshot_every(recipe: ResolvedRecipe, steps: int) -> int:
    every = recipe.guard.snapshot_every
    return every if isinstance(every, int) else min(100, max(steps // 10, 1))


def _ema(recipe: ResolvedRecipe, steps: int) -> tuple[float | None, int | None]:
    """Return the EMA's decay and its horizon, the number of steps it averages over."""
    if not recipe.ema.enabled:
        return None, None
    if isinstance(recipe.ema.decay, float):
        return recipe.ema.decay, round(1 / (1 - recipe.ema.decay))
    shortest, longest = EMA_HORIZONS
    horizon = min(max(round(EMA_HORIZON_SHARE * steps), shortest), longest, steps)
    return 1 - 1 / horizon, horizon


def _groups(recipe: ResolvedRecipe) -> Iterator[GroupPlan]:
    """List the non-empty parameter groups of every optimizer of the task; the group that no rule matches is last."""
    optim = recipe.optim
    optimizers = registry.planner_of(recipe).optimizers()
    _check_optimizers(optim, optimizers)
    names = trainable_names(recipe)
    rule_of = {name: _first_rule(name, optim.groups) for name in names}
    for optimizer, patterns in optimizers.items():
        settings = settings_of(optim, optimizer)
        own = [rule_of[name] for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for rule in [rule for rule in optim.groups if any(rule is other for other in own)]:
            yield GroupPlan(
                optimizer=optimizer,
                name=rule.name,
                lr=peak_lr(rule, settings),
                weight_decay=settings.weight_decay if rule.weight_decay is None else rule.weight_decay,
                schedule=rule.schedule or optim.schedule,
                frozen=rule.frozen,
                layer_decay=rule.layer_decay,
            )
        if None in own:
            yield GroupPlan(optimizer, DEFAULT_GROUP, settings.lr, settings.weight_decay, optim.schedule)


def _first_rule(name: str, rules: Sequence[GroupRule]) -> GroupRule | None:
    matching = (rule for rule in rules if any(fnmatchcase(name, pattern) for pattern in rule.match))
    return next(matching, None)


def _check_optimizers(optim: OptimConfig, known: Mapping[str, Sequence[str]]) -> None:
    for name in optim.optimizers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(
                f"`optim.optimizers.{name}`: the task has no such optimizer",
                hint=f"did you mean `{near[0]}`?" if near else f"its optimizers: {', '.join(known)}",
            )


def _complete_origins(recipe: ResolvedRecipe, origins: Mapping[str, str]) -> dict[str, str]:
    """Give every leaf of the recipe an origin; a value that is set nowhere is a default."""
    complete = dict(origins)
    for key in leaves(recipe.model_dump(mode="json")):
        complete.setdefault(key, DEFAULT)
    return complete


def leaves(values: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values that are no sections; a list is one value."""
    for key, value in values.items():
        dotted = f"{at}.{key}" if at else key
        if isinstance(value, Mapping) and value:
            yield from leaves(value, dotted)
        else:
            yield dotted
