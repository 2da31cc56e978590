"""Resume a run of ours, or an upstream training file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ttstrain.checkpoint import pointers, run_folder
from ttstrain.checkpoint.lock import RunLock, hold
from ttstrain.errors import RecipeError
from ttstrain.modules import lora
from ttstrain.optim.settings import check_installed
from ttstrain.plan.plan import Plan
from ttstrain.plan.project import with_project
from ttstrain.plan.refuse import check_resume
from ttstrain.plan.resolve import parse, resolve
from ttstrain.plan.sharding import Room
from ttstrain.recipe.compose import COMMAND_LINE, Composed, compose, compose_run, with_flags
from ttstrain.recipe.schema import base_files
from ttstrain.runs import folder
from ttstrain.runs.assemble import Ready, assemble, check_alike, describe
from ttstrain.runs.changed_data import check_measurable, clips_before, tell_changes
from ttstrain.runs.kept import from_where_started, kept_shard, with_kept_files
from ttstrain.runs.measured import foresee
from ttstrain.runs.new import begin
from ttstrain.runs.origin import Origin, find, not_begun, run_of
from ttstrain.runs.processes import Processes, join_processes
from ttstrain.runs.restore import restore
from ttstrain.runs.tracked import tracked
from ttstrain.train.faster import check_machine
from ttstrain.train.loop import train
from ttstrain.train.prepare import ShowProgress, no_progress, prepare


def resume(
    path: Path,
    overrides: Sequence[str],
    *,
    reset_step: bool = False,
    reset_optimizer: bool = False,
    checkpoint: Path | None = None,
    recipe: str | None = None,
    data: Path | None = None,
    base: Sequence[str] | None = None,
    show: ShowProgress = no_progress,
) -> Path:
    """Resume a run of ours, or an upstream training file under a recipe; return the run's folder.

    `base` names the files of the base that a run's adapters were trained on, at their new place. Raises RecipeError
    when the schedule has ended, with the ways out.
    """
    with join_processes() as here:
        earlier = here.earlier_attempt()
        if earlier is not None and earlier.has_moved_on():
            return _train(_go_on(earlier.folder, here, show=show), here)
        own = None if reset_step else run_of(path)  # `--reset-step` only reads the run, and trains in a new folder
        place = own if own is not None or earlier is None else earlier.folder
        if place is not None:
            here.hold(lambda: _locked(place, here))
        if own is not None and checkpoint is None and not_begun(own):
            ready = _begin_again(own, overrides, here, data=data, base=base, show=show)
        else:
            origin = find(path, run=run_of(path), checkpoint=checkpoint, recipe=recipe)
            composed, name = _compose(origin.run, overrides, recipe=recipe, data=data, base=base)
            resets = {"reset_step": reset_step, "reset_optimizer": reset_optimizer}
            ready = _continue(origin, composed, name, here, place=place, show=show, **resets)
        return _train(ready, here)


def start_again(composed: Composed, *, show: ShowProgress = no_progress) -> Path:
    """Do `finetune` in processes that were started again: go on with the run that an earlier attempt has begun."""
    with join_processes() as here:
        earlier = here.earlier_attempt()
        if earlier is None:
            ready = begin(composed, composed.name, here, show=show)
        elif run_of(earlier.folder) is None:  # it is not described yet
            place = here.hold(lambda: _locked(earlier.folder, here))
            ready = begin(composed, composed.name, here, show=show, place=place)
        else:
            ready = _go_on(earlier.folder, here, show=show)
        return _train(ready, here)


def _train(ready: Ready, here: Processes) -> Path:
    with tracked(ready, here, foresee(ready)) as training:
        training.status = train(ready.run, training.held_out, training.snapshots)
    return ready.run.folder


def _go_on(run: Path, here: Processes, *, show: ShowProgress) -> Ready:
    """Get a run ready to go on from its last checkpoint, or from its base where it has none."""
    here.hold(lambda: _locked(run, here))
    if not_begun(run):
        return _begin_again(run, (), here, data=None, base=None, show=show)
    origin = find(run, run=run, checkpoint=None, recipe=None)
    composed, name = _compose(run, (), recipe=None, data=None, base=None)
    return _continue(origin, composed, name, here, place=run, reset_step=False, reset_optimizer=False, show=show)


def _continue(
    origin: Origin,
    composed: Composed,
    name: str,
    here: Processes,
    *,
    place: Path | None,
    reset_step: bool,
    reset_optimizer: bool,
    show: ShowProgress,
) -> Ready:
    """Get a run ready to resume from its origin, in its own folder `place` or in a new one."""
    composed, kept_notes = _as_it_was(composed, origin)
    checked = parse(composed)
    device = here.choose_device(checked)
    lora.check_installed(checked.lora)
    check_installed(checked.optim)
    check_machine(checked.train, device)
    before, before_notes = clips_before(origin.run, composed) if here.ranks.main else (None, [])
    prepared = prepare(checked, device=device, ranks=here.ranks, show=show, earlier=before)
    check_measurable(prepared)
    plan = resolve(
        checked,
        origins=composed.origins,
        facts=prepared.facts,
        world_size=here.ranks.world_size,
        source_name=name,
        room=Room(here.gpu_memory(device), kept_shard(composed, origin.run, world_size=here.ranks.world_size)),
    )
    if not reset_step:
        check_resume(plan, origin.step, ended=origin.ended, owes_evaluation=origin.owes_evaluation)
    place = place or here.hold(lambda: _new_folder(origin, plan))
    run = assemble(plan, prepared, place, device, here)
    named = base_files(plan.recipe.base) if composed.places.get("base") == COMMAND_LINE else ()
    restored = restore(run, origin, prepared, reset_step=reset_step, reset_optimizer=reset_optimizer, base=named)
    check_alike(run)
    changed = [*before_notes, *tell_changes(run, prepared, step=origin.step)]
    notes = (*describe(run, prepared, origin), *here.notes, *kept_notes, *changed, *restored)
    return Ready(run, prepared, notes, origin)


def _compose(
    run: Path | None,
    overrides: Sequence[str],
    *,
    recipe: str | None,
    data: Path | None,
    base: Sequence[str] | None,
) -> tuple[Composed, str]:
    """Return the recipe of the resumed run, and the run's name."""
    if run is None:
        assert recipe is not None
        if base:
            raise RecipeError("an upstream training file holds all its weights", hint="leave `--base` out")
        composed = with_project(with_flags(compose(recipe, overrides), data=data))
        return composed, composed.name
    composed = compose_run(run, overrides, origins=run_folder.origins(run))
    return with_flags(composed, data=data, base=base), run_folder.name(run)


