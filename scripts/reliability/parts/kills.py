"""`kill -9` at random moments of a run, of `prepare` and of `export`, in every task."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reliability import small, tasks
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Ended, Program, run
from reliability.small import Bench
from reliability.tasks import EVERY, STEPS
from ttstrain.checkpoint import pointers, store
from ttstrain.errors import UserError

KILLS = {"short": 3, "full": 200}  # of runs
OTHERS = {"short": 1, "full": 8}  # kills of `prepare`, and of `export`, for each task
IN_A_ROW = 4  # kills of one run, which is compared once it has ended
SELDOM = 4  # a task whose run takes longer is killed less often, but at least every fourth turn
LOOK_S = 0.001  # between two looks at what a command has written
DELAY_S = 0.03  # after a file has appeared, at most
ENDS = "the run, resumed as often as it was killed, ends as if undisturbed, bit for bit"
LAST = "`last` loads and is the latest save that was due or the one before it"
RUNS = {
    "any": Tally("`kill -9` of a run at a random moment", f"{LAST}; {ENDS}"),
    "save": Tally("`kill -9` of a run that is writing a checkpoint", f"{LAST}; {ENDS}"),
}


def count(limits: Limits) -> Iterator[Row]:
    """Yield two rows for runs, one for `prepare` and one for `export`."""
    dice = random.Random(limits.seed)
    runs = {moment: Tally(tally.fault, tally.guarantee) for moment, tally in RUNS.items()}
    prepare = Tally("`kill -9` of `prepare`", "the next one makes the same cache as an undisturbed one, and no more")
    export = Tally("`kill -9` of `export`", "there is no export or a whole one; the next one writes it, and no more")
    run("env", cwd=limits.scratch)  # starts the server that all others are forked from
    names = tasks.find()[:1] if limits.form == "short" else tasks.find()
    made = list(_timed(limits.scratch, names))
    others = itertools.product(range(OTHERS[limits.form]), made)
    for number, timed in enumerate(_turns(made)):  # runs and the others in turn: a limit of time leaves none out
        left = KILLS[limits.form] - sum(tally.tried for tally in runs.values())
        other = next(others, None)
        if limits.over or (left <= 0 and other is None):
            break
        if left > 0:
            _count_run(_killed_run(timed, number, dice, most=min(left, IN_A_ROW)), timed, runs)
        if other is not None:
            again, one = other
            prepare.add(_told(one, _killed_prepare(one.bench, again, dice)))
            export.add(_told(one, _killed_export(one.bench, again, dice)))
    yield from (tally.row for tally in (*runs.values(), prepare, export))


def _count_run(killed: KilledRun, timed: Timed, runs: Mapping[str, Tally]) -> None:
    """Count each kill of a run; the last of them answers for what is found at the end."""
    for moment in killed.moments[:-1]:
        runs[moment].add(None)
    for moment in killed.moments[-1:] or (["any"] if killed.wrong else []):
        runs[moment].add(_told(timed, killed.wrong))


@dataclass(frozen=True)
class Timed:
    """A task's undisturbed run, and how long it took, in seconds."""

    bench: Bench
    took: float


def _timed(folder: Path, names: list[str]) -> Iterator[Timed]:
    began = time.monotonic()
    for bench in tasks.make_benches(folder, names):
        yield Timed(bench, time.monotonic() - began)
        began = time.monotonic()


def _turns(made: Sequence[Timed]) -> Iterator[Timed]:
    """Take turns among the tasks, those whose runs take longer less often."""
    shortest = min(timed.took for timed in made)
    for turn in itertools.count():
        yield from (timed for timed in made if turn % min(SELDOM, max(1, round(timed.took / shortest))) == 0)


def _told(timed: Timed, wrong: str | None) -> str | None:
    return None if wrong is None else f"{timed.bench.folder.name}: {wrong}"


# ---------------------------------------------------------------- a command that is killed


def _start(*words: str | Path, bench: Bench) -> Program:
    """Start a command as the first of a process group of its own."""
    return Program(*words, cwd=bench.folder, plant=os.setsid)


