"""One clip learned by heart, with the very steps of a run."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ttstrain.prove.material import Material
from ttstrain.prove.weights import EmaRecord
from ttstrain.train.run import Run
from ttstrain.train.step import train_step

MOST_STEPS = 150
FEWEST_STEPS = 20  # fewer prove nothing about what was learned
WINDOW = 5  # steps over which the loss is averaged at either end
FRESH_LR = 2.0  # times the recipe's LRs for a net from scratch
BASE_LR = 10.0  # times those of a fine-tune at most, which are made for many steps
HIGHEST_LR = 5e-4  # to which those of a fine-tune are raised; higher ones of a recipe stay as they are


@dataclass(frozen=True, slots=True)
class Learned:
    """How the learning went."""

    steps: int
    seconds: float
    losses: dict[str, tuple[float, float]]  # label -> mean of the first steps, of the last
    ema: EmaRecord
    refused: str = ""  # why an update was refused; "" if none was

    @property
    def enough(self) -> bool:
        return self.steps >= FEWEST_STEPS


def learn(material: Material, batch: Any, *, seconds: float, most: int | None = None) -> Learned:
    """Train on one batch for so many steps, or for as long as there is time."""
    run = material.run
    most = MOST_STEPS if most is None else most
    run.progress.step = material.first_step
    run.guard.lr_factor = FRESH_LR if material.base is None else _faster(run)
    run.task.train()
    ema = EmaRecord(run)
    history: dict[str, list[float]] = {}
    started, done, refused = perf_counter(), 0, ""
    while done < most and _go_on(done, perf_counter() - started, seconds=seconds, most=most):
        report = train_step(run, [batch])
        if report.refused:
            refused = next(iter(report.refused.values())).judgement
            break
        done += 1
        ema.follow()
        for label, value in report.losses.items():
            history.setdefault(label, []).append(value)
    ends = {label: (_mean(values[:WINDOW]), _mean(values[-WINDOW:])) for label, values in history.items()}
    return Learned(done, perf_counter() - started, ends, ema, refused)


def _go_on(done: int, taken: float, *, seconds: float, most: int) -> bool:
    """Tell whether there is time for another step; two are made where too few to prove anything would fit."""
    if done < 2:
        return True
    each = taken / done
    fits = each * (done + 1) < seconds
    return fits and each * min(FEWEST_STEPS, most) < seconds


def _faster(run: Run) -> float:
    """Return by what the LRs of a fine-tune are multiplied, so that a few steps learn a clip."""
    peak = max(group.lr for group in run.optimizers.table.groups)
    return max(1.0, min(BASE_LR, HIGHEST_LR / peak))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
