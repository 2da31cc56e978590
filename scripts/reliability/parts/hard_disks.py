"""Disks that are full or read-only, and file systems where renaming or removing a file fails."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from reliability import small
from reliability.broken_system import BALLAST, die_before, fill_disk, refuse, small_files
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Ended, run
from reliability.small import Bench

GUARANTEE = "the error is named, and `resume` ends as if nothing had happened, bit for bit"
REFUSALS = (("rename", errno.EIO), ("rename", errno.EXDEV), ("unlink", errno.EPERM))
ALL = 10**6
CALLS = {"rename": 40, "unlink": 20}  # a run makes about as many
SIZES = (20_000, 400_000)  # bytes, between which a limit of the size of files lies: small files fit, some large do not
ROUNDS = 6
NAMED = (0, 2, 3, 4)  # exit codes of a command that ended well, or that named what is wrong


def count(limits: Limits) -> Iterator[Row]:
    bench = small.make_bench(limits.scratch)
    dice = random.Random(limits.seed)
    rounds = 1 if limits.form == "short" else ROUNDS
    if limits.form == "full":
        yield from _on_own_disk(bench, limits, dice, rounds=rounds)
    for kind, error in REFUSALS[: 1 if limits.form == "short" else None]:
        named = errno.errorcode[error]
        faults = {
            f"every {kind} of a file fails ({named})": [(1, ALL)],
            f"one {kind} fails ({named})": [(one, one) for one in _drawn(dice, CALLS[kind], rounds)],
            f"from one on, every {kind} fails ({named})": [(one, ALL) for one in _drawn(dice, CALLS[kind], rounds)],
        }
        for fault in list(faults)[-1 if limits.form == "short" else 0 :]:
            tally = Tally(fault, GUARANTEE)
            for first, last in faults[fault]:
                if limits.over and tally.tried:
                    break
                tally.add(_refused(bench, kind, error, first=first, last=last))
            yield tally.row
    tally = Tally("no file may become larger than a limit", GUARANTEE)
    for most in [dice.randrange(*SIZES) for _ in range(rounds)]:
        tally.add(_with(bench, f"limit-{most}", small_files, most))
    yield tally.row


def _drawn(dice: random.Random, most: int, count: int) -> list[int]:
    return dice.sample(range(2, most + 1), count)


def _refused(bench: Bench, kind: str, error: int, *, first: int, last: int) -> str | None:
    name = f"{kind}-{error}-{first}-{last}"
    return _with(bench, name, refuse, kind, error, bench.run(name), first, last)


def _with(bench: Bench, name: str, plant: Callable[..., None], *planted: Any) -> str | None:
    return _goes_on(bench, name, run(*bench.settings(name), cwd=bench.folder, plant=plant, planted=planted))


def _goes_on(bench: Bench, name: str, ended: Ended) -> str | None:
    """Say what is wrong with how a run ended, or with the run once it was resumed on a sound disk."""
    if (wrong := _unnamed(ended)) is not None:
        return wrong
    place = bench.run(name)
    if ended.code != 0:
        begun = (place / "recipe.yaml").is_file()
        again = run(*(("resume", str(place)) if begun else bench.settings(name)), cwd=bench.folder)
        if not again.is_complete:
            return f"after `{ended.brief}` it does not go on, {again.brief}"
    differs = small.differs(place, bench.whole)
    shutil.rmtree(place, ignore_errors=True)
    return None if differs is None else f"after `{ended.brief}`: {differs}"


def _unnamed(ended: Ended) -> str | None:
    if ended.code in NAMED and "Traceback" not in ended.said:
        return None
    return f"the error is not named, {ended.brief}"


# ---------------------------------------------------------------- a disk of its own


DISK_BYTES = 20_000_000


def _on_own_disk(bench: Bench, limits: Limits, dice: random.Random, *, rounds: int) -> Iterator[Row]:
    tries: dict[str, Callable[[Bench, str, random.Random], str | None]] = {
        "the disk becomes full while a run trains": _filled,
        "the disk is full between two saves of a run": _filled_for_a_while,
        "the disk of a run is read-only": _read_only,
    }
    with own_disk(bench.folder / "runs-on-own-disk") as disk:
        if disk is None:
            return  # this system lets us mount nothing, so nothing is tried
        there = replace(bench, runs=disk)
        for fault, attempt in tries.items():
            tally = Tally(fault, GUARANTEE)
            for number in range(2 if attempt is _read_only else rounds):
                if limits.over and tally.tried:
                    break
                tally.add(attempt(there, f"{attempt.__name__}-{number}", dice))
            yield tally.row


@contextmanager
def own_disk(place: Path) -> Iterator[Path | None]:
    """Mount a small disk in memory; None where that is not allowed."""
    place.mkdir()
    try:
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def _filled(bench: Bench, name: str, dice: random.Random) -> str | None:
    return _with_full_disk(bench, name, dice.randrange(1, 9), ALL)


def _filled_for_a_while(bench: Bench, name: str, dice: random.Random) -> str | None:
    """Fill the disk where only lines of metrics are written: before an odd step, until the one after it."""
    first = dice.choice((1, 3, 5, 7))
    return _with_full_disk(bench, name, first, first + 1, code=0)


def _with_full_disk(bench: Bench, name: str, first: int, last: int, *, code: int | None = None) -> str | None:
    disk = bench.runs
    ended = run(*bench.settings(name), cwd=bench.folder, plant=fill_disk, planted=(disk, first, last))
    (disk / BALLAST).unlink(missing_ok=True)
    wrong = f"a full disk ends it, {ended.brief}" if code not in (None, ended.code) else _goes_on(bench, name, ended)
    shutil.rmtree(bench.run(name), ignore_errors=True)
    return wrong


def _read_only(bench: Bench, name: str, dice: random.Random) -> str | None:
    """Run commands on a run that was cut short, on a read-only disk: those that write elsewhere do their work."""
    place, out = bench.run(name), bench.folder / name
    out.mkdir()
    first = run(*bench.settings(name), cwd=bench.folder, plant=die_before, planted=(dice.randrange(4, 9),))
    if first.code != -signal.SIGKILL:
        return f"it did not die, {first.brief}"
    commands: dict[str, tuple[tuple[str | Path, ...], int]] = {
        "resume": (("resume", place), 2),
        "finetune": (bench.settings(name), 2),
        "finetune of another name": (bench.settings("another"), 2),
        "report": (("report", place), 3),
        "report elsewhere": (("report", place, "-o", out / "page.html"), 0),
        "export": (("export", place, "-o", out / "export"), 0),
        "export into the run": (("export", place, "-o", place / "export"), 4),
        "inspect-ckpt": (("inspect-ckpt", place), 0),
    }
    _remount(bench.runs, "ro")
    try:
        ended = {what: (run(*words, cwd=bench.folder), code) for what, (words, code) in commands.items()}
    finally:
        _remount(bench.runs, "rw")
    wrong = [f"`{what}`, {one.brief}" for what, (one, code) in ended.items() if one.code != code or _unnamed(one)]
    again = run("resume", place, cwd=bench.folder)
    differs = small.differs(place, bench.whole) if again.code == 0 else again.brief
    shutil.rmtree(place, ignore_errors=True)
    return next(iter(wrong), differs)


def _remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True, capture_output=True)


PART = Part(
    title="Hard disks",
    method="A try is a run of eight steps in which calls of the system fail, or on a small disk in memory that is full "
    "or read-only; then the run is resumed on a sound disk. It has survived when the first command ended with a named "
    "error or none, and the numbers of every step and the last checkpoint equal, bit for bit, those of an undisturbed "
    "run.",
    count=count,
    minutes=6,
)
