"""Every fault of `debug.inject` that one process can have, in every task, in fp32 and bf16, alone and in pairs."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reliability import small, tasks
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Ended, run
from reliability.refused_steps import KEPT, PUT_BACK, watch
from reliability.small import Bench
from reliability.tasks import EVERY, STEPS
from ttstrain.checkpoint import pointers, store
from ttstrain.errors import CheckpointError, OutOfMemoryError
from ttstrain.recipe.faults import KINDS, Fault, FaultKind
from ttstrain.tensors.finite import non_finite
from ttstrain.train.inject import RECORD

PRECISIONS = ("fp32", "bf16")
WINDOW = 3  # losses after which the guard knows a spike
SETTINGS = ("checkpoint.keep_last=99", f"guard.window={WINDOW}", "guard.snapshot_every=2")
PAIRS = 6  # for each task and precision, as many in a turn
SESSIONS = 6  # of one run, at most
SHORT: tuple[FaultKind, ...] = ("nan_loss", "bit_flip", "kill")

SAME = "the run ends as if undisturbed, bit for bit"
GOES_ON = (
    "the run goes on; the incident says kind, cause and clips; weights, optimizers and EMA are, bit for bit, those "
    "before the step, or all is as in the snapshot"
)
GUARANTEES: dict[FaultKind, str] = {
    "nan_loss": GOES_ON,
    "inf_grad": GOES_ON,
    "spike": GOES_ON,
    "oom": "the run goes on with smaller micro-batches, from before the step or from the snapshot, and says so; a clip "
    "that does not fit alone is named, and ends the run with exit code 6",
    "sigterm": f"exit code 75; after `resume` {SAME}",
    "kill": f"after `resume` {SAME}",
    "worker_death": f"the training process loads the data itself; {SAME}",
    "bad_clip": f"{GOES_ON}; it names that clip alone",
    "disk_full": f"an incident names the full disk, and the next save is made; {SAME}",
    "slow_disk": SAME,
    "bit_flip": f"that checkpoint alone is refused, and an intact one named; from there {SAME}",
    "lost_rank": f"the launcher says so and starts all processes again, an incident tells it; {SAME}",
}
REFUSED: dict[FaultKind, tuple[str, str | None]] = {  # the incident's kind and cause
    "nan_loss": ("non_finite_loss", "not repeatable"),
    "inf_grad": ("non_finite_gradient", "not repeatable"),
    "spike": ("spike", "not repeatable"),
    "bad_clip": ("non_finite_loss", "data"),
    "oom": ("out_of_memory", None),
}
NOTED: dict[FaultKind, str] = {
    "disk_full": "failed_save",
    "lost_rank": "lost_process",
}  # an incident that changes nothing that is learned
CODES: dict[FaultKind, int] = {"sigterm": 75, "kill": -signal.SIGKILL}
"""How a fault ends a run; where it is not named, the run goes on."""


def count(limits: Limits) -> Iterator[Row]:
    """Yield a row for each fault, and one for pairs."""
    dice = random.Random(limits.seed)
    tallies = {kind: Tally(f"`{kind}`", guarantee) for kind, guarantee in GUARANTEES.items()}
    pairs = Tally("two of these in one run", f"as alone; where both leave no trace, {SAME}")
    short = limits.form == "short"
    names = tasks.find()[:1] if short else tasks.find()
    alone: list[FaultKind] = [kind for kind in (SHORT if short else KINDS) if kind != "lost_rank"]
    benches = [
        bench
        for precision in (PRECISIONS[:1] if short else PRECISIONS)
        for bench in tasks.make_benches(limits.scratch / precision, names, *SETTINGS, f"train.precision={precision}")
    ]
    for turn in range(len(benches)):  # every fault and some pairs in each turn: a limit of time leaves none out
        for place, kind in enumerate(alone):
            if not limits.over:
                tallies[kind].add(survives(benches[(turn + place) % len(benches)], [drawn(kind, dice)], dice))
        for number in range(0 if short else PAIRS):
            if not limits.over:
                bench = benches[(turn * PAIRS + number) % len(benches)]
                pairs.add(survives(bench, _drawn_pair(dice.sample(alone, 2), dice), dice))
    yield from (tally.row for kind, tally in tallies.items() if kind in alone)
    if not short:
        yield pairs.row


def drawn(kind: FaultKind, dice: random.Random) -> Fault:
    """Draw the step of a fault: a full disk after the first save, and a spike once the guard knows one."""
    first = {"spike": WINDOW + 2, "disk_full": EVERY + 1}.get(kind, 2)
    return Fault(kind, dice.randrange(first, STEPS))


def _drawn_pair(kinds: Sequence[FaultKind], dice: random.Random) -> list[Fault]:
    """Draw the steps of two faults: a process that is killed while it handles another fault does not tell of that."""
    while True:
        faults = [drawn(kind, dice) for kind in kinds]
        killed = {fault.step for fault in faults if fault.kind == "kill"}
        others = [fault for fault in faults if fault.kind != "kill"]
        if not any(killed.intersection(range(_enters(one), _told(one) + 1)) for one in others):
            return faults


def _told(fault: Fault) -> int:
    """Return the step in which a run has told of a fault: of a failed save, before the next one."""
    return _enters(fault) + (EVERY if fault.kind in NOTED else 0)


# ---------------------------------------------------------------- one run


def survives(bench: Bench, faults: Sequence[Fault], dice: random.Random) -> str | None:
    """Say what went wrong with a run in which faults enter, and with the sessions that went on with it."""
    name = "-".join(f"{fault.kind}{fault.step}" for fault in faults) + f"-{dice.randrange(10**6)}"
    more = [f"debug.inject={json.dumps([str(fault) for fault in faults])}", f"guard.max_skips={dice.choice((1, 3))}"]
    if any(fault.kind == "worker_death" for fault in faults):
        more += ["data.workers=1", "data.features=disk"]
    wrong = _survives(replace(bench, more=(*bench.more, *more)), name, faults)
    shutil.rmtree(bench.run(name), ignore_errors=True)
    what = f"{', '.join(str(fault) for fault in faults)} in {bench.folder.name} ({bench.folder.parent.name})"
    return None if wrong is None else f"{what}: {wrong}"


def _survives(bench: Bench, name: str, faults: Sequence[Fault]) -> str | None:
    place, seen = bench.run(name), bench.folder / f"{name}.jsonl"
    ended = [run(*bench.settings(name), cwd=bench.folder, plant=watch, planted=(seen,))]
    while ended[-1].code != 0 and len(ended) < SESSIONS and (way := _way_on(place, ended[-1])) is not None:
        ended.append(run(*way, *bench.ranks, cwd=bench.folder, plant=watch, planted=(seen,)))
    if ended[-1].code != 0:
        return ended[-1].brief
    return (
        _of_ends(faults, ended)
        or _of_entries(place, faults)
        or _of_refusals(place, seen, faults, named=any(map(_one_clip_did_not_fit, ended)))
        or _of_checkpoints(bench, place, faults)
    )


def _way_on(place: Path, ended: Ended) -> tuple[str, ...] | None:
    """Return how to go on with a run, as what it said names it; None where nothing is to be resumed."""
    if not (place / "recipe.yaml").is_file() or "Traceback" in ended.said:
        return None
    named = re.search(r"--from\s+(step-\d+)", ended.said)
    return ("resume", str(place), *(("--from", named[1]) if named else ()))


def _of_ends(faults: Sequence[Fault], ended: Sequence[Ended]) -> str | None:
    """Say whether the sessions ended otherwise than their faults let them end, one after the other."""
    codes = [one.code for one in ended if not _one_clip_did_not_fit(one)]
    expected = [CODES[fault.kind] for fault in sorted(faults, key=_enters) if fault.kind in CODES]
    if any(fault.kind == "lost_rank" for fault in faults):
        return None if codes == [0] and "start again" in ended[0].said else f"exit codes {codes}: {ended[0].brief}"
    if any(fault.kind == "bit_flip" for fault in faults):  # a session that went on from there was refused
        codes = [code for code, one in zip(codes, ended, strict=True) if "is intact" not in one.said]
    return None if codes == [*expected, 0] else f"exit codes {codes} for {expected}"


def _one_clip_did_not_fit(ended: Ended) -> bool:
    """Whether memory ran out in a micro-batch of one clip, which cannot be smaller."""
    return ended.code == OutOfMemoryError.exit_code and "did not fit in memory with the clip" in ended.said


def _enters(fault: Fault) -> int:
    """Return the step in which a fault enters: those of the disk wait for a save."""
    waits = fault.kind in ("disk_full", "slow_disk", "bit_flip")
    return -(-fault.step // EVERY) * EVERY if waits else fault.step


def _of_entries(place: Path, faults: Sequence[Fault]) -> str | None:
    entered = [json.loads(line)["fault"] for line in (place / RECORD).read_text(encoding="utf-8").splitlines()]
    return None if sorted(entered) == sorted(str(fault) for fault in faults) else f"entered: {entered}"


# ---------------------------------------------------------------- refused steps


def _of_refusals(place: Path, seen: Path, faults: Sequence[Fault], *, named: bool) -> str | None:
    """Say what is wrong with the incidents, or with what a refused step left.

    `named`: an error has named a clip that did not fit, and there is no incident of it.
    """
    left = [json.loads(line) for line in seen.read_text(encoding="utf-8").splitlines()] if seen.exists() else []
    if odd := [one for one in left if one["left"] not in (KEPT, PUT_BACK)]:
        return f"after the refused step {odd[0]['step']} {odd[0]['left']}"
    incidents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((place / "incidents").glob("*.json"))]
    for fault in faults:
        if (
            fault.kind in REFUSED
            and not (fault.kind == "oom" and named)
            and (wrong := _of_incident(place, incidents, fault)) is not None
        ):
            return wrong
    kinds = {one["kind"] for one in incidents}
    if lacking := {NOTED[fault.kind] for fault in faults if fault.kind in NOTED} - kinds:
        return f"no incident says {', '.join(lacking)}"
    if not any(fault.kind in REFUSED for fault in faults) and kinds - set(NOTED.values()):
        return f"an incident without a cause: {', '.join(kinds)}"
    return None


def _of_incident(place: Path, incidents: Sequence[dict[str, Any]], fault: Fault) -> str | None:
    kind, cause = REFUSED[fault.kind]
    own = [one for one in incidents if one["kind"] == kind and one["action"] != "exclude"]
    if not own or not all(one["clips"] for one in own):
        return f"no incident says `{kind}` and names clips"
    found = [one["finding"] for one in own if one["finding"] is not None]
    if cause is not None and not any(one["cause"] == cause for one in found):
        return f"no incident says `{cause}`: {[one['cause'] for one in found]}"
    if fault.kind == "bad_clip":
        rows = [json.loads(line) for line in (place / RECORD).read_text(encoding="utf-8").splitlines()]
        bad = next(row["clips"] for row in rows if row["fault"] == str(fault))
        named = [one["clips"] for one in found if one["cause"] == cause]
        return None if all(clips == bad for clips in named) else f"the bad clip is {bad}, and {named} are named"
    return None


# ---------------------------------------------------------------- what is on the disk


def _of_checkpoints(bench: Bench, place: Path, faults: Sequence[Fault]) -> str | None:
    """Say what is wrong with the checkpoints of a run that has ended, or how its end differs from the undisturbed."""
    damaged = []
    for folder in pointers.list_checkpoints(place / "checkpoints"):
        try:
            if odd := non_finite(store.load(folder).state):
                return f"{folder.name} holds a value that is not finite in `{odd[0]}`"
        except CheckpointError:
            damaged.append(folder)
    if len(damaged) > sum(fault.kind == "bit_flip" for fault in faults):
        return f"{damaged[0].name} is damaged"
    if (reached := small.last_step(place)) != STEPS:
        return f"it ends at step {reached}"
    if any(fault.kind in REFUSED for fault in faults):
        return None
    return _of_damaged_end(bench, place, damaged) or small.differs(place, bench.whole)


def _of_damaged_end(bench: Bench, place: Path, damaged: Sequence[Path]) -> str | None:
    """Where the last checkpoint is damaged, go on from the intact one that its refusal names; say what went wrong."""
    if not damaged or pointers.step_of(damaged[-1]) != STEPS:
        return None
    refused = run("resume", place, f"train.steps={2 * STEPS}", *bench.ranks, cwd=bench.folder)
    way = _way_on(place, refused)
    if refused.code != CheckpointError.exit_code or way is None or "--from" not in way:
        return f"the damaged {damaged[-1].name} is not refused, {refused.brief}"
    again = run(*way, *bench.ranks, cwd=bench.folder)
    return again.brief if again.code != 0 else None


PART = Part(
    title="Injected faults",
    method="A try is a run of eight steps of a small net, one for each task, in fp32 and bf16, with one or two faults "
    "at steps that a seed draws; `resume` goes on as often as the run ends early. Its process compares the state after "
    "each refused step with copies of its own. It has survived if every fault entered, the sessions ended with the "
    "exit codes of their faults, no checkpoint holds a value that is not finite, and what the row guarantees is so. "
    "Faults that refuse a step change what is learned after it, so their runs are not compared with the undisturbed "
    "one.",
    count=count,
    minutes=14,
)
