"""Start a new run, or go on with one: everything around the loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch

from ttstrain import registry
from ttstrain.checkpoint import pointers, store
from ttstrain.checkpoint.lock import RunLock, hold
from ttstrain.checkpoint.merging import check_fits, no_new_rows, open_for, open_training
from ttstrain.checkpoint.meta import check_vocab, compare_front_ends
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.contract.checkpoint import AdaptedWeights, OpenedCheckpoint
from ttstrain.data.audit import write_quarantine
from ttstrain.data.earlier import write_record
from ttstrain.data.manifest import write_manifest
from ttstrain.errors import (
    CheckpointError,
    DivergedError,
    FolderLostError,
    Interrupted,
    OutOfMemoryError,
    PeerError,
    Preempted,
    RecipeError,
    UserError,
    first_line,
    is_out_of_memory,
)
from ttstrain.infer.previews import recover_base
from ttstrain.modules import lora
from ttstrain.plan.plan import Plan
from ttstrain.plan.project import with_project
from ttstrain.plan.refuse import check_resume
from ttstrain.plan.render import plan_lines
from ttstrain.plan.resolve import DEFAULT, parse, resolve
from ttstrain.recipe.compose import COMMAND_LINE, RECIPE, Composed, compose, compose_run, with_flags
from ttstrain.recipe.schema import Recipe
from ttstrain.runs import folder, sessions
from ttstrain.runs.changed_data import check_measurable, clips_before, forget_measures, tell_changes
from ttstrain.runs.disk import check_disk
from ttstrain.runs.kept import from_where_started, with_kept_files
from ttstrain.runs.origin import Origin, find, not_begun, run_of
from ttstrain.runs.prepare import Prepared, ShowProgress, no_progress, prepare
from ttstrain.shell import quoted
from ttstrain.tensors.loading import LoadReport, Tensors, load_weights
from ttstrain.tensors.tensorfile import read_tree
from ttstrain.tracking import jsonl
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import RunInfo, Trackers
from ttstrain.train import build, checkpointing, distributed, precision
from ttstrain.train.distributed import Ranks
from ttstrain.train.loop import train
from ttstrain.train.run import Run
from ttstrain.train.signals import preparing

PART_NAMES = {  # of the state, as a person would call them
    "task": "weights",
    "optimizers": "moments",
    "ema": "average",
    "progress": "step and LR",
    "loader": "place in the data",
    "rng": "random numbers",
    "precision": "loss scale",
    "best": "best loss",
    "early_stop": "early stop",
    "new_rows": "new rows",
    "curriculum": "stage",
}
ADDED_LATER = frozenset(
    {"ema", "early_stop", "curriculum"}
)  # parts of the state that a resume may ask for when the run had none


def start(composed: Composed, *, show: ShowProgress = no_progress) -> Path:
    """Start a new run from its base weights, train it and return its folder."""
    with _Processes() as here:
        return _start(composed, composed.name, here, show=show)


def _start(composed: Composed, name: str, here: _Processes, *, show: ShowProgress, place: Path | None = None) -> Path:
    """Begin a run from its base, in a folder of its own or in `place`, which has been its folder before."""
    recipe = parse(composed)
    here.choose_device(recipe)
    lora.check_installed(recipe.lora)
    if here.ranks.main and place is None:
        folder.check_name(recipe)
    base = None if recipe.base is None else open_for(recipe)
    prepared = prepare(recipe, device=here.device, ranks=here.ranks, show=show)
    plan = resolve(
        recipe,
        origins=composed.origins,
        facts=prepared.facts,
        world_size=here.ranks.world_size,
        source_name=name,
    )
    place = place or here.hold(lambda: folder.create(plan))
    if here.ranks.main:
        check_disk(plan, place)
    run = _build(plan, prepared, place, here)
    notes = [] if base is None else _load_base_as_it_is_now(run, base)
    _check_alike(run)
    notes = [*_describe(run, prepared), *here.notes, *notes]
    try:
        _train(run, prepared, here, notes)
    except RecipeError as error:  # of a metric's name, which the first evaluation shows to be wrong
        if pointers.list_checkpoints(place / pointers.CHECKPOINTS):
            raise
        left = f"`{place}` holds no checkpoint: delete it (`rm -r {quoted(place)}`) or leave it"
        raise RecipeError(error.message, hint=f"{error.hint}; {left}" if error.hint else left) from error
    return place


def resume(
    path: Path,
    overrides: Sequence[str],
    *,
    reset_step: bool = False,
    reset_optimizer: bool = False,
    checkpoint: Path | None = None,
    recipe: str | None = None,
    data: Path | None = None,
    show: ShowProgress = no_progress,
) -> Path:
    """Go on with a run of ours, or with an upstream training file under a recipe; return the run's folder.

    Raises RecipeError when the schedule has ended, with the ways out.
    """
    with _Processes() as here:
        own = None if reset_step else run_of(path)  # a run that starts again from its weights is only read
        if own is not None:
            here.hold(lambda: _locked(own, here))
            if checkpoint is None and not_begun(own):
                return _begin_again(own, overrides, here, data=data, show=show)
        origin = find(path, run=run_of(path), checkpoint=checkpoint, recipe=recipe)
        composed, source_name = _compose(origin.run, overrides, recipe=recipe, data=data)
        kept_notes: list[str] = []
        if origin.run is not None:
            composed, path_notes = from_where_started(composed, folder.directory(origin.run))
            composed, kept_notes = with_kept_files(composed, checkpoint=origin.checkpoint, run=origin.run)
            kept_notes = [*folder.damage(origin.run), *path_notes, *kept_notes]
        checked = parse(composed)
        here.choose_device(checked)
        lora.check_installed(checked.lora)
        before, before_notes = clips_before(origin.run, composed) if here.ranks.main else (None, [])
        prepared = prepare(checked, device=here.device, ranks=here.ranks, show=show, earlier=before)
        check_measurable(prepared)
        plan = resolve(
            checked,
            origins=composed.origins,
            facts=prepared.facts,
            world_size=here.ranks.world_size,
            source_name=source_name,
        )
        if not reset_step:
            check_resume(plan, origin.step, ended=origin.ended)
        place = own or here.hold(lambda: _new_folder(origin, plan))
        if here.ranks.main:
            check_disk(plan, place)
        run = _build(plan, prepared, place, here)
        notes = _restore(run, origin, prepared, reset_step=reset_step, reset_optimizer=reset_optimizer)
        _check_alike(run)
        changed = [*before_notes, *tell_changes(run, prepared, step=origin.step)]
        notes = [*_describe(run, prepared, origin), *here.notes, *kept_notes, *changed, *notes]
        _train(run, prepared, here, notes, origin=origin)
    return place


# ---------------------------------------------------------------- processes and folders


class _Processes:
    """Joins the process group on the way in and leaves it on the way out.

    A process that fails tells the others, and only the first of those that fail says why. During training it can do so
    where all fail at the same place alone; otherwise the others notice that it is gone.
    """

    device: torch.device

    def __init__(self) -> None:
        self.ranks = Ranks()
        self.lock: RunLock | None = None  # of the run's folder, in the main process
        self.notes: list[str] = []  # on that folder
        self._training = False
        self._before_training = ExitStack()

    def __enter__(self) -> _Processes:
        self.ranks = distributed.join()
        self._before_training.enter_context(preparing())
        return self

    def choose_device(self, recipe: Recipe) -> None:
        self.device = build.choose_device(recipe.train.device, tf32=recipe.train.tf32, ranks=self.ranks)
        self.ranks.barrier()  # a process without a GPU says so before the data are prepared
        self.ranks.connect(self.device)

    def hold(self, take: Callable[[], RunLock]) -> Path:
        """Let the main process take the lock of the run's folder, until the end; return the folder in every process."""
        if self.ranks.main:
            self.lock = take()
            self.notes += [] if self.lock.warning is None else [self.lock.warning]
        place = self.ranks.broadcast(None if self.lock is None else self.lock.folder)
        assert place is not None
        return place

    def begin_training(self) -> None:
        """Wait until every process is ready; signals are the loop's business from here on."""
        self.ranks.barrier()
        self._before_training.close()
        self._training = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failure = error if error is None else self._told(error)
        try:
            if failure is not None and not self._speaks(failure) and isinstance(failure, UserError):
                raise PeerError(failure.message, exit_code=failure.exit_code, told=True) from error
            if failure is not None and failure is not error:
                raise failure from error
        finally:
            self._before_training.close()
            if self.lock is not None:
                self.lock.release()
            distributed.leave()

    def _told(self, error: BaseException) -> BaseException:
        """Say in a user's words that memory ran out, where no step's smaller micro-batches help."""
        if not is_out_of_memory(error):
            return error
        when = "beside the steps of the training" if self._training else "before the training began"
        return OutOfMemoryError(
            f"memory ran out {when}: {first_line(error)}",
            hint="train less of the model (`lora`, `frozen`), end other programs that hold memory of the device, or "
            "take one with more: `ttstrain plan` says what the run needs",
        )

    def _speaks(self, error: BaseException) -> bool:
        """Tell the others of a failure, and learn whether it is this process that tells the user."""
        if isinstance(error, PeerError):
            return True  # it knows whether to speak
        try:
            if not self._training:
                return self.ranks.tell_failure(_exit_code(error))
            if isinstance(error, _TOGETHER):
                self.ranks.barrier()  # the main process may still be writing, and a launcher ends all with the first
                return self.ranks.main
        except PeerError:  # nobody is left to hear it; of a signal, which reaches all, the first to leave has spoken
            return not isinstance(error, Preempted)
        return True


