"""Show a plan: one screen for people, a resolved recipe for the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ttstrain import registry
from ttstrain.data.text_summary import text_lines
from ttstrain.layout import LABEL, WIDTH, labelled
from ttstrain.optim.schedule import curve, warmup_length
from ttstrain.optim.settings import FINDS_LR, WITHOUT_SCHEDULE, settings_of
from ttstrain.optim.stages import Curriculum, Place, Stage
from ttstrain.plan.estimate import ACTIVATIONS, OFFLOADED
from ttstrain.plan.faster import faster_notes
from ttstrain.plan.gpu import gpu_memory
from ttstrain.plan.judging import judge_notes, judge_text
from ttstrain.plan.mixing import auxiliary_ratio, clip_share
from ttstrain.plan.plan import ON_HOST, GroupPlan, Plan, ReplayFacts
from ttstrain.plan.small_cards import small_card_notes
from ttstrain.recipe.emit import emit, scalar
from ttstrain.recipe.faults import injected_note, read_faults
from ttstrain.recipe.schema import Constant, OptimizerKind, ReplayConfig, Schedule, base_title
from ttstrain.terminal import on_one_line

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_GROUP = 26
CURVE_WIDTH, CURVE_HEIGHT = 58, 4
MANY_EPOCHS = 200
MUCH_PADDING = 0.2
SHOWN_ABOVE = (("recipe", "task"), ("recipe", "base"), ("recipe", "data.path"))
_PARTS = {"moments": "optimizer state", "ema": "EMA"}  # part -> its name in the printed plan
GPU_SHARE = 0.92  # share of a GPU's memory that can be used: the rest goes to the driver and to fragmentation
BLOCKS = " ▁▂▃▄▅▆▇█"


def render_plan(plan: Plan, console: Console, *, forecast: Sequence[str] = ()) -> None:
    """Print the plan, and the lines of its forecast, as one screen of 80 columns."""
    from rich.text import Text

    for line in map(on_one_line, plan_lines(plan, forecast=forecast)):
        label, rest = line[:LABEL], line[LABEL:]
        if label.strip() == "note":
            console.print(Text(line, style="yellow"), soft_wrap=True)
        else:
            console.print(Text.assemble((label, "bold cyan"), rest), soft_wrap=True)


def plan_lines(plan: Plan, *, goes_on_from: str | None = None, forecast: Sequence[str] = ()) -> list[str]:
    """Return the plan as plain lines of at most 80 columns; `goes_on_from` is the checkpoint of a resume.

    The lines of `forecast` stand below the costs that are counted by formula.
    """
    base = base_title(plan.recipe.base) or "FROM SCRATCH"
    base = base if goes_on_from is None else f"continues from {goes_on_from}"
    title = f"{plan.name} · {plan.recipe.task} · {_count(plan.parameters.total)} parameters · {base}"
    return [
        *labelled("plan", title),
        *_data_lines(plan),
        *([] if plan.facts.texts is None else text_lines(plan.facts.texts)),
        *_run_lines(plan),
        *_trained_lines(plan),
        *_lr_lines(plan),
        *labelled("ema", _ema(plan)),
        *labelled("judge", judge_text(plan)),
        *_cost_lines(plan),
        *forecast,
        *_origin_lines(plan),
        *(line for note in notes(plan, goes_on_from=goes_on_from) for line in labelled("note", note)),
    ]


def recipe_yaml(plan: Plan) -> str:
    """Return the resolved recipe with every value's origin as a comment; `parse` reads it back.

    The length of the run, or of each of its stages, becomes a number of steps, since it may depend on the data; what
    else is `auto` stays `auto`, and is resolved again when a resume changes the number of steps.
    """
    values = plan.recipe.model_dump(mode="json")
    values["train"] |= {"steps": None if plan.staged else plan.steps, "epochs": None}
    # Not strict: a recipe without stages has no `stages:`, but its plan has one stage.
    for written, stage in zip(values["stages"], plan.stages, strict=False):
        written |= {"steps": stage.steps, "epochs": None, "share": None}
    return (
        f"# The resolved recipe of {plan.name}: every value, and where it comes from.\n"
        "# `ttstrain resume` on this folder reads it.\n" + emit(values, lambda key: _origin_remark(plan, key))
    )


def notes(plan: Plan, *, goes_on_from: str | None = None) -> Iterator[str]:
    """Yield the notes that a user should read before starting."""
    yield from _fault_notes(plan)
    yield from small_card_notes(plan.recipe)
    yield from faster_notes(plan.recipe)
    if plan.recipe.base is None and goes_on_from is None:
        yield "training FROM SCRATCH: no `base` weights are given."
    if plan.recipe.sample.every is not None and (key := registry.planner_of(plan.recipe).lacks_for_speech()):
        yield f"no samples, and the judge hears nothing: generating speech needs `{key}`, which is not set."
    if plan.facts.overlong:
        count, budget = len(plan.facts.overlong), plan.recipe.data.batch_frames
        subject = "1 clip is" if count == 1 else f"{count} clips are"
        left_out = sum(length for length in plan.facts.frames if length > budget) / sum(plan.facts.frames)
        yield (
            f"{subject} longer than `data.batch_frames` {budget:,} and left out, {100 * left_out:.0f} % of the speech: "
            f"{_some(plan.facts.overlong)}. `data.batch_frames={max(plan.facts.frames)}` is enough for them."
        )
    if plan.facts.texts is not None and plan.facts.texts.split:
        yield (
            "some words are split into several tokens, in inference as in training: leave the texts as they are. "
            "`ttstrain prepare --show-tokens 5` shows some."
        )
    if plan.steps_per_epoch < 1:
        yield "one step holds more than all training data: lower `train.accumulate`, or every step repeats clips."
    if plan.epochs > MANY_EPOCHS and not isinstance(plan.recipe.train.steps, int):
        yield (
            f"each clip is trained on {plan.epochs:.0f} times: watch the held-out loss, or make smaller steps "
            "(`data.batch_frames`, `train.accumulate`)."
        )
    if plan.facts.padding_share > MUCH_PADDING:
        yield (
            f"{100 * plan.facts.padding_share:.0f} % of the frames are padding: with a larger `data.batch_frames`, "
            "clips of similar length share a micro-batch."
        )
    yield from _shard_notes(plan)
    yield from _optimizer_notes(plan)
    yield from _stage_notes(plan)
    yield from judge_notes(plan)
    if plan.eval_every is None:
        yield "no evaluation: no held-out loss will show whether the run learns or overfits."
    elif plan.eval_every > plan.steps:
        yield f"`eval.every` {plan.eval_every:,} is longer than the run: the only evaluation is at the end."
    if plan.ema_horizon is not None and plan.recipe.ema.decay != "auto":
        reached = round(9 * plan.ema_horizon)  # the step at which the warm-up (1 + n) / (10 + n) reaches the decay
        if reached > plan.steps * 1.05:
            yield f"the EMA's warmup does not end within the run: `ema.decay` is reached at step {reached:,}."


def _fault_notes(plan: Plan) -> Iterator[str]:
    if not (faults := read_faults(plan.recipe.debug.inject)):
        return
    yield f"FAULTS ARE INJECTED (`debug.inject`): {injected_note(plan.recipe.debug.inject)}."
    guard = plan.recipe.guard
    for fault in faults:
        if fault.kind == "spike" and guard.spike is not None and fault.step <= guard.window:
            known = f"{guard.window} losses (`guard.window`)"
            yield f"`{fault}` comes before the guard knows {known}: it will not be refused."
        if fault.kind == "lost_rank" and plan.world_size == 1:
            yield f"`{fault}` will not enter: the run has one process (`--nproc`)."


def _shard_notes(plan: Plan) -> Iterator[str]:
    if plan.sharding.fits is False:
        yield (
            f"this run does not fit the GPU by formula, with {plan.sharding.degree} processes that hold the weights "
            "once (`train.parallel.shard: auto`): lower `data.batch_frames`, or start more processes (`--nproc`)."
        )


def _optimizer_notes(plan: Plan) -> Iterator[str]:
    kinds = {kind_of(group, plan) for group in plan.groups}
    if (found := kinds & FINDS_LR) and plan.origins.get("optim.lr", "default") != "default":
        yield (
            f"`optim.lr` {plan.recipe.optim.lr:g} is not used by `{', '.join(sorted(found))}`, which finds the LR "
            "itself: `optim.d_coef` is a factor of what it finds."
        )
    decays = [group for group in plan.groups if group.frozen is not True and not isinstance(group.schedule, Constant)]
    if kinds & WITHOUT_SCHEDULE and any(kind_of(group, plan) in WITHOUT_SCHEDULE for group in decays):
        yield (
            f"`{', '.join(sorted(kinds & WITHOUT_SCHEDULE))}` averages the weights, so its LR need not fall: its "
            "authors train at a constant LR after a warmup, `optim.schedule.kind=constant`."
        )


def _stage_notes(plan: Plan) -> Iterator[str]:
    if plan.eval_every is None or not plan.staged:
        return
    counts = {stage.name: found.num_holdout for stage, found in zip(plan.stages, plan.facts.stages, strict=True)}
    unmeasured = [name for name, count in counts.items() if count == 0]
    if unmeasured:
        yield f"no held-out clip belongs to stage {_some(unmeasured)}: its own loss is not measured."
    elif min(counts.values()) < plan.facts.num_holdout and plan.recipe.checkpoint.best == "eval/loss/total":
        yield (
            "the best checkpoint is the one with the lowest loss on all held-out clips; with "
            "`checkpoint.best=eval/stage/total`, on those of the last stage."
        )


def _data_lines(plan: Plan) -> list[str]:
    facts = plan.facts
    lengths = sorted(facts.frames)
    time = f"{facts.hours:.2f} h" if facts.hours >= 1 else f"{60 * facts.hours:.1f} min"
    counts = [f"{facts.num_clips:,} clips, {time}", f"{facts.num_holdout} held out"]
    counts += [f"{len(facts.overlong)} too long"] * bool(facts.overlong)
    counts += [f"{sum(facts.skipped.values())} skipped", f"{sum(facts.fixed.values())} repaired"]
    lines = labelled("data", f"{plan.recipe.data.path} · {' · '.join(counts)}")
    for name, reasons in (("skipped", facts.skipped), ("repaired", facts.fixed)):
        if reasons:
            lines += labelled("", f"{name}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
    if facts.replay is not None:
        lines += labelled("", _replay(plan.recipe.data.replay, facts.replay))
    for remark in facts.remarks:
        lines += labelled("", f"{remark.label}: {remark.text}")
    return lines + labelled(
        "",
        f"{lengths[0]:,} to {lengths[-1]:,} frames a clip, median {lengths[len(lengths) // 2]:,} · "
        f"{100 * facts.padding_share:.1f} % padding{_filled(plan)}",
    )


def _filled(plan: Plan) -> str:
    """Describe how full micro-batches of packed clips are; empty for padded ones, whose padding share is shown."""
    facts = plan.facts
    if not registry.planner_of(plan.recipe).packed or facts.replay is not None:
        return ""
    budget = plan.recipe.data.batch_frames
    share = sum(length for length in facts.frames if length <= budget) / (facts.batches_per_epoch * budget)
    return f", micro-batches {100 * share:.1f} % full"


def _replay(config: ReplayConfig | None, facts: ReplayFacts) -> str:
    """Describe the replay data: how much there is, and how much of it an epoch uses."""
    assert config is not None
    counts = [f"{facts.num_clips:,} clips, {facts.hours * 60:.1f} min", f"{facts.num_holdout} held out for retention"]
    counts += [f"{sum(facts.skipped.values())} skipped"]
    counts += [f"{facts.num_shared} also in `data.path`"] * (facts.num_shared > 0)
    counts += [f"{facts.num_overlong} too long for a micro-batch"] * (facts.num_overlong > 0)
    if config.share == 0:
        return f"replay {config.path} · {' · '.join(counts)} · for evaluation only, not for training"
    taken = f"an epoch takes about {facts.clips_per_epoch:,} of them, {100 * config.share:.3g} % of its frames"
    return f"replay {config.path} · {' · '.join(counts)} · {taken}"


def _run_lines(plan: Plan) -> list[str]:
    train = plan.recipe.train
    frames = plan.accumulate * plan.world_size * plan.recipe.data.batch_frames
    pieces = [f"accumulate {plan.accumulate}"] * (plan.accumulate > 1)
    pieces += [f"{plan.world_size} processes"] * (plan.world_size > 1)
    made = f" ({', '.join(pieces)})" if pieces else ""
    times: dict[int, list[str]] = {}
    for name, every in (
        ("evaluate", plan.eval_every),
        ("save", plan.save_every),
        ("sample", plan.sample_every),
        ("snapshot", plan.snapshot_every),
    ):
        if every is not None:
            times.setdefault(every, []).append(name)
    length = f"{plan.epochs:.1f} epochs of {plan.steps_per_epoch:.1f} steps"
    if plan.staged:
        length = f"{len(plan.stages)} stage{'s' * (len(plan.stages) > 1)}, {plan.epochs:.1f} epochs of their clips"
    of_clips = clip_share(auxiliary_ratio(registry.planner_of(plan.recipe)))
    mixed = f"{100 * of_clips:.3g} % of the micro-batches hold clips, the others examples without recordings"
    return [
        *labelled("run", f"{plan.steps:,} steps = {length}"),
        *(labelled("", mixed) if of_clips < 1 else []),
        *labelled("", f"a step is at most {frames:,} frames{made} · device {train.device} · {_precision(plan)}"),
        *labelled("", " · ".join(f"every {every:,} {', '.join(names)}" for every, names in sorted(times.items()))),
    ]


def _precision(plan: Plan) -> str:
    """Describe the precision; with TF32, if a GPU may compute in fp32."""
    train = plan.recipe.train
    if train.precision not in ("auto", "fp32") or train.device == "cpu":
        return f"precision {train.precision}"
    return f"precision {train.precision} (fp32 on a GPU: {'in TF32' if train.tf32 else 'without TF32'})"


def _trained_lines(plan: Plan) -> list[str]:
    """Describe which parameters are trained, if not all are."""
    parameters, lora = plan.parameters, plan.recipe.lora
    if not parameters.frozen:
        return []
    share = 100 * parameters.trained / parameters.total
    text = f"{_count(parameters.trained)} parameters, {share:.2g} % · {_count(parameters.frozen)} frozen"
    lines = labelled("trained", text)
    if lora is not None:
        kind = f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank}, alpha {lora.alpha:g}"
        lines += labelled("", f"{kind} on {parameters.adapted_layers} layers: {_count(parameters.adapters)} parameters")
    return lines


def _lr_lines(plan: Plan) -> list[str]:
    width = min(max(len(group.key) for group in plan.groups), LONGEST_GROUP)
    lines = [f"{'lr':{LABEL}}{'group':{width}} {'first':>8} {'peak':>8} {'last':>8} {'decay':>5} schedule"]
    for place in Curriculum(plan.stages).places():
        if plan.staged:
            lines += labelled("stages" if place.index == 0 else "", _stage_title(place, plan))
        for group in plan.groups:
            columns, *remarks = _lr_row(group, place.stage)
            if group.frozen is not True and (kind := kind_of(group, plan)) in FINDS_LR:
                remarks.append(f"× the LR that {kind} finds")
            row = f"{'':{LABEL}}{_shortened(group.key, width):{width}} {columns}"
            for remark in remarks:
                if len(row) + len(remark) + 2 > WIDTH:
                    lines.append(row)
                    row = f"{'':{LABEL + 4}}{remark}"
                else:
                    row += f"{' ' if row.endswith(columns) else ', '}{remark}"
            lines.append(row)
    if plan.staged:
        return lines + _staged_curves(plan)
    schedules = {group.schedule.model_dump_json(): group.schedule for group in plan.groups if group.frozen is not True}
    for schedule in schedules.values():
        lines += _curve_lines(schedule, plan, alone=len(schedules) == 1)
    return lines


def _stage_title(place: Place, plan: Plan) -> str:
    stage, facts = place.stage, plan.facts.stages[place.index]
    epochs = stage.steps / stage.steps_per_epoch
    pieces = [
        f"{place.index + 1} {stage.name}",
        f"steps {place.start:,}-{place.end:,}: {epochs:.1f} epochs of {facts.num_clips:,} clips",
        f"{60 * facts.hours:.1f} min",
        f"{facts.num_holdout} held out",
    ]
    if stage.early_stop is not None:
        pieces.append(f"ends early after {stage.early_stop.patience} evaluations without improvement")
    return ", ".join(pieces)


def kind_of(group: GroupPlan, plan: Plan) -> OptimizerKind:
    """Return the kind of optimizer that trains a group."""
    return settings_of(plan.recipe.optim, group.optimizer).kind


def _lr_row(group: GroupPlan, stage: Stage) -> list[str]:
    """Return the columns of a group's row in a stage, and the remark beside it."""
    if group.frozen is True or not stage.trains(group):
        return [f"{'frozen':>8}"]
    first, last = stage.lr_of(group, 0), stage.lr_of(group, stage.steps - 1)
    lrs = " ".join(f"{lr:8.2e}" for lr in (first, stage.peak_lr(group), last))
    remarks: list[str] = [stage.schedule_of(group).kind]
    if group.layer_decay is not None:
        remarks.append(f"× {group.layer_decay:g} per layer")
    if isinstance(group.frozen, tuple):
        remarks.append(f"frozen in steps {group.frozen[0]:,} to {group.frozen[1]:,}")
    return [f"{lrs} {group.weight_decay:5g}", *remarks]


