"""Runs under random settings, stopped or killed at random steps, and resumed: in every task."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reliability import small, tasks
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Ended, run
from reliability.small import Bench
from reliability.tasks import STEPS
from ttstrain.checkpoint import pointers, store

TRIES = {"short": 2, "full": 100}
RANKED = 10  # every so many tries, a run is resumed with another number of processes
SESSIONS = 5  # of one run, at most
CUTS = {"sigterm": 75, "kill": -signal.SIGKILL}  # exit codes
QUESTIONS = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(1, 9)]

EXACT = (
    "metrics, weights, optimizers, EMA and random generators are those of the run that was never stopped, bit for bit"
)
CLIPS = "it goes on from the same clip, and says that random numbers are drawn anew"


def count(limits: Limits) -> Iterator[Row]:
    """Yield a row for runs that were stopped, one for those that were killed, and one for another number of ranks."""
    dice = random.Random(limits.seed)
    tallies = {
        "sigterm": Tally("a run of random settings, stopped at random steps and resumed", EXACT),
        "kill": Tally("the same, killed", EXACT),
        "ranks": Tally("the same, stopped and resumed with two processes", CLIPS),
    }
    short = limits.form == "short"
    names = tasks.find()[:1] if short else tasks.find()
    material = _write_material(limits.scratch)
    for number, name in zip(range(TRIES[limits.form]), itertools.cycle(names), strict=False):
        if limits.over:
            break
        cut = "ranks" if not short and number % RANKED == RANKED - 1 else dice.choice(list(CUTS))
        drawn = _draw(name, material, dice, faults=cut == "sigterm")
        tallies[cut].add(_survives(limits.scratch / f"try-{number}", name, drawn, cut, dice))
    yield from (tally.row for tally in tallies.values())


# ---------------------------------------------------------------- what is drawn


@dataclass(frozen=True)
class Material:
    """Clips to train on, other clips to replay, and text without speech."""

    data: Path
    replay: Path
    questions: Path
    cache: Path


def _write_material(folder: Path) -> Material:
    data = small.write_recipe(folder / "own", count=8).parent / "data"
    replay = small.write_recipe(folder / "others", count=12).parent / "data"
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    return Material(data, replay, questions, folder / "cache")


@dataclass(frozen=True)
class Drawn:
    """Settings of a run, faults that enter whether it is stopped or not, and the step of its first checkpoint."""

    settings: tuple[str, ...]
    faults: tuple[str, ...]
    first: int


def _draw(name: str, material: Material, dice: random.Random, *, faults: bool) -> Drawn:
    """Draw the settings of one try.

    A kill repeats steps, and a fault enters once: they are not drawn together. Nor do faults roll a run back: it goes
    back to its snapshot, and one that was resumed takes its first one where it goes on.
    """
    every = dice.choice((1, 2, 3))
    settings = [
        f"train.accumulate={dice.choice((1, 2))}",
        f"train.precision={dice.choice(('fp32', 'bf16'))}",
        f"train.seed={dice.randrange(1000)}",
        f"optim.kind={dice.choice(('adamw', 'adamw', 'lion', 'adan', 'sgd'))}",
        f"optim.schedule={dice.choice(SCHEDULES)}",
        f"ema={dice.choice(AVERAGES)}",
        f"checkpoint={{every: {every}, keep_last: 2, background: {dice.choice(('true', 'false'))}}}",
        f"guard.snapshot={dice.choice(('memory', 'disk'))}",
        f"guard.max_skips={3 if faults else dice.choice((1, 3))}",
    ]
    if dice.random() < 0.5:
        settings += ["data.workers=2", "data.features=disk"]
    if dice.random() < 0.4:
        settings.append(f"data.replay={{path: {material.replay}, share: 0.4, holdout: 2}}")
    if dice.random() < 0.4:
        settings.append(f"stages={dice.choice(STAGES)}")
    if name in TEXT_MIX and dice.random() < 0.5:
        settings.append(TEXT_MIX[name].format(path=material.questions))
    entering = dice.sample(("nan_loss", "bad_clip", "oom", "inf_grad"), dice.choice((0, 1, 2))) if faults else []
    place = (f"data.path={material.data}", f"data.cache_dir={material.cache}")
    own = (*tasks.SETTINGS, *tasks.SMALLER.get(name, ()), *place)
    return Drawn((*own, *settings), tuple(f"{kind}@{dice.randrange(2, STEPS)}" for kind in entering), every)


SCHEDULES = (
    "{kind: cosine, warmup_steps: 2}",
    "{kind: linear, warmup_steps: 1}",
    "{kind: wsd, warmup_steps: 1, decay_steps: 0.2}",
    "{kind: constant, warmup_steps: 0}",
    "{kind: exponential, warmup_steps: 2, gamma: 0.9}",
)
AVERAGES = ("{enabled: false}", "{decay: 0.6}", "{decay: 0.5, start_step: 3}", "{decay: auto, every: 2}")
STAGES = (
    "[{name: first, share: 0.5, lr_scale: 0.5}, {name: second, share: 0.5}]",
    "[{name: first, share: 0.4}, {name: second, share: 0.6, schedule: {kind: linear, warmup_steps: 1}}]",
)
TEXT_MIX = {"orpheus": "model.rows.text_mix={{path: {path}}}"}
"""The setting that mixes in text without speech, of the tasks that have one."""


# ---------------------------------------------------------------- one try


def _survives(folder: Path, name: str, drawn: Drawn, cut: str, dice: random.Random) -> str | None:
    """Say what went wrong with a run that was stopped, or killed, up to two times and resumed."""
    folder.mkdir()
    bench = Bench(folder, Path(tasks.SMOKE, name), folder / "runs" / "whole", folder / "runs", drawn.settings)
    kind = "sigterm" if cut == "ranks" else cut
    first = drawn.first + 1 if kind == "kill" else 1  # what is killed before its first checkpoint cannot be resumed
    steps = sorted(dice.sample(range(first, STEPS), 1 if cut == "ranks" else dice.choice((1, 2))))
    cuts = [f"{kind}@{step}" for step in steps]
    wrong = _of_whole(bench, drawn) or _of_resumed(bench, drawn, cuts, nproc=2 if cut == "ranks" else None)
    shutil.rmtree(folder, ignore_errors=True)
    own = drawn.settings[len(tasks.SETTINGS) + len(tasks.SMALLER.get(name, ())) + 2 :]
    return None if wrong is None else f"{name}, {', '.join((*own, *drawn.faults, *cuts))}: {wrong}"


def _of_whole(bench: Bench, drawn: Drawn) -> str | None:
    ended = run(*_with(bench, drawn.faults).settings("whole"), cwd=bench.folder)
    return None if ended.code == 0 else f"the run that nothing stops: {ended.brief}"


def _of_resumed(bench: Bench, drawn: Drawn, cuts: Sequence[str], *, nproc: int | None) -> str | None:
    place, code = bench.run("cut"), CUTS[cuts[0].partition("@")[0]]
    ranks = () if nproc is None else ("--nproc", str(nproc))
    ended = [run(*_with(bench, (*drawn.faults, *cuts)).settings("cut"), cwd=bench.folder)]
    while ended[-1].code == code and len(ended) < SESSIONS:
        ended.append(run("resume", place, *ranks, cwd=bench.folder))
    if [one.code for one in ended] != [*(code for _ in cuts), 0]:
        return f"exit codes {[one.code for one in ended]}, the last said {ended[-1].brief}"
    return small.differs(place, bench.whole) if nproc is None else _of_ranks(bench, ended[-1])


def _of_ranks(bench: Bench, ended: Ended) -> str | None:
    """Say what is wrong with a run that went on with two processes, which read twice as many clips in a step."""
    last = pointers.read_pointer(bench.run("cut") / "checkpoints", "last")
    if last is None or pointers.step_of(last) != STEPS:
        return f"it ends with {last}"
    if len(store.load(last).per_rank) != 2:
        return "its last checkpoint is not of two processes"
    return None if "random generators are newly seeded" in " ".join(ended.said.split()) else f"it says {ended.brief}"


def _with(bench: Bench, faults: Sequence[str]) -> Bench:
    more = (f"debug.inject={json.dumps([*faults])}",) if faults else ()
    return replace(bench, more=(*bench.more, *more))


PART = Part(
    title="Exact resume",
    method="A try draws a task and its settings: accumulation, precision, seed, optimizer, schedule, EMA, how often "
    "and how it saves, where it keeps snapshots, processes that load data, replay, stages, text without speech, and up "
    "to two faults that refuse steps, exclude clips or leave a limit of memory. It trains eight steps, once without a "
    "stop, and once stopped by SIGTERM, or killed, in one or two random steps and resumed.",
    count=count,
    minutes=8,
)