def _as_it_was(composed: Composed, origin: Origin) -> tuple[Composed, list[str]]:
    """Point the recipe of a run of ours to the files that it was started with; return it with notes."""
    if origin.run is None:
        return composed, []
    composed, path_notes = from_where_started(composed, run_folder.directory(origin.run))
    composed, file_notes = with_kept_files(composed, checkpoint=origin.checkpoint, run=origin.run)
    return composed, [*run_folder.damage(origin.run), *path_notes, *file_notes]


def _locked(run: Path, here: Processes) -> RunLock:
    """Take a run's lock, and repair its checkpoints after a process that died in the middle of a save."""
    with ExitStack() as until_refused:
        lock = until_refused.enter_context(hold(run))
        folder.refuse_links(run)
        pointers.recover(run / pointers.CHECKPOINTS)
        if (note := pointers.mend_last(run / pointers.CHECKPOINTS)) is not None:
            here.notes.append(note)
        until_refused.pop_all()
    return lock


def _begin_again(
    run: Path,
    overrides: Sequence[str],
    here: Processes,
    *,
    data: Path | None,
    base: Sequence[str] | None,
    show: ShowProgress,
) -> Ready:
    """Start a run from its base again, where it ended before its first checkpoint. Its steps give the same numbers."""
    composed, name = _compose(run, overrides, recipe=None, data=data, base=base)
    composed, path_notes = from_where_started(composed, run_folder.directory(run))
    here.notes += [f"`{run}` ended before its first checkpoint: it begins again from its base", *path_notes]
    return begin(composed, name, here, show=show, place=run)


def _new_folder(origin: Origin, plan: Plan) -> RunLock:
    return folder.create(plan) if origin.run is None else folder.create_beside(origin.run)