def _curve_lines(schedule: Schedule, plan: Plan, *, alone: bool) -> list[str]:
    """Draw a schedule in shares of its peak, the first update at the left and the last at the right."""
    base = max(group.lr for group in plan.groups if group.schedule == schedule)
    values = curve(
        schedule, base_lr=base, total_steps=plan.steps, steps_per_epoch=plan.steps_per_epoch, points=CURVE_WIDTH
    )
    columns = [values[i * len(values) // CURVE_WIDTH] for i in range(CURVE_WIDTH)]  # a short run is stretched
    warmup = f"{'' if alone else schedule.kind + ': '}warmup over {warmup_length(schedule, plan.steps):,}"
    under = f"{'':{LABEL + 5}}{warmup:{CURVE_WIDTH - 13}}{f'step {plan.steps:,}':>13}"
    return [*_drawn([value / base for value in columns]), under]


def _staged_curves(plan: Plan) -> list[str]:
    """Draw every group's LR over all stages, in shares of its highest; groups of one shape share a drawing."""
    curriculum = Curriculum(plan.stages)
    steps = [i * (plan.steps - 1) // (CURVE_WIDTH - 1) for i in range(CURVE_WIDTH)]
    drawings: dict[tuple[float, ...], list[str]] = {}
    for group in plan.groups:
        if group.frozen is not True:
            values = [curriculum.lr_of(group, step) for step in steps]
            drawings.setdefault(tuple(round(value / max(values), 6) for value in values), []).append(group.key)
    lines: list[str] = []
    for shape, keys in drawings.items():
        name = _shortened(", ".join(keys), CURVE_WIDTH - 14)
        lines += [*_drawn(shape), f"{'':{LABEL + 5}}{name:{CURVE_WIDTH - 13}}{f'step {plan.steps:,}':>13}"]
    return lines


def _drawn(shares: Sequence[float]) -> list[str]:
    marks = ["peak", *[""] * (CURVE_HEIGHT - 2), "0"]
    rows = draw(shares, height=CURVE_HEIGHT)
    return [f"{'':{LABEL}}{mark:>4} {row}".rstrip() for mark, row in zip(marks, rows, strict=True)]


def draw(values: Sequence[float], *, height: int) -> list[str]:
    """Draw values between 0 and 1 as columns of block characters, one line per row from the top."""
    levels = [max(round(value * height * 8), 1 if value > 0 else 0) for value in values]
    rows = range(height - 1, -1, -1)
    return ["".join(BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels) for row in rows]


def _ema(plan: Plan) -> str:
    if plan.ema_decay is None:
        return "off"
    share = 100 * (plan.ema_horizon or 0) / plan.steps
    return f"decay {plan.ema_decay:.6g}: averages over {plan.ema_horizon:,} steps, {share:.0f} % of the run"


def _cost_lines(plan: Plan) -> list[str]:
    sizes = {part: size for part, size in plan.memory.items() if size and part not in ON_HOST}
    parts = ", ".join(f"{_PARTS.get(part, part)} {shown_bytes(size)}" for part, size in sizes.items())
    total = shown_bytes(plan.memory_bytes)
    memory = f"{total} by formula" if ACTIVATIONS in plan.memory else f"{total} by formula before activations"
    lines = labelled("memory", f"about {memory} ({parts})")
    if OFFLOADED in plan.memory:
        lines += labelled("", f"and {shown_bytes(plan.memory[OFFLOADED])} of host memory for optimizer state")
    if plan.memory["snapshot"]:
        lines += labelled("", f"and {shown_bytes(plan.memory['snapshot'])} of host memory for the rollback snapshot")
    if plan.sharding.why is not None:
        lines += labelled("shard", f"auto: {plan.sharding.degree}, as {plan.sharding.why}")
    lines += _scheme_lines(plan)
    each = plan.disk_bytes // plan.num_checkpoints
    checkpoints = f"{plan.num_checkpoints} checkpoints of {shown_bytes(each)}"
    lines += labelled("disk", f"{shown_bytes(plan.disk_bytes)} by formula for {checkpoints}")
    if plan.snapshot_disk_bytes:
        lines += labelled("", f"and up to {shown_bytes(plan.snapshot_disk_bytes)} for the rollback snapshot")
    return lines


def _scheme_lines(plan: Plan) -> list[str]:
    """Compare ways to train the model with what this machine's GPU holds; the recipe's own is marked."""
    if not plan.schemes:
        return []
    gpu = gpu_memory()
    own = "no GPU here" if gpu is None else f"GPU {shown_bytes(gpu)}"
    lines = [f"{'schemes':{LABEL}}{'':31}{'state':>9} {'one batch':>11}  {own}"]
    for scheme in plan.schemes:
        fits = gpu is not None and scheme.state + scheme.activations <= GPU_SHARE * gpu
        verdict = "" if gpu is None else "fits" if fits else "too large"
        numbers = f"{shown_bytes(scheme.state):>9} {shown_bytes(scheme.activations):>11}"
        mark = ">" if scheme.chosen else " "
        lines.append(f"{'':{LABEL - 2}}{mark} {scheme.name:31}{numbers}  {verdict}".rstrip())
    others = [f"{scheme.name}: {scheme.keys}" for scheme in plan.schemes if not scheme.chosen]
    return lines + [line for other in others for line in labelled("", other)]


def _origin_lines(plan: Plan) -> list[str]:
    """List where values were set; values from a config are only counted."""
    values = plan.recipe.model_dump(mode="json")
    by_origin: dict[str, list[str]] = {}
    for key, origin in plan.origins.items():
        if origin != "default" and (origin, key) not in SHOWN_ABOVE:
            by_origin.setdefault(origin, []).append(key)
    lines: list[str] = []
    for origin, keys in sorted(by_origin.items(), key=lambda item: not item[0].startswith("configs/")):
        if origin.startswith("configs/"):
            said = f"{len(keys)} value{'s' * (len(keys) > 1)}"
        else:
            said = ", ".join(f"{key} {_value(values, key)}" for key in keys)
        lines += labelled("" if lines else "set by", f"{origin}: {said}")
    return lines


def _origin_remark(plan: Plan, key: str) -> str | None:
    decided: dict[str, Any] = {
        "optim.schedule.warmup_steps": plan.warmup_steps,
        "ema.decay": plan.ema_decay,
        "eval.every": plan.eval_every,
        "sample.every": plan.sample_every,
        "checkpoint.every": plan.save_every,
        "guard.snapshot_every": plan.snapshot_every,
        "train.parallel.shard": plan.sharding.degree,
    }
    origin = plan.origins.get(key)
    if key == "train.steps" and not plan.staged and not isinstance(plan.recipe.train.steps, int):
        epochs = plan.recipe.train.epochs
        return f"auto, from {plan.facts.hours:.3g} h of data" if epochs is None else f"{epochs:g} epochs"
    if key in decided and _get(plan.recipe.model_dump(mode="json"), key) == "auto":
        return f"{origin}: {decided[key]:.6g}" if decided[key] is not None else f"{origin}: never"
    return origin


def _value(values: Any, key: str) -> str:
    found = _get(values, key)
    if isinstance(found, list) and any(isinstance(item, dict) for item in found):
        return f"[{len(found)}]"
    return scalar(found) if not isinstance(found, list) else f"[{', '.join(scalar(item) for item in found)}]"


def _get(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else f"{number:,}"


def shown_bytes(size: int) -> str:
    """Write a size for people: `3.30 GB`, `27.2 MB`, `512 bytes`."""
    if size >= 1e8:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"
