"""What a refused step leaves of a run's state, seen in the run's own process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reliability.small import flat, same

KEPT, PUT_BACK = "all is as before", "all is as in the snapshot"
TRAINED = ("task", "optimizers", "ema")  # what a skipped step leaves as it was; the others count it


def watch(seen: Path) -> None:
    """Write to `seen`, for each step that this process refuses, what it left; for the rest of the process's life.

    Copies are made when a snapshot is taken and before each step, so that what is compared is not the snapshot's own.
    """
    from ttstrain.train import loop
    from ttstrain.train.snapshot import STAYS, MemorySnapshots

    real_take, real_step = MemorySnapshots.take, loop.take_step
    held: dict[str, Any] = {}

    def take(self: MemorySnapshots, state: Any, step: int) -> None:
        real_take(self, state, step)
        held.clear()
        held.update({part: tree for part, tree in state.snapshot().items() if part not in STAYS})

    def take_step(run: Any, *rest: Any, **more: Any) -> Any:
        before = {part: tree for part, tree in run.state.snapshot().items() if part in TRAINED}
        taken = real_step(run, *rest, **more)
        if taken[0] is None:
            left = _left(run.state.snapshot(), before, held)
            with seen.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": run.progress.step + 1, "left": left}) + "\n")
        return taken

    MemorySnapshots.take = take  # type: ignore[method-assign]
    loop.take_step = take_step


def _left(now: Mapping[str, Any], before: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """Compare the state with that before the step and with the snapshot, bit for bit."""
    if _differing(now, before) is None:
        return KEPT
    differing = _differing(now, held)
    return PUT_BACK if differing is None else f"`{differing}` is neither as before nor as in the snapshot"


def _differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    ours, theirs = flat({part: now[part] for part in then}), flat(then)
    differing = (key for key in ours.keys() | theirs.keys() if not same(ours.get(key), theirs.get(key)))
    return next(differing, None)
