"""Choose which weights of a run or checkpoint to export, and give the reasons."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ttstrain import registry
from ttstrain.checkpoint import judged, pointers, run_folder, store
from ttstrain.checkpoint.damage import open_meta
from ttstrain.checkpoint.judged import JudgedStep
from ttstrain.checkpoint.meta import Meta
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.upstream import follow, load_own, open_checkpoint
from ttstrain.checkpoint.worth import never_better, trained_schedule_free
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.export import Adapters, Source, TrainerState
from ttstrain.contract.model import ModelConfig, ResolvedRecipe
from ttstrain.contract.task import Task
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.export.base_of import BaseWeights, read_base
from ttstrain.export.blends import blend_name, compare_blends
from ttstrain.export.interpolate import check_share, interpolate
from ttstrain.modules import lora
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.part import ADAMW_STATE
from ttstrain.optim.settings import FINDS_LR, LR_AS_ADAMW, settings_of
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose, compose_run
from ttstrain.recipe.schema import LoraConfig, base_title
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import read_tree
from ttstrain.tracking import jsonl
from ttstrain.weights import WeightsChoice

TOTAL = "total"  # name of the loss that the choice is made by
FITTING_SHARE = 0.2  # longest EMA horizon, as a share of the run, to choose EMA weights without a measured loss
RAW, EMA = "online", "ema"


def task_of(path: Path, *, recipe: str | None = None) -> str:
    """Return the task that a run, checkpoint or file was trained for, without reading tensors."""
    pointers.mend(path)
    if not path.exists():
        raise CheckpointError(f"`{path}` does not exist", hint="give a run's folder, a checkpoint or an upstream file")
    found = follow(path, prefer="best")
    if pointers.is_checkpoint(found):
        return open_meta(found).task
    return parse(compose(_asked_recipe(found, recipe), [])).task


def gather(
    path: Path,
    *,
    weights: WeightsChoice = "auto",
    recipe: str | None = None,
    compare: bool = False,
    training: bool = True,
    blend: float | None = None,
    base: Sequence[str] = (),
) -> Source:
    """Choose the weights to export from a run, one of its checkpoints, or an upstream file under a recipe.

    Of a run, its best checkpoint is used. `compare` measures raw, EMA and blended weights on the run's held-out
    clips. Without `training` the optimizer state, twice as large as the weights, is not read. `blend` moves the chosen
    weights towards the base of the run, or towards the files `base`: 0 is the base, 1 the fine-tune. Raises
    CheckpointError if the asked weights, or the base to blend with, are not there.
    """
    if blend is not None:
        check_share(blend)
    elif base:
        raise RecipeError("`--base` names what to blend with", hint="add `--blend`, such as `--blend 0.7`")
    asked = _Asked(weights, compare, training, blend, tuple(base))
    return retried(path, lambda: _gather(path, asked, recipe=recipe), prefer="best")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The user's choice of weights."""

    weights: WeightsChoice
    compare: bool
    training: bool
    blend: float | None
    base: tuple[str, ...]  # files to blend with, in the place of the run's own base

    @property
    def share(self) -> float | None:
        """The share of the fine-tune in a blend; None where the fine-tune itself is wanted."""
        return None if self.blend == 1 else self.blend


def _gather(path: Path, asked: _Asked, *, recipe: str | None) -> Source:
    found = follow(path, prefer="best")
    if not pointers.is_checkpoint(found):
        return _of_upstream(found, asked, recipe=recipe)
    if recipe is not None:
        raise RecipeError("a checkpoint of ttstrain has its own settings", hint="leave `--recipe` out")
    return _of_run(found, asked)


