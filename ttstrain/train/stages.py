"""Changes of stage: loader, guard, early stop and best; the learning rates follow the curriculum by themselves."""

from __future__ import annotations

from ttstrain.train.run import Run

OF_STAGE = "eval/stage/"  # losses on held-out clips like those of the running stage


def enter_stage(run: Run) -> None:
    """Set loader and early stop to the run's stage, at the start of a run and on resume."""
    curriculum = run.optimizers.curriculum
    curriculum.catch_up(run.progress.step)
    if not curriculum.staged:
        return
    run.loader.enter(curriculum.current.stage.name)
    if run.early_stop is not None:
        run.early_stop.config = curriculum.current.stage.early_stop
    _announce(run)


def begin_next_stage(run: Run) -> None:
    """End the running stage and begin the next one. No rollback goes back beyond this step."""
    place = run.optimizers.curriculum.end_stage(run.progress.step)
    run.loader.enter(place.stage.name)
    run.guard.begin_stage()
    if run.early_stop is not None:
        run.early_stop.restart(place.stage.early_stop)
    if run.best.metric is not None and run.best.metric.startswith(OF_STAGE):
        run.best.forget()  # it was measured on other clips
    _announce(run)


def _announce(run: Run) -> None:
    curriculum = run.optimizers.curriculum
    place = curriculum.current
    if run.ranks.main:
        where = f"stage {place.index + 1} of {len(curriculum.stages)}, `{place.stage.name}`"
        run.trackers.note(f"{where}: steps {place.start:,} to {place.end:,}, of {curriculum.total_steps:,}")
