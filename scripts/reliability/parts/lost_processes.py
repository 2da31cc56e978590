"""One of two processes is killed, in every task."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reliability import tasks
from reliability.frame import Limits, Part, Row, Tally
from reliability.parts.faults import GUARANTEES, SETTINGS, drawn, survives


def count(limits: Limits) -> Iterator[Row]:
    """Yield the one row."""
    dice = random.Random(limits.seed)
    tally = Tally("`lost_rank`", GUARANTEES["lost_rank"])
    names = tasks.find()[:1] if limits.form == "short" else tasks.find()
    for bench in tasks.make_benches(limits.scratch / "ranks", names, *SETTINGS, nproc=2):
        tally.add(survives(bench, [drawn("lost_rank", dice)], dice))
        if limits.over:
            break
    yield tally.row


PART = Part(
    title="Lost processes",
    method="A try is a run of eight steps of a small net, one for each task, by two processes on this machine "
    "(`--nproc 2`). The second is killed in a step that a seed draws, and the launcher starts both again.",
    count=count,
    minutes=5,
)
