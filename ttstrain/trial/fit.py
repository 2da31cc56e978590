"""The largest micro-batch budget that fits a memory: each budget is tried with its worst micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from ttstrain.errors import OutOfMemoryError
from ttstrain.plan.render import shown_bytes
from ttstrain.train.prepare import Prepared
from ttstrain.train.run import Run
from ttstrain.train.step import DidNotFit, train_step
from ttstrain.trial import memory
from ttstrain.trial.worst import collate, worst_batches

KEY = "data.batch_frames"
MOST_TRIED = 6
MOST_GROWTH = 4.0  # of the budget from one trial to the next
NEAR = 0.95  # of the room: no larger budget is looked for


@dataclass(frozen=True, slots=True)
class Tried:
    """A budget and what its worst micro-batches took."""

    budget: int
    memory: int  # bytes; of one that did not fit the device, what was taken before
    failed: bool = False  # memory ran out


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest budget that was tried and fitted."""

    budget: int
    memory: int
    room: int
    tried: tuple[Tried, ...]  # in the order in which they were tried
    bound: str  # what bounds it: `memory`, or `data` where no micro-batch could be larger


def fit(run: Run, prepared: Prepared, *, room: int, told: Callable[[int, int], None] | None = None) -> Fit:
    """Find the largest budget whose worst micro-batches take at most `room` bytes.

    `told` gets the number of budgets that were tried, and how many are tried at most. The weights of the run are
    trained meanwhile. Raises OutOfMemoryError where even the longest clip alone does not fit.
    """
    data = prepared.task_data
    lengths = [data.length(clip) for clip in [*prepared.train, *prepared.replay]]
    most_clips = run.plan.recipe.data.max_clips
    most = sum(lengths) if data.packed else max(lengths) * min(len(lengths), most_clips)

    done = count(1)

    def take(budget: int) -> Tried:
        tried = _take(run, prepared, budget=budget, max_clips=most_clips)
        if told is not None:
            told(next(done), MOST_TRIED + 1)
        return tried

    found = search(take, smallest=max(lengths), largest=most, room=room)
    good = [one for one in found if not one.failed and one.memory <= room]
    if not good:
        raise OutOfMemoryError(
            f"not even the longest clip alone fits: it takes {shown_bytes(found[0].memory)}"
            f"{' and more' if found[0].failed else ''}, and there is room for {shown_bytes(room)}",
            hint="leave long clips out (`data.max_s`), or train less of the model (`lora`, `frozen`)",
        )
    best = max(good, key=lambda one: one.budget)
    return Fit(best.budget, best.memory, room, tuple(found), "data" if best.budget >= most else "memory")


def search(take: Callable[[int], Tried], *, smallest: int, largest: int, room: int) -> list[Tried]:
    """Try budgets from the smallest up, each where a straight line through the last two would fill the room."""
    tried = [take(smallest)]
    budget = smallest
    while len(tried) < MOST_TRIED and _fits(tried[-1], room):
        last = tried[-1]
        if last.memory >= NEAR * room or last.budget >= largest:
            break
        wanted = 2 * budget
        if len(tried) > 1 and last.memory > tried[-2].memory:
            slope = (last.memory - tried[-2].memory) / (last.budget - tried[-2].budget)
            wanted = int(last.budget + (0.5 + 0.5 * NEAR) * (room - last.memory) / slope)
        budget = _rounded(min(wanted, int(MOST_GROWTH * last.budget), largest), exact=largest)
        if budget <= last.budget:
            break
        tried.append(take(budget))
    if len(tried) > 1 and not _fits(tried[-1], room):
        tried += _between(take, tried, room=room)
    return tried


def _between(take: Callable[[int], Tried], tried: list[Tried], *, room: int) -> list[Tried]:
    """Try one budget between the last that fitted and the first that did not."""
    good, bad = tried[-2], tried[-1]
    share = 0.5 if bad.failed else (NEAR * room - good.memory) / (bad.memory - good.memory)
    budget = _rounded(int(good.budget + max(0.0, share) * (bad.budget - good.budget)), exact=bad.budget)
    return [take(budget)] if good.budget < budget < bad.budget else []


def _fits(one: Tried, room: int) -> bool:
    return not one.failed and one.memory <= room


def _rounded(budget: int, *, exact: int) -> int:
    """Round down to two digits, but for the budget that holds everything."""
    if budget >= exact:
        return exact
    unit = int(10 ** max(len(str(budget)) - 2, 0))
    return budget // unit * unit


def _take(run: Run, prepared: Prepared, *, budget: int, max_clips: int) -> Tried:
    rounds = 2 if run.progress.step == 0 else 1  # the first step makes the optimizer's state at its end
    memory.begin_peak(run.device)
    try:
        for clips in worst_batches(prepared, budget=budget, max_clips=max_clips) * rounds:
            train_step(run, [collate(prepared, clips)], measure=True)
    except DidNotFit:
        return Tried(budget, memory.peak(run.device), failed=True)
    return Tried(budget, memory.peak(run.device))
