"""Two commands on one run, two runs that prepare one cache, and a run's folder that is moved or copied under a run."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability import small
from reliability.broken_system import wait_before
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Ended, Program, run
from reliability.small import Bench
from ttstrain.checkpoint import pointers, store
from ttstrain.errors import UserError

ROUNDS = 4
WAITS_BEFORE = 4  # the step before which a run waits for the second command
READERS: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "report": lambda place, out: ("report", str(place)),
    "export": lambda place, out: ("export", str(place), "-o", str(out / "export")),
    "inspect-ckpt": lambda place, out: ("inspect-ckpt", str(place)),
    "sample": lambda place, out: ("sample", str(place), "--text", "One.", "-o", str(out / "one.wav")),
    "resume --reset-step": lambda place, out: ("resume", str(place), "--reset-step"),
}
"""Commands that read a run, which may be training: each leaves it as it is."""


def count(limits: Limits) -> Iterator[Row]:
    bench = small.make_bench(limits.scratch)
    rounds = 1 if limits.form == "short" else ROUNDS
    tries = SHORT if limits.form == "short" else ALL
    for fault, guarantee, attempt in tries:
        tally = Tally(fault, guarantee)
        for number in range(rounds):
            tally.add(attempt(bench, number))
            if limits.over:
                break
        yield tally.row


# ---------------------------------------------------------------- a run that is training


class Held:
    """A run that waits in the middle of its training, until `go_on`."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.place = bench, bench.run(name)
        self.go = bench.folder / f"{name}.go"
        self.program = Program(
            *bench.settings(name), cwd=bench.folder, plant=wait_before, planted=(WAITS_BEFORE, self.go)
        )
        if not self.program.wait_for(Path(f"{self.go}.waits").exists):
            raise RuntimeError(f"the first run ended, {self.program.wait().brief}")

    def go_on(self) -> Ended:
        self.go.touch()
        return self.program.wait()

    def complaint(self, place: Path | None = None) -> str | None:
        """Let it end; say what is wrong with it."""
        ended = self.go_on()
        if ended.code != 0:
            return f"the first run ended, {ended.brief}"
        differs = small.differs(place or self.place, self.bench.whole)
        return None if differs is None else f"the first run was changed: {differs}"


def refusal(ended: Ended, pid: int) -> str | None:
    """Say what is wrong with how a second command was refused."""
    named = re.search(rf"by process {pid} on `{re.escape(socket.gethostname())}` since \d{{4}}-\d\d-\d\dT", ended.said)
    if ended.code == 2 and named is not None:
        return None
    return f"the second command does not say who holds the run, {ended.brief}"


def resume_of_a_held_run(bench: Bench, number: int) -> str | None:
    held = Held(bench, f"held-{number}")
    second = run("resume", held.place, cwd=bench.folder)
    return refusal(second, held.program.pid) or held.complaint()


def same_name_as_a_held_run(bench: Bench, number: int) -> str | None:
    held = Held(bench, f"named-{number}")
    second = run(*bench.settings(held.place.name), cwd=bench.folder)
    return refusal(second, held.program.pid) or held.complaint()


def readers_of_a_held_run(bench: Bench, number: int) -> str | None:
    held = Held(bench, f"read-{number}")
    out = bench.folder / f"read-{number}-out"
    out.mkdir()
    programs = {name: Program(*words(held.place, out), cwd=bench.folder) for name, words in READERS.items()}
    ended = {name: program.wait() for name, program in programs.items()}
    wrong = [f"`{name}`, {one.brief}" for name, one in ended.items() if one.code != 0]
    return next(iter(wrong), None) or held.complaint()


