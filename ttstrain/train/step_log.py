"""The metrics that are logged for a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.contract.data import Batch
from ttstrain.train.compiled import num_forms
from ttstrain.train.peak import peak_flops
from ttstrain.train.run import Run
from ttstrain.train.step import StepReport


@dataclass(frozen=True, slots=True)
class Taken:
    """A completed step and its times."""

    report: StepReport
    batches: Sequence[Batch]
    step_s: float  # data included
    data_s: float


def log_step(run: Run, taken: Taken) -> None:
    """Log all metrics of a step to the trackers."""
    if not run.ranks.main:
        return
    report = taken.report
    values: dict[str, float] = {}
    values |= {f"train/loss/{name}": value for name, value in report.losses.items()}
    values |= {f"train/metric/{name}": value for name, value in report.metrics.items()}
    values |= {f"optim/lr/{group}": lr for group, lr in report.lrs.items()}
    values |= {f"optim/grad_norm/{name}": norm for name, norm in report.grad_norms.items()}
    values |= {f"optim/group_norm/{group}": norm for group, norm in report.group_norms.items()}
    values |= {f"optim/update_ratio/{group}": ratio for group, ratio in report.update_ratios.items()}
    if run.ema is not None:
        values["ema/decay"] = run.ema.decay_at(report.step)
    if run.precision.kind == "fp16":
        values["optim/loss_scale"] = run.precision.scale
    if (curriculum := run.optimizers.curriculum).staged:
        values["train/stage"] = curriculum.at(report.step - 1).index + 1
        values["train/total_steps"] = curriculum.total_steps
    values["guard/skipped"] = run.guard.skipped
    values["guard/rollbacks"] = run.guard.rollbacks
    if run.injector is not None:
        values["debug/injected"] = run.injector.num_entered
    values["data/epoch"] = run.loader.epoch
    values["time/step_s"] = taken.step_s
    values["time/data_s"] = taken.data_s
    values["perf/frames_per_s"] = report.num_frames / taken.step_s
    values["perf/padding_share"] = 1 - report.num_frames / report.num_padded
    if run.plan.recipe.train.compile:
        values["perf/compiled_forms"] = num_forms()
    if (mfu := _mfu(run, taken.batches, step_s=taken.step_s)) is not None:
        values["perf/mfu"] = mfu
    run.trackers.log(report.step, values)


def _mfu(run: Run, batches: Sequence[Batch], *, step_s: float) -> float | None:
    """Return the MFU: FLOPs of the step per second over the device's peak; None if either is unknown."""
    peak = peak_flops(run.device, run.precision.kind, run.plan.recipe.train.tf32)
    if peak is None:
        return None
    counted = [flops for batch in batches if (flops := run.task.flops(batch)) is not None]
    return sum(counted) / step_s / peak if len(counted) == len(batches) else None