# What all processes raise during training, or none: it follows from what they share.
_TOGETHER = (RecipeError, DivergedError, FolderLostError, Interrupted, Preempted)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _build(plan: Plan, prepared: Prepared, place: Path, here: _Processes) -> Run:
    trackers = build_trackers(plan.recipe.tracking, origins=plan.origins) if here.ranks.main else Trackers()
    return build.build(
        plan, prepared, folder=place, device=here.device, ranks=here.ranks, trackers=trackers, lock=here.lock
    )


def _check_alike(run: Run) -> None:
    if differing := run.ranks.differ(run.task.state_dict()):
        raise CheckpointError(
            f"the processes would start from different weights, `{differing[0]}` for one",
            hint="does every machine read the same files?",
        )


def _describe(run: Run, prepared: Prepared, origin: Origin | None = None) -> list[str]:
    """Write into the run's folder what it is, now that nothing can refuse it any more; return notes for the user."""
    place = run.folder
    lines = []
    if run.ranks.main:
        goes_on_from = None if origin is None else origin.checkpoint
        lines += sessions.write_description(place, run.plan, goes_on_from=goes_on_from)
    run.ranks.barrier()
    if prepared.audited is None:
        return lines
    write_quarantine(prepared.audited.data, place / "data" / "quarantine.jsonl")
    write_manifest(place / "data" / "train.jsonl", prepared.train)
    write_manifest(place / "data" / "held_out.jsonl", prepared.held_out)
    if prepared.audited.replay is not None:
        write_quarantine(prepared.audited.replay, place / "data" / "replay_quarantine.jsonl")
        write_manifest(place / "data" / "replay.jsonl", prepared.replay)
        write_manifest(place / "data" / "replay_held_out.jsonl", prepared.retained)
    write_record(place, prepared.earlier, held_out=prepared.held_out, retained=prepared.retained)
    lines += [f"left out: {clip}: {why}" for clip, why in prepared.failed.items()]
    if skipped := sum(prepared.facts.skipped.values()):
        lines.append(f"{skipped} rows left out, see {place / 'data' / 'quarantine.jsonl'}")
    return lines