def watch_of_a_held_run(bench: Bench, number: int) -> str | None:
    held = Held(bench, f"watched-{number}")
    watches = [Program("watch", held.place, cwd=bench.folder) for _ in range(2)]
    wrong = None
    for watch in watches:
        if not watch.wait_for(lambda watch=watch: "http://" in watch.said()):  # type: ignore[misc]
            wrong = f"`watch` ended, {watch.wait().brief}"
            continue
        address = next(word for word in watch.said().split() if word.startswith("http://"))
        with urllib.request.urlopen(address, timeout=60) as answer:
            if held.place.name.encode() not in answer.read():
                wrong = "the page does not name the run"
    wrong = wrong or held.complaint()
    for watch in watches:
        watch.send(signal.SIGINT)
        watch.wait()
    return wrong


# ---------------------------------------------------------------- two that begin at once


def two_resumes(bench: Bench, number: int) -> str | None:
    place = _cut_short(bench, f"twice-{number}")
    both = [Program("resume", place, cwd=bench.folder) for _ in range(2)]
    ended = [program.wait() for program in both]
    if sorted(one.code for one in ended) not in ([0, 2], [0, 0]):
        return "; ".join(one.brief for one in ended)
    for mine, other in ((0, 1), (1, 0)):
        over = "schedule has ended" in ended[mine].said or "complete" in ended[mine].said
        if ended[mine].code == 2 and not over and (wrong := refusal(ended[mine], both[other].pid)) is not None:
            return wrong
    return small.differs(place, bench.whole)


def two_starts_of_one_name(bench: Bench, number: int) -> str | None:
    both = [Program(*bench.settings(f"both-{number}"), cwd=bench.folder) for _ in range(2)]
    ended = [program.wait() for program in both]
    if sorted(one.code for one in ended) != [0, 2]:
        return "; ".join(one.brief for one in ended)
    return small.differs(bench.run(f"both-{number}"), bench.whole)


def two_starts_without_a_name(bench: Bench, number: int) -> str | None:
    place = bench.folder / f"unnamed-{number}"
    words = ("finetune", str(bench.recipe), f"run_dir={place}")
    ended = [program.wait() for program in [Program(*words, cwd=bench.folder) for _ in range(2)]]
    if [one.code for one in ended] != [0, 0]:
        return "; ".join(one.brief for one in ended if one.code != 0)
    runs = list(place.iterdir())
    if len(runs) != 2:
        return f"{len(runs)} folders for two runs"
    return next((wrong for one in runs if (wrong := small.differs(one, bench.whole)) is not None), None)


def two_exports(bench: Bench, number: int) -> str | None:
    out = bench.folder / f"export-{number}"
    ended = [one.wait() for one in [Program("export", bench.whole, "-o", out, cwd=bench.folder) for _ in range(2)]]
    if sorted(one.code for one in ended) != [0, 2]:
        return "; ".join(one.brief for one in ended)
    again = run("inspect-ckpt", next(out.glob("*.safetensors")), cwd=bench.folder)
    if again.code != 0:
        return f"the export cannot be read, {again.brief}"
    left = [path.name for path in bench.folder.glob(f".export-{number}.*")]
    return f"`{left[0]}` is left" if left else None


def two_caches(bench: Bench, number: int) -> str | None:
    """Prepare one cache four times at once, kill one of them on the way, and compare it with a cache made alone."""
    cache, alone = bench.folder / f"cache-{number}", bench.folder / "cache-alone"
    words = ("prepare", str(bench.folder / "data"), "--recipe", str(bench.recipe))
    if not alone.exists() and (first := run(*words, f"data.cache_dir={alone}", cwd=bench.folder)).code != 0:
        return first.brief
    programs = [Program(*words, f"data.cache_dir={cache}", cwd=bench.folder) for _ in range(4)]
    programs[0].wait_for(lambda: any(cache.rglob("*.safetensors")))
    programs[0].send(signal.SIGKILL)
    ended = [program.wait() for program in programs]
    if wrong := [one.brief for one in ended[1:] if one.code != 0]:
        return wrong[0]
    return None if _features(cache) == _features(alone) else "the cache differs from one that was made alone"