# ---------------------------------------------------------------- our own checkpoints


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The two kinds of weights under the keys of `Task.exported()`, adapters merged."""

    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    raw_adapters: Adapters | None = None
    ema_adapters: Adapters | None = None
    frozen: Mapping[str, Tensor] | None = None  # the base's own weights, where adapters alone were trained


@dataclass(frozen=True, slots=True)
class _Choice:
    weights: Mapping[str, Tensor]
    name: str
    reasons: tuple[str, ...]
    losses: Mapping[str, float]
    warnings: tuple[str, ...] = ()


def _of_run(checkpoint: Path, asked: _Asked) -> Source:
    loaded = _read(checkpoint, training=asked.training)
    meta = loaded.meta
    run = checkpoint.parent.parent if (checkpoint.parent.parent / run_folder.RECIPE).is_file() else None
    settings = None if run is None else _recipe_of(run)
    config = _config(meta, checkpoint)
    task = _build_task(meta.task, config, settings)
    candidates = _candidates(task, loaded, checkpoint, run=run, recipe=settings)
    heard, warnings = _heard(meta, run, loaded)
    if asked.compare:
        if run is None or settings is None:
            raise CheckpointError(
                f"`{checkpoint}` is not in a run's folder, so its held-out clips are unknown",
                hint="leave `--compare` out",
            )
        choice = _by_comparison(candidates, meta, settings, run, config=config, asked=asked.weights)
    else:
        choice = _choose(candidates, meta, _losses(meta, run), asked=asked.weights, heard=heard)
    plain = _build_task(meta.task, config, None)
    adapters = {RAW: candidates.raw_adapters, EMA: candidates.ema_adapters}.get(choice.name)
    if asked.share is not None:
        adapters = None
        base = None if candidates.frozen is None or asked.base else BaseWeights(candidates.frozen)
        base = base or read_base(plain, meta.task, run=run, recipe=settings, named=asked.base, found=loaded.base)
        choice = _blended(choice, base, asked.share)
    return Source(
        checkpoint=checkpoint,
        name=run.name if run is not None else meta.recipe,
        task=meta.task,
        config=config,
        step=meta.step,
        weights=choice.weights,
        chosen=choice.name,
        reasons=choice.reasons,
        losses=choice.losses,
        base=None if settings is None else base_title(settings.base),
        versions=meta.versions,
        training=_training(plain, loaded, candidates, settings),
        adapters=adapters,
        others=_others(plain, loaded),
        warnings=(*(f"WARNING: {note}" for note in meta.notes), *warnings, *choice.warnings),
        epoch=_epoch(meta, run),
        blend=asked.blend,
    )


def _read(checkpoint: Path, *, training: bool) -> store.Loaded:
    """Read a checkpoint; without `training` only raw and EMA weights, unless those of a schedule-free run need more."""
    if training or trained_schedule_free(store.load_lazily(checkpoint).state):
        return load_own(checkpoint)
    return load_own(checkpoint, parts=("task", "ema", "best"))


def _others(task: Task, loaded: store.Loaded) -> dict[str, Tensor]:
    """Return what was trained and is not exported, such as a discriminator."""
    exported = set(task.exported().state_dict())
    return {key: loaded.state["task"][key] for key in task.state_dict() if key not in exported}


def _epoch(meta: Meta, run: Path | None) -> int | None:
    """Count the passes over the data, rounded up; None if unknown."""
    if run is None:
        return None
    try:
        steps_per_epoch: float = run_folder.read_plan(run)["steps_per_epoch"]
    except CheckpointError:
        return None
    return max(1, math.ceil(meta.step / steps_per_epoch))


def _recipe_of(run: Path) -> ResolvedRecipe:
    return parse(compose_run(run, [], origins=run_folder.origins(run)))


def _config(meta: Meta, checkpoint: Path) -> ModelConfig:
    try:
        return registry.find_task(meta.task).read_model(meta.model)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"`{checkpoint}` has model settings that this ttstrain does not know: "
            f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}",
            hint=f"it was written by ttstrain {meta.ttstrain}",
        ) from error


def _build_task(name: str, config: ModelConfig, recipe: ResolvedRecipe | None) -> Task:
    """Build the task as the run had it, adapters included."""
    spec = registry.find_task(name)
    task = spec.build(config)
    if recipe is not None and recipe.lora is not None:
        lora.add_lora(task.exported(), recipe.lora, default_targets=spec.planner(config).lora_targets())
    return task


def _candidates(
    task: Task, loaded: store.Loaded, checkpoint: Path, *, run: Path | None, recipe: ResolvedRecipe | None
) -> _Candidates:
    if run is None and any(map(lora.is_adapter, loaded.state["task"])):
        raise CheckpointError(
            f"`{checkpoint}` holds LoRA adapters, whose settings are in the run's recipe",
            hint="export it as part of its run's folder",
        )
    load_weights(task, loaded.state["task"], source=str(checkpoint))
    settings = None if recipe is None else recipe.lora
    with _evaluated(task, loaded, run=run, recipe=recipe):
        raw, raw_adapters = _merged(task), _adapters(task, settings)
    ema = ema_adapters = None
    if "ema" in loaded.state:
        load_weights(task.exported(), loaded.state["ema"]["weights"], source=f"{checkpoint}, EMA weights")
        ema, ema_adapters = _merged(task), _adapters(task, settings)
    frozen = None if settings is None or settings.unfrozen else _frozen(task)
    return _Candidates(raw, ema, raw_adapters, ema_adapters, frozen)


def _frozen(task: Task) -> dict[str, Tensor]:
    """Return the weights that the adapters are trained on top of, which are the base's."""
    held = task.exported().state_dict()
    return {lora.plain_name(key): tensor for key, tensor in held.items() if not lora.is_adapter(key)}


