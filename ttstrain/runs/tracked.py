"""What surrounds the training loop: the held-out data, and the trackers from their start to their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ttstrain.checkpoint import pointers, run_folder
from ttstrain.checkpoint.merging import open_for
from ttstrain.errors import PeerError, RecipeError, UserError
from ttstrain.forecast.forecast import forecast_lines
from ttstrain.plan.render import plan_lines
from ttstrain.recipe.faults import injected_note
from ttstrain.runs.assemble import Ready
from ttstrain.runs.measured import Foreseen, look_back
from ttstrain.runs.origin import Origin
from ttstrain.runs.processes import Processes
from ttstrain.shell import quoted
from ttstrain.tracking import jsonl
from ttstrain.tracking.tracker import Former, RunInfo
from ttstrain.train import build, precision
from ttstrain.train.guard import Incident
from ttstrain.train.held_out import HeldOut, hold_out
from ttstrain.train.incidents import tell
from ttstrain.train.launched import attempt
from ttstrain.train.previews import recover_base
from ttstrain.train.run import Run
from ttstrain.train.snapshot import Snapshots


@dataclass(slots=True)
class Training:
    """What the loop needs beside the run, and how it ended."""

    held_out: HeldOut
    snapshots: Snapshots
    status: str = "failed"  # until the loop ends


@contextmanager
def tracked(ready: Ready, here: Processes, foreseen: Foreseen | None = None) -> Iterator[Training]:
    """Start the trackers, yield the loop's inputs, and finish the trackers with the run's status, also on an error.

    With `foreseen`, what was forecast of the session is shown at its start, and compared with what it took at its end.
    """
    run, origin = ready.run, ready.origin
    held_out = hold_out(run, ready.prepared)
    again = recover_base(run, held_out.previews, lambda: open_for(run.plan.recipe))
    notes = [*ready.notes, *held_out.previews.notes, *again]
    if said := precision.remark(run.plan.recipe.train.precision, run.precision.kind, run.device):
        notes.append(said)
    if held_out.previews.sentences:
        notes.append(f"previews are generated with {run.task.prepare_sampling()}")
    if run.injector is not None:
        notes.append(f"WARNING: faults are injected: {injected_note(run.injector.named)}")
    training = Training(held_out, build.make_snapshots(run))
    info = _info(run, origin, foreseen)
    notes += _resume_folder(run, origin)
    reached = jsonl.last_step(run.folder / jsonl.FILE_NAME)
    try:
        run.trackers.start(info)
        if here.lost is not None:
            _tell_of_lost(run, here.lost, reached=reached)
        for line in notes:
            run.trackers.note(line)
        here.begin_training()
        yield training
        if foreseen is not None:
            look_back(ready, foreseen, ending=training.status)
    except PeerError:
        raise
    except RecipeError as error:  # such as a wrong metric name, found at the first evaluation
        training.status = "recipe"
        if origin is not None or pointers.list_checkpoints(run.store.root):
            raise
        left = f"`{run.folder}` holds no checkpoint: delete it (`rm -r {quoted(run.folder)}`) or leave it"
        raise RecipeError(error.message, hint=f"{error.hint}; {left}" if error.hint else left) from error
    except UserError as error:
        training.status = type(error).__name__.removesuffix("Error").lower()
        raise
    except KeyboardInterrupt:
        training.status = "interrupted"
        raise
    finally:
        training.snapshots.drop()
        run.loader.close()
        run.trackers.finish(training.status)


def _info(run: Run, origin: Origin | None, foreseen: Foreseen | None) -> RunInfo:
    run_id = run.ranks.broadcast(run_folder.identity(run.folder))
    assert run_id is not None
    goes_on_from = None if origin is None else origin.checkpoint.name
    said = None if foreseen is None else foreseen.forecast
    lines = plan_lines(run.plan, goes_on_from=goes_on_from, forecast=[] if said is None else forecast_lines(said))
    return RunInfo(
        name=run.folder.name,
        run_dir=run.folder,
        run_id=run_id,
        resumed=origin is not None and origin.run == run.folder,
        recipe=run.plan.recipe.model_dump(mode="json"),
        plan_summary=tuple(lines),
        total_steps=run.optimizers.curriculum.total_steps,
        start_step=run.progress.step,
        steps_per_epoch=run.plan.steps_per_epoch,
        former=_former(run, origin),
        measured_since=run.best.since,
    )


def _tell_of_lost(run: Run, lost: str, *, reached: int) -> None:
    """Tell that a launcher has started the run's processes again; `reached` is the last step they had logged."""
    incident = Incident(
        step=max(reached, run.progress.step),
        kind="lost_process",
        action="restart",
        optimizer=None,
        loss=None,
        grad_norm=None,
        lrs={},
        clips=[],
        restored_step=run.progress.step,
        notes=[lost, f"all were started again (restart {attempt()})"],
    )
    tell(run, incident)


def _former(run: Run, origin: Origin | None) -> Former | None:
    if origin is None or origin.run is None or origin.run == run.folder:
        return None
    return Former(origin.run.name, run_folder.identity(origin.run), origin.step)


def _resume_folder(run: Run, origin: Origin | None) -> list[str]:
    """Point the run's folder to the checkpoint that it resumes from; return a note where that is not the last one."""
    if origin is None or origin.run != run.folder or not run.ranks.main:
        return []
    former = pointers.pointed(run.store.root, pointers.LAST)
    notes = []
    if former not in (None, origin.checkpoint.name):
        kept = jsonl.keep_course(run.folder / jsonl.FILE_NAME, origin.step)
        where = "" if kept is None else f"; its metrics are kept in `{kept.name}`"
        notes.append(
            f"continues from an earlier checkpoint, not from {former}{where}; `--from {former}` returns to it until it "
            "is pruned"
        )
    run.store.resume_from(origin.step, best=run.best.step)
    return notes