# ---------------------------------------------------------------- weights to start from


def _load_base_as_it_is_now(run: Run, base: OpenedCheckpoint) -> list[str]:
    """Load the base; one that its own run has replaced while the data were prepared is opened again."""
    try:
        return _load_base(run, base)
    except (CheckpointError, FileNotFoundError) as error:
        if not isinstance(error.__cause__ if isinstance(error, CheckpointError) else error, FileNotFoundError):
            raise
        return _load_base(run, open_for(run.plan.recipe))


def _load_base(run: Run, base: OpenedCheckpoint) -> list[str]:
    """Load weights only: a base that holds an optimizer is still a base. The average starts as their copy."""
    fitted = run.task.fitted(base)
    report = _load(run, base, lora.with_adapters(run.task, fitted.weights))
    lora.settle(run.task)
    if run.ema is not None:
        run.ema.reset(run.task.exported())
    lines = [f"base {base.title}: {base.model}, {len(report.matched)} tensors", *base.notes, *fitted.notes]
    lines += _choose_new_rows(run, fitted)
    lines += [
        f"WARNING: the {len(rows)} new rows of `{name}` are frozen, and stay as they were made"
        for name, rows in fitted.new_rows.items()
        if name in run.optimizers.table.frozen
    ]
    lines += compare_front_ends(base.front_end, _front_end(run))
    if base.unknown:
        lines.append(_taken_on_trust(run.plan, base))
    if base.kind == "training":
        lines.append(f"it is a training checkpoint of step {base.step}; to go on with it, use `ttstrain resume`")
    return lines