def _merged(task: Task) -> dict[str, Tensor]:
    """Copy the weights, adapters merged in float32 and not rounded to the base's type again."""
    return {key: tensor.clone() for key, tensor in lora.merged_state_dict(task.exported(), dtype=torch.float32).items()}


def _adapters(task: Task, settings: LoraConfig | None) -> Adapters | None:
    """Copy the adapters' tensors; None where the run trained without adapters."""
    if settings is None:
        return None
    exported = task.exported()
    trained = {lora.plain_name(name): tensor for name, tensor in exported.named_parameters() if tensor.requires_grad}
    return Adapters(
        settings=settings,
        targets=tuple(lora.adapted_layers(exported)),
        tensors={key: tensor.detach().clone() for key, tensor in lora.adapter_state_dict(exported).items()},
        whole={key: tensor.detach().clone() for key, tensor in trained.items() if not lora.is_adapter(key)},
    )


@contextmanager
def _evaluated(task: Task, loaded: store.Loaded, *, run: Path | None, recipe: ResolvedRecipe | None) -> Iterator[None]:
    """Return the averaged weights of a schedule-free optimizer, which are not the raw weights it trains."""
    if not trained_schedule_free(loaded.state):
        yield
        return
    if run is None or recipe is None:
        raise CheckpointError(
            "these weights were trained with a schedule-free optimizer: averaging them needs the run's recipe",
            hint="export the checkpoint as part of its run's folder",
        )
    plan = run_folder.read_plan(run)
    named = [(lora.plain_name(name), parameter) for name, parameter in task.named_parameters()]
    optimizers = Optimizers.build(
        build_groups(task.optimized(), named, recipe.optim),
        total_steps=plan["steps"],
        steps_per_epoch=plan["steps_per_epoch"],
    )
    optimizers.load_state_dict(loaded.state["optimizers"])
    with optimizers.evaluating():
        yield


def _training(
    task: Task, loaded: store.Loaded, candidates: _Candidates, recipe: ResolvedRecipe | None
) -> TrainerState | None:
    meta = loaded.meta
    if "optimizers" not in loaded.state or meta.schedule is None:
        return None
    found = {name: state for own in loaded.state["optimizers"].values() for name, state in own.items()}
    optimizer_state: dict[str, Mapping[str, Any]] = {name: found.get(name, {}) for name, _ in task.named_parameters()}
    kinds = _kinds(recipe, loaded.state["optimizers"])
    notes: tuple[str, ...] = ()
    if recipe is not None and recipe.lora is not None:
        optimizer_state = {name: {} for name in optimizer_state}
        notes = ("the adapters are merged into the weights, so the optimizer state starts empty",)
    elif any(state and set(state) != ADAMW_STATE for state in optimizer_state.values()):
        optimizer_state = {name: {} for name in optimizer_state}
        notes = (f"`{', '.join(kinds)}` keeps another optimizer state than AdamW, so it starts empty",)
    optim = None if recipe is None else recipe.optim
    lr = meta.schedule.lr_next or max((group.lr for group in meta.groups), default=0.0)
    return TrainerState(
        raw=candidates.raw,
        ema=candidates.ema,
        optimizer_state=optimizer_state,
        lr=lr,
        peak_lr=lr if optim is None or FINDS_LR & set(kinds) else optim.lr,
        weight_decay=max((group.weight_decay for group in meta.groups), default=0.0),
        betas=(0.9, 0.999) if optim is None else optim.betas,
        eps=1e-8 if optim is None else optim.eps,
        notes=notes,
        refused=_unlike_adamw(kinds),
    )