def _features(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.safetensors")}


# ---------------------------------------------------------------- a folder that is elsewhere


def renamed_between(bench: Bench, number: int) -> str | None:
    place = _cut_short(bench, f"moved-{number}")
    there = bench.folder / "elsewhere" / f"new name {number}"
    there.parent.mkdir(exist_ok=True)
    place.rename(there)
    ended = run("resume", there, cwd=there.parent)
    return small.differs(there, bench.whole) if ended.code == 0 else ended.brief


def renamed_under_it(bench: Bench, number: int) -> str | None:
    """Rename the folder of a run that trains: it saves beside the old name, says so, and resumes from there."""
    held = Held(bench, f"lost-{number}")
    there = held.place.with_name(f"lost-{number}-renamed")
    held.place.rename(there)
    ended = held.go_on()
    rescued = held.place.with_name(f"lost-{number}-rescued")
    if str(rescued) not in ended.said or held.place.exists():
        return f"nothing was saved beside it, {ended.brief}"
    again = run("resume", rescued, cwd=bench.folder)
    if again.code != 0:
        return again.brief
    return small.weights_differ(rescued, bench.whole) or _damage(there)


def copied_under_it(bench: Bench, number: int) -> str | None:
    """Copy the folder of a run that trains, and resume the copy while the first still trains: both end alike."""
    held = Held(bench, f"copied-{number}")
    there = held.place.with_name(f"copied-{number}-copy")
    shutil.copytree(held.place, there)
    ended = run("resume", there, cwd=bench.folder)
    wrong = ended.brief if ended.code != 0 else small.differs(there, bench.whole)
    return wrong or held.complaint()


def _cut_short(bench: Bench, name: str) -> Path:
    """Make a run that was killed before a step in its middle."""
    held = Held(bench, name)
    held.program.send(signal.SIGKILL)
    held.program.wait()
    return held.place


def _damage(place: Path) -> str | None:
    """Say what is wrong with the last checkpoint of a run."""
    try:
        if (last := pointers.read_pointer(place / "checkpoints", "last")) is None:
            return "the renamed folder has no checkpoint"
        store.load(last)
    except UserError as error:
        return f"the renamed folder is damaged: {error.message}"
    return None


ALONE = "the run ends as if alone, bit for bit"
ALL: tuple[tuple[str, str, Callable[[Bench, int], str | None]], ...] = (
    (
        "`resume` of a run that is training",
        f"it says host, process and since when the run is held; {ALONE}",
        resume_of_a_held_run,
    ),
    ("two `resume` of one run at once", "one trains, and the other says who does", two_resumes),
    ("`finetune` under the name of a run that is training", f"it says who holds it; {ALONE}", same_name_as_a_held_run),
    ("two `finetune` under one name at once", "one trains and the other is refused", two_starts_of_one_name),
    ("two `finetune` without a name at once", "each has its folder", two_starts_without_a_name),
    (
        "`report`, `export`, `sample`, `inspect-ckpt` and `resume --reset-step` at once on a run that is training",
        f"each does its work; {ALONE}",
        readers_of_a_held_run,
    ),
    ("two `watch` on a run that is training", f"both show it; {ALONE}", watch_of_a_held_run),
    ("two `export` into one folder at once", "one writes it whole, the other is refused", two_exports),
    ("four `prepare` into one cache, one of them killed", "the cache equals one that was made alone", two_caches),
    ("a run's folder moved and renamed, then resumed", "it ends as if never stopped, bit for bit", renamed_between),
    (
        "a run's folder renamed while it trains",
        "it saves beside the old name, and resumes from there bit for bit",
        renamed_under_it,
    ),
    (
        "a run's folder copied while it trains, and the copy resumed",
        "both end as if alone, bit for bit",
        copied_under_it,
    ),
)
SHORT = tuple(one for one in ALL if one[2] in (resume_of_a_held_run, two_exports))

PART = Part(
    title="Two at once",
    method="A try starts the commands in processes of their own on a run of eight steps; the first waits in the middle "
    "of its training. It has survived when the numbers of each step and the last checkpoint equal, bit for bit, those "
    "of a run that nothing disturbed.",
    count=count,
    minutes=8,
)