def _load(run: Run, opened: OpenedCheckpoint, weights: Tensors) -> LoadReport:
    """Load weights strictly; where whole parts are missing, say which files hold them."""
    check_fits(run.task, weights, opened)
    return load_weights(run.task, weights, source=opened.source)


def _taken_on_trust(plan: Plan, base: OpenedCheckpoint) -> str:
    """Say what a file does not tell of itself: loudly, unless the user has said it."""
    settings = ", ".join(f"model.{key}={json.dumps(plan.recipe.model[key])}" for key in base.unknown)
    origins = {key: plan.origins.get(f"model.{key}", DEFAULT) for key in base.unknown}
    if set(origins.values()) <= {RECIPE, COMMAND_LINE}:
        return f"`{base.path.name}` does not tell {', '.join(base.unknown)}: {settings}, as you say"
    where = ", ".join(dict.fromkeys(origins.values()))
    taken = (
        f"WARNING: `{base.path.name}` does not tell {', '.join(base.unknown)}. This run takes {settings} (from {where})"
    )
    if not registry.find_task(plan.recipe.task).readings:
        return f"{taken}: say it in the recipe where it is another"
    return (
        f"{taken}, and the wrong choice would load, train and speak gibberish. Check with "
        "`ttstrain inspect-ckpt FILE --probe DATA`, then say it in the recipe"
    )


def _choose_new_rows(run: Run, fitted: AdaptedWeights) -> list[str]:
    new_rows = run.optimizers.new_rows
    if new_rows is None:
        return []
    new_rows.choose(fitted.new_rows)
    if not new_rows.count:
        raise no_new_rows()
    return [f"steps 0 to {new_rows.steps} train the {new_rows.count} new rows alone; all else waits, bit for bit"]


# ---------------------------------------------------------------- going on


def _compose(
    run: Path | None, overrides: Sequence[str], *, recipe: str | None, data: Path | None
) -> tuple[Composed, str]:
    """Return the recipe to go on with, and what its run is named after."""
    if run is None:
        assert recipe is not None
        composed = with_project(with_flags(compose(recipe, overrides), data=data))
        return composed, composed.name
    composed = compose_run(run, overrides, origins=folder.origins(run))
    return with_flags(composed, data=data), folder.name(run)