def _kill(program: Program) -> Ended:
    """Kill a command and all processes that it has started; return how it ended, by itself where it was faster."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or has not come to its own group yet
        program.send(signal.SIGKILL)
    return program.wait()


def _wait_for(program: Program, sign: Callable[[], bool], delay_s: float) -> None:
    """Wait until `sign` is true or the command has ended, and then so long."""
    while program.runs and not sign():
        time.sleep(LOOK_S)
    time.sleep(delay_s)


# ---------------------------------------------------------------- runs


@dataclass(frozen=True)
class KilledRun:
    """The moments at which a run was killed, keys of `RUNS`, and what was wrong with it after one or at its end."""

    moments: list[str]
    wrong: str | None


def _killed_run(timed: Timed, number: int, dice: random.Random, *, most: int) -> KilledRun:
    bench, name = timed.bench, f"killed-{number}"
    place, moments = bench.run(name), list[str]()
    while len(moments) < most:
        before, program = _half_written(place), _start(*_way_on(bench, name), bench=bench)
        if dice.random() < 0.5:
            time.sleep(dice.uniform(0, timed.took))
        else:
            after = small.last_step(place) + dice.randrange(STEPS)
            sign = lambda: small.last_step(place) >= after and bool(_half_written(place) - before)  # noqa: B023,E731
            _wait_for(program, sign, dice.uniform(0, DELAY_S))
        ended = _kill(program)
        if ended.code != -signal.SIGKILL:
            return KilledRun(moments, _of_end(bench, name, ended))
        moments.append("save" if _half_written(place) - before else "any")
        if (wrong := _of_last(place)) is not None:
            return KilledRun(moments, wrong)
    return KilledRun(moments, _of_end(bench, name, run(*_way_on(bench, name), cwd=bench.folder)))


def _way_on(bench: Bench, name: str) -> tuple[str, ...]:
    begun = (bench.run(name) / "recipe.yaml").is_file()
    return ("resume", str(bench.run(name))) if begun else bench.settings(name)


def _half_written(place: Path) -> set[str]:
    """Name what is only there while a checkpoint is written, put in place or removed."""
    return {path.name for path in (place / "checkpoints").glob(".*")}


def _of_last(place: Path) -> str | None:
    """Say what is wrong with the last checkpoint of a run that was killed."""
    step = small.last_step(place)
    expected = step - step % EVERY - EVERY
    try:
        last = pointers.read_pointer(place / "checkpoints", "last")
        if last is not None:
            store.load(last)
    except UserError as error:
        return f"`last` does not load: {error.message}"
    found = 0 if last is None else pointers.step_of(last)
    return None if found >= expected else f"after step {step}, `last` is of step {found}"


def _of_end(bench: Bench, name: str, ended: Ended) -> str | None:
    wrong = small.differs(bench.run(name), bench.whole) if ended.is_complete else ended.brief
    shutil.rmtree(bench.run(name), ignore_errors=True)
    return wrong


# ---------------------------------------------------------------- prepare and export


def _killed_prepare(bench: Bench, number: int, dice: random.Random) -> str | None:
    """Kill `prepare` once it has begun to write, and compare the cache of the next one with one made alone."""
    alone, cache = bench.folder / "cache-alone", bench.folder / f"cache-{number}"
    if not alone.exists() and (first := run(*_prepare(bench, alone), cwd=bench.folder)).code != 0:
        return first.brief
    program = _start(*_prepare(bench, cache), bench=bench)
    wanted = dice.randrange(len(_files(alone)))
    _wait_for(program, lambda: len(_files(cache)) > wanted, dice.uniform(0, DELAY_S))
    _kill(program)
    if (again := run(*_prepare(bench, cache), cwd=bench.folder)).code != 0:
        return again.brief
    return _differing(cache, alone)


def _prepare(bench: Bench, cache: Path) -> tuple[str, ...]:
    data = next(word.removeprefix("data.path=") for word in bench.more if word.startswith("data.path="))
    more = [word for word in bench.more if not word.startswith(("data.path=", "data.cache_dir="))]
    return ("prepare", data, *more, f"data.cache_dir={cache}", "--recipe", str(bench.recipe), "-o", f"{cache}-lists")


def _killed_export(bench: Bench, number: int, dice: random.Random) -> str | None:
    """Kill `export` once it has begun to write, and export again."""
    alone, out = bench.folder / "export-alone", bench.folder / f"export-{number}"
    if not alone.exists() and (first := run("export", bench.whole, "-o", alone, cwd=bench.folder)).code != 0:
        return first.brief
    program = _start("export", bench.whole, "-o", out, bench=bench)
    begun = lambda: out.exists() or bool(half_exported(out))  # noqa: E731
    _wait_for(program, begun, dice.uniform(0, 4 * DELAY_S))
    _kill(program)
    if not out.exists() and (again := run("export", bench.whole, "-o", out, cwd=bench.folder)).code != 0:
        return again.brief
    left = half_exported(out)
    return f"`{left[0]}` is left" if left else _differing(out, alone)


def half_exported(out: Path) -> list[str]:
    """Name what is only there while an export is written, or was killed then."""
    return [path.name for path in out.parent.glob(f".{out.name}-*")]


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _differing(folder: Path, alone: Path) -> str | None:
    """Name a file that only one of two folders has, or that has another content."""
    ours, theirs = _files(folder), _files(alone)
    if odd := sorted(ours.keys() ^ theirs.keys()):
        return f"only one has `{odd[0]}`"
    odd = [name for name in ours if ours[name].read_bytes() != theirs[name].read_bytes()]
    return f"`{odd[0]}` differs" if odd else None


PART = Part(
    title="Kills",
    method="A try sends SIGKILL to the process group of a command. Runs of eight steps, of every task, are killed up "
    "to four times each: at a random moment, or while files of a checkpoint lie half-written; after each kill `last` "
    "is loaded, and its step compared with the metrics. Then the run is resumed to its end, and the numbers of each "
    "step and the last checkpoint are compared, bit for bit, with those of an undisturbed run. `prepare` and `export` "
    "are killed once they have begun to write, and compared, byte for byte, with undisturbed ones.",
    count=count,
    minutes=8,
)