def _kinds(recipe: ResolvedRecipe | None, optimizer_state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Name the kinds of a checkpoint's optimizers; without a recipe, by their state's keys."""
    if recipe is not None:
        return sorted({settings_of(recipe.optim, name).kind for name in optimizer_state})
    adamw = all(not state or set(state) == ADAMW_STATE for own in optimizer_state.values() for state in own.values())
    return ["adamw"] if adamw else ["unknown"]


def _unlike_adamw(kinds: Sequence[str]) -> str:
    """Return why the run's learning rate does not suit AdamW; "" where it does."""
    if not (unlike := [kind for kind in kinds if kind not in LR_AS_ADAMW]):
        return ""
    return f"the run's optimizer is `{', '.join(unlike)}`, whose optimizer state and learning rate AdamW cannot use"


# ---------------------------------------------------------------- the choice


def _losses(meta: Meta, run: Path | None) -> dict[str, float]:
    """Return the losses of the evaluation at this step, from the checkpoint, else from the run's metrics."""
    values: Mapping[str, float] = meta.metrics
    if not _held_out(values) and run is not None and (run / jsonl.FILE_NAME).is_file():
        rows = [row for row in jsonl.read(run / jsonl.FILE_NAME) if row["step"] == meta.step]
        values = {key: value for row in rows for key, value in row.items()}
    return _held_out(values)


def _held_out(values: Mapping[str, float]) -> dict[str, float]:
    keys = {RAW: f"eval/loss/{TOTAL}", EMA: f"eval/ema_loss/{TOTAL}"}
    return {name: values[key] for name, key in keys.items() if values.get(key) is not None}


def _heard(meta: Meta, run: Path | None, loaded: store.Loaded) -> tuple[JudgedStep | None, tuple[str, ...]]:
    """Return the judge's verdict on this step, if there is one, and warnings against using the run."""
    warnings = []
    steps: Sequence[JudgedStep] = ()
    try:
        steps = judged.read(run).steps if run is not None else ()
    except CheckpointError as error:
        warnings.append(f"WARNING: {error.message}: what the judge heard is not known")
    found = next((one for one in steps if one.step == meta.step), None)
    if found is not None and found.is_worse:
        warnings.append(f"WARNING: {found.words}")
    elif found is None and (worse := never_better(meta, loaded.state)) is not None:
        warnings.append(worse)
    return found, tuple(warnings)


def _choose(
    candidates: _Candidates,
    meta: Meta,
    losses: Mapping[str, float],
    *,
    asked: WeightsChoice,
    heard: JudgedStep | None = None,
) -> _Choice:
    if candidates.ema is None:
        if asked == EMA:
            raise CheckpointError("this run has no EMA weights", hint="export `--weights online`")
        return _Choice(candidates.raw, RAW, ("the run has no EMA weights",), losses)
    name, reason = _winner(meta, losses, heard) if asked == "auto" else (asked, "as asked for")
    if asked != "auto" and len(losses) == 2:
        reason += f" (held-out loss: {_figures(losses)})"
    return _Choice(candidates.ema if name == EMA else candidates.raw, name, (reason,), losses)


def _winner(meta: Meta, losses: Mapping[str, float], heard: JudgedStep | None) -> tuple[str, str]:
    if heard is not None and heard.outcome != "unusable":
        return heard.weights, f"by what is heard: {heard.words}" + (f" ({_figures(losses)})" if losses else "")
    if len(losses) == 2:
        name = EMA if losses[EMA] <= losses[RAW] else RAW
        return name, f"the lower held-out loss: {_figures(losses)}"
    horizon = None if meta.ema.decay is None or meta.ema.decay >= 1 else 1 / (1 - meta.ema.decay)
    told = f"no held-out loss was measured at step {meta.step:,}"
    if horizon is not None and horizon <= FITTING_SHARE * meta.step:
        return EMA, f"{told}; the EMA averages over {horizon:,.0f} steps, a small part of the run"
    return RAW, f"{told}; the EMA averages over most of the run and may lag behind"


def _figures(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in losses.items())


def _blended(choice: _Choice, base: BaseWeights, share: float) -> _Choice:
    """Move the chosen weights towards their base, or beyond themselves."""
    found = interpolate(base.weights, choice.weights, share, new_rows=base.new_rows)
    what = f"base + {share:g} ({choice.name} - base)"
    reasons = (*choice.reasons, f"{what}; the held-out losses are of {choice.name} itself" if choice.losses else what)
    beyond = [f"WARNING: blend {share:g} lies beyond the fine-tune (1): listen to it before you use it"]
    return _Choice(
        weights=found.weights,
        name=f"{choice.name}, blend {share:g} with the base",
        reasons=(*reasons, *found.notes()),
        losses=choice.losses,
        warnings=(*base.warnings, *(beyond if share > 1 else [])),
    )


def _by_comparison(
    candidates: _Candidates, meta: Meta, recipe: ResolvedRecipe, run: Path, *, config: ModelConfig, asked: WeightsChoice
) -> _Choice:
    if asked != "auto":
        raise RecipeError("`--compare` chooses the weights", hint=f"leave out `--weights {asked}` or `--compare`")
    if candidates.ema is None:
        raise CheckpointError("this run has no EMA weights to compare with", hint="leave `--compare` out")
    task = _build_task(meta.task, config, None)
    compared = compare_blends(task, candidates.raw, candidates.ema, config=config, recipe=recipe, run=run)
    best = min(compared.losses, key=lambda share: compared.losses[share])
    losses = {blend_name(share): loss for share, loss in compared.losses.items()}
    reasons = (
        f"the lowest loss on {compared.num_clips} held-out clips: {_figures(losses)}",
        "blend k is online + k (ema - online)",
    )
    return _Choice(compared.weights(best), blend_name(best), reasons, losses)


# ---------------------------------------------------------------- upstream's files


def _of_upstream(path: Path, asked: _Asked, *, recipe: str | None) -> Source:
    if asked.compare:
        raise RecipeError("`--compare` needs the held-out clips of a run of ttstrain", hint="leave it out")
    settings = parse(compose(_asked_recipe(path, recipe), []))
    opened = open_checkpoint(path, task=settings.task)
    config = settings.model
    opened.check_model(settings.section())
    own = read_tree(opened.weights)
    has_online = not opened.ema_only
    candidates = _Candidates(raw=own, ema=None if opened.ema is None else read_tree(opened.ema) if has_online else own)
    choice = _choose_upstream(candidates, opened, has_online=has_online, asked=asked.weights)
    if asked.share is not None:
        task = _build_task(settings.task, config, None)
        base = read_base(task, settings.task, run=None, recipe=None, named=asked.base)
        choice = _blended(choice, base, asked.share)
    return Source(
        checkpoint=path,
        name=path.parent.name or path.stem,
        task=settings.task,
        config=config,
        step=opened.step or 0,
        base=str(path),
        weights=choice.weights,
        chosen=choice.name,
        reasons=(*choice.reasons, *_taken_on_trust(opened, settings)),
        versions=opened.front_end,
        absent=opened.absent,
        warnings=choice.warnings,
        blend=asked.blend,
    )


def _taken_on_trust(opened: OpenedCheckpoint, recipe: ResolvedRecipe) -> list[str]:
    """List the settings that the file does not record and that are taken from the recipe."""
    section = recipe.section()
    settings = [f"model.{key}={json.dumps(section[key])}" for key in opened.unknown]
    return [f"`{opened.path.name}` does not contain {', '.join(settings)}: taken from the recipe"] if settings else []


def _asked_recipe(path: Path, recipe: str | None) -> str:
    if recipe is None:
        raise RecipeError(
            f"`{path}` is not a checkpoint of ttstrain, so its model settings are unknown",
            hint="add `--recipe RECIPE`, whose `model:` describes it",
        )
    return recipe


def _choose_upstream(
    candidates: _Candidates, opened: OpenedCheckpoint, *, has_online: bool, asked: WeightsChoice
) -> _Choice:
    if not has_online:
        if asked == RAW:
            raise CheckpointError(f"`{opened.path}` holds EMA weights only", hint="export `--weights ema`")
        return _Choice(candidates.raw, EMA, ("the file holds EMA weights only",), {})
    if candidates.ema is None:
        if asked == EMA:
            raise CheckpointError(f"`{opened.path}` has no EMA weights", hint="export `--weights online`")
        return _Choice(candidates.raw, RAW, ("the file has no EMA weights",), {})
    if asked != "auto":
        return _Choice(candidates.ema if asked == EMA else candidates.raw, asked, ("as asked for",), {})
    counted = "" if opened.ema_step is None else f" (it counts {opened.ema_step:,} updates)"
    reason = (
        f"no held-out loss is known, and upstream's EMA{counted} changes slowly after many updates: after a "
        "short fine-tune it is still close to the base"
    )
    return _Choice(candidates.raw, RAW, (reason,), {})