def _locked(run: Path, here: _Processes) -> RunLock:
    """Take a run's lock, and mend what a process that died in the middle of a save has left."""
    with ExitStack() as until_refused:
        lock = until_refused.enter_context(hold(run))
        folder.refuse_links(run)
        pointers.recover(run / pointers.CHECKPOINTS)
        if (note := pointers.mend_last(run / pointers.CHECKPOINTS)) is not None:
            here.notes.append(note)
        until_refused.pop_all()
    return lock


def _begin_again(
    run: Path, overrides: Sequence[str], here: _Processes, *, data: Path | None, show: ShowProgress
) -> Path:
    """Begin a run from its base once more, where it ended before it had a checkpoint: the steps come out the same."""
    composed, name = _compose(run, overrides, recipe=None, data=data)
    composed, path_notes = from_where_started(composed, folder.directory(run))
    here.notes += [f"`{run}` ended before its first checkpoint: it begins again from its base", *path_notes]
    return _start(composed, name, here, show=show, place=run)


def _new_folder(origin: Origin, plan: Plan) -> RunLock:
    return folder.create(plan) if origin.run is None else folder.create_beside(origin.run)


def _restore(run: Run, origin: Origin, prepared: Prepared, *, reset_step: bool, reset_optimizer: bool) -> list[str]:
    keep = {name for name, reset in (("progress", reset_step), ("optimizers", reset_optimizer)) if reset}
    if origin.run is None:
        return _restore_upstream(run, origin, keep=keep)
    if reset_step:
        keep |= {"best", "early_stop", "curriculum"} & set(run.state.parts)
    loaded = store.load(origin.checkpoint)
    check_vocab(loaded.meta.versions, _front_end(run), source=str(origin.checkpoint))
    late = (ADDED_LATER & set(run.state.parts)) - set(loaded.state)
    notes = checkpointing.restore(run, loaded, source=origin.checkpoint, keep=keep | late)
    if "ema" in late and run.ema is not None:
        run.ema.reset(run.task.exported())
    restored = [name for name in run.state.parts if name not in keep | late]
    lines = [f"from {origin.checkpoint} (step {origin.step}): kept {_named(restored)}"]
    if keep | late:
        lines.append(f"started afresh: {_named(name for name in run.state.parts if name in keep | late)}")
    if unused := sorted(set(loaded.state) - set(run.state.parts)):
        lines.append(f"left behind, for this run has none: {_named(unused)}")
    notes += forget_measures(run, prepared, loaded.state, keep=keep | late, step=origin.step)
    return lines + notes + compare_front_ends(loaded.meta.versions, _front_end(run))


def _named(parts: Iterable[str]) -> str:
    return ", ".join(PART_NAMES.get(part, part) for part in parts)


def _front_end(run: Run) -> Mapping[str, str]:
    texts = run.plan.facts.texts
    return {} if texts is None else texts.front_end


