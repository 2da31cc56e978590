"""Between two steps: evaluate, update the best checkpoint and the early stop, and generate previews."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

from ttstrain.contract.listening import CHOSEN_SCORE, Speaker
from ttstrain.errors import DivergedError
from ttstrain.plan.refuse import check_measured
from ttstrain.tensors.finite import named
from ttstrain.train import checkpointing, recovery, stages
from ttstrain.train.decide import Ending, Found, Requests
from ttstrain.train.evaluate import evaluate
from ttstrain.train.held_out import HeldOut
from ttstrain.train.previews import generate_previews
from ttstrain.train.recovery import EVALUATED
from ttstrain.train.requests import leave, look_for_requests, save_and_leave
from ttstrain.train.run import Run
from ttstrain.train.signals import Hurried, Signals
from ttstrain.train.spent import EVALUATION, SAMPLES
from ttstrain.train.stages import OF_STAGE

BY_RESUME, ONCE_SAVED = "`ttstrain resume` runs it", "it follows once the run is saved"


def measure_first(run: Run, held_out: HeldOut, signals: Signals) -> Ending | None:
    """Evaluate the starting weights, or catch up on an evaluation that the last session had no time for.

    A run that is then complete is saved. Raises DivergedError if the held-out loss is not finite: later losses could
    not be compared with it.
    """
    progress, curriculum = run.progress, run.optimizers.curriculum
    first, in_last_stage = progress.step == 0, curriculum.is_last
    if not first and not progress.owes_evaluation:
        return None
    values = measure(run, held_out, signals, Requests(), evaluates=True, speaks=first)
    if bad := [key for key, value in values.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"{named(bad)} is not finite before {'the first' if first else 'another'} step, though the weights are",
            hint="try `train.precision=fp32`, check the held-out clips, or switch evaluation off (`eval.every=null`)",
        )
    if first:
        run.guard.first_loss = recovery.main_loss(run, values)
    found = remember(run, values)
    if found.out_of_patience and not in_last_stage:
        stages.begin_next_stage(run)
    complete = progress.step >= curriculum.total_steps and not progress.owes_evaluation
    if not first and (found.improved or found.out_of_patience or complete):
        checkpointing.save(run, best=found.improved, metrics=values)
    if complete:
        return leave(run, "done")
    if (requests := look_for_requests(run, signals)).leave:
        return save_and_leave(run, requests.leave)
    return "early stop" if found.out_of_patience and in_last_stage else None


def measure(
    run: Run,
    held_out: HeldOut,
    signals: Signals,
    requests: Requests,
    *,
    evaluates: bool,
    speaks: bool,
    then: str = BY_RESUME,
) -> dict[str, float]:
    """Evaluate and generate previews; return the evaluation, and the judge's score where that decides.

    When a signal asks to leave, before or meanwhile, the rest is left out. An evaluation that is left out is recorded
    in `progress.owes_evaluation`; `then` tells the user when it is made.
    """
    values: dict[str, float] = {}
    heard: dict[str, float] = {}
    run.progress.owes_evaluation = evaluates
    try:
        if requests.hurried:
            raise Hurried
        if evaluates:
            with run.spent.on(EVALUATION):
                values = _evaluate(run, held_out, signals)
            run.progress.owes_evaluation = False
        if speaks and all(math.isfinite(value) for value in values.values()):
            with run.spent.on(SAMPLES):
                heard = generate_previews(run, held_out.previews, losses=_totals(values), breakable=signals.breakable)
                _report(run, heard)
    except Hurried:
        if run.ranks.main:
            what = f"the evaluation; {then}" if run.progress.owes_evaluation else "samples"
            run.trackers.note(f"left out to save in time after step {run.progress.step}: {what}")
    by_judge = run.best.metric == CHOSEN_SCORE or (run.early_stop is not None and run.early_stop.by_judge)
    if speaks and by_judge:  # the main process heard it, and all of them decide by it
        values |= run.ranks.broadcast({key: value for key, value in heard.items() if key == CHOSEN_SCORE})
    return values


def _totals(values: Mapping[str, float]) -> dict[Speaker, float]:
    """Return the held-out losses of raw and EMA weights, by the main one."""
    keys: dict[Speaker, str] = {"online": "eval/loss/total", "ema": "eval/ema_loss/total"}
    return {weights: values[key] for weights, key in keys.items() if key in values}


def remember(run: Run, values: Mapping[str, float]) -> Found:
    """Update the best checkpoint and the early stop. The evaluation of step 0 does not count against the patience."""
    if improved := run.best.improves(values):
        run.best.take(run.progress.step, values)
    stop = run.early_stop
    if stop is None or run.progress.step == 0:
        return Found(improved)
    measured = CHOSEN_SCORE in values if stop.by_judge else any(key != CHOSEN_SCORE for key in values)
    return Found(improved, out_of_patience=measured and stop.update(values))


def _evaluate(run: Run, held_out: HeldOut, signals: Signals) -> dict[str, float]:
    if not held_out.batches and not held_out.retained:
        return {}
    curriculum = run.optimizers.curriculum
    stage = held_out.stages.get(curriculum.current.stage.name)

    def measured() -> dict[str, float]:
        return evaluate(run, held_out.batches, held_out.retained, stage=stage, hurried=lambda: signals.hurried)

    values = measured()
    if run.precision.kind == "fp16" and not all(math.isfinite(value) for value in values.values()):
        note = recovery.fall_back(run)
        if run.ranks.main:
            run.trackers.incident(run.progress.step, "fall back", f"the evaluation was not finite; {note}")
        values = measured()
    if curriculum.staged and stage is None:
        losses = {key: value for key, value in values.items() if key.startswith(EVALUATED)}
        values |= {key.replace(EVALUATED, OF_STAGE): value for key, value in losses.items()}
    check_measured(run.plan.recipe, run.plan.origins, values)
    _report(run, values)
    if run.ranks.main:
        losses = {key.removeprefix(EVALUATED): loss for key, loss in values.items() if key.startswith(EVALUATED)}
        with suppress(Exception):  # a failed remark must not end the run
            for remark in run.task.remarks(losses, step=run.progress.step):
                run.trackers.note(remark)
    return values


def _report(run: Run, values: Mapping[str, float]) -> None:
    if run.ranks.main and values:
        run.trackers.log(run.progress.step, values)