def _restore_upstream(run: Run, origin: Origin, *, keep: set[str]) -> list[str]:
    """Take weights, average, moments and step from another trainer's file; the LR is this plan's at that step."""
    if run.plan.recipe.lora is not None:
        raise RecipeError(
            "another trainer's run goes on with all its weights, and `lora` trains adapters",
            hint=f"start a new run from it: `ttstrain finetune RECIPE --base {quoted(origin.checkpoint)}`",
        )
    if run.optimizers.new_rows is not None:
        raise RecipeError(
            "new rows train first in a run that starts from a base, and this one goes on",
            hint="leave `model.first_new_rows` out, or start from the file: `ttstrain finetune --base`",
        )
    opened = open_training(open_checkpoint(origin.checkpoint, task=run.plan.recipe.task), task=run.plan.recipe.task)
    opened.check_model(run.plan.recipe.model)
    fitted = run.task.fitted(opened)
    if any(opened.weights.get(name) is not tensor for name, tensor in fitted.weights.items()):
        raise CheckpointError(
            f"`{opened.path}` was trained with other symbols than the recipe's, and a run goes on with its own",
            hint="give it the vocabulary that it was trained with, or start a new run from it: `finetune --base`",
        )
    report = _load(run, opened, fitted.weights)
    restored, fresh = [f"{len(report.matched)} weights"], ["place in the data", "random numbers"]
    if run.ema is not None:
        if opened.ema is not None:
            run.ema.load_state_dict({"weights": read_tree(opened.ema)})
            restored.append("average")
        else:
            run.ema.reset(run.task.exported())
            fresh.append("average")
    if opened.moments is not None and "optimizers" not in keep:
        moments = read_tree(opened.moments)
        state = run.optimizers.state_dict()
        state = {name: {key: dict(moments.get(key, {})) for key in own} for name, own in state.items()}
        if (kinds := run.optimizers.misfit(state)) is None:
            run.optimizers.load_state_dict(state)
            restored.append("moments")
        else:
            fresh.append(f"moments ({kinds})")
    else:
        fresh.append("moments")
    if "progress" in keep:
        fresh.append("step")
    else:
        run.progress.step = origin.step
        restored.append(f"step {origin.step}")
    return [
        f"from {opened.title} ({opened.model}): kept {', '.join(restored)}",
        f"started afresh: {', '.join(fresh)}",
        *opened.notes,
        *fitted.notes,
        *([_taken_on_trust(run.plan, opened)] if opened.unknown else []),
    ]


# ---------------------------------------------------------------- training


def _take_course(run: Run, origin: Origin | None) -> list[str]:
    """Let the run's folder say from where it goes on, before the first step; return a note where a course is left."""
    if origin is None or origin.run != run.folder or not run.ranks.main:
        return []
    former = pointers.pointed(run.store.root, pointers.LAST)
    notes = []
    if former not in (None, origin.checkpoint.name):
        kept = jsonl.keep_course(run.folder / jsonl.FILE_NAME, origin.step)
        where = "" if kept is None else f"; its metrics are kept in `{kept.name}`"
        notes.append(f"the course up to {former} is left{where}; `--from {former}` returns to it until it is pruned")
    run.store.go_on_from(origin.step, best=run.best.step)
    return notes


def _train(
    run: Run, prepared: Prepared, here: _Processes, notes: Sequence[str], *, origin: Origin | None = None
) -> None:
    """Train to the end, whatever it is; trackers hear how it ended."""
    held_out = build.hold_out(run, prepared)
    again = recover_base(run, held_out.previews, lambda: open_for(run.plan.recipe))
    notes = [*notes, *held_out.previews.notes, *again]
    if said := precision.remark(run.plan.recipe.train.precision, run.precision.kind, run.device):
        notes.append(said)
    if held_out.previews.sentences:
        notes.append(f"previews are spoken by {run.task.ready_to_speak()}")
    snapshots = build.make_snapshots(run)
    run_id = run.ranks.broadcast(folder.identity(run.folder))
    assert run_id is not None
    info = RunInfo(
        name=run.folder.name,
        run_dir=run.folder,
        run_id=run_id,
        resumed=origin is not None and origin.run == run.folder,
        recipe=run.plan.recipe.model_dump(mode="json"),
        plan_summary=tuple(plan_lines(run.plan, goes_on_from=None if origin is None else origin.checkpoint.name)),
        total_steps=run.optimizers.curriculum.total_steps,
        start_step=run.progress.step,
        steps_per_epoch=run.plan.steps_per_epoch,
        measured_since=run.best.since,
    )
    notes = [*notes, *_take_course(run, origin)]
    status = "failed"
    try:
        run.trackers.start(info)
        for line in notes:
            run.trackers.note(line)
        here.begin_training()
        status = train(run, held_out, snapshots)
    except PeerError:
        raise
    except UserError as error:
        status = type(error).__name__.removesuffix("Error").lower()
        raise
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        snapshots.drop()
        run.loader.close()
        run.trackers.finish(status)
