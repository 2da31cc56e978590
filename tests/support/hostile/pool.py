"""Read mutated files in forked processes with limits, and report what each did to its reader.

One forked process reads many cases, so a case costs milliseconds. Each has 5 seconds of processor time and one gibibyte
of address space above what the process holds already. Where a case ends its process, the next case gets a new one.
An audit hook of the interpreter sees every file that is opened for writing, every program that is started and every
connection, whatever code asks for it; a listing of the folders around sees what libraries write without it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hostile.mutation import Case, Files, write_files
from ttstrain.errors import UserError

CPU_SECONDS = 5.0
WALL_SECONDS = 10.0  # two of them asleep, without any processor time: it waits for something that never comes
ADDRESS_SPACE = 1 << 30
MAY_CHANGE = "may-change"  # the folder of a case whose files their reader may change

Verdict = Literal["refused", "equal", "told", "other", "silent", "crash", "killed", "hang", "wrote", "ran"]
SURVIVED: frozenset[Verdict] = frozenset(("refused", "equal", "told", "other"))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader made of its files: what they mean, and whether it told of a damage."""

    meaning: str
    told: bool = False
    outline: str = ""  # names, shapes and kinds of weights; a net refuses others, completely (`load_weights`)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case did to its reader.

    refused: a named error. equal: read as if nothing had changed. told: read, with a message. other: read as the other
    valid file that it is. The remaining ones did not survive: silent (damage was accepted without a word), crash (an
    error without a name), killed, hang, wrote (outside the case's folder, or into its input), ran (code of the file).
    """

    number: int
    how: str
    verdict: Verdict
    detail: str
    seconds: float  # of processor time


Read = Callable[[Path], Seen]


@dataclass(frozen=True, slots=True)
class Trial:
    """Cases by number, and what reads them; `originals` are what the healthy files mean, by `Case.sample`."""

    make: Callable[[int], Case]
    read: Read
    originals: Sequence[Seen]
    place: Path  # a folder of its own


def read_all(trial: Trial, numbers: Sequence[int]) -> Iterator[Outcome]:
    """Read the cases of these numbers, one after the other."""
    waiting = list(numbers)
    while waiting:
        child = _start(trial, waiting)
        yield from child.outcomes()
        waiting = [number for number in waiting if number not in child.done]


# ---------------------------------------------------------------- the parent's side


class _Child:
    """A process that reads cases, seen from its parent."""

    def __init__(self, pid: int, pipe: int, place: Path) -> None:
        self.pid, self.pipe, self.place = pid, pipe, place
        self.done: set[int] = set()

    def outcomes(self) -> Iterator[Outcome]:
        begun: dict[str, Any] = {"number": -1, "how": "before the first case"}
        with os.fdopen(self.pipe, "rb") as pipe:
            for line in self._lines(pipe):
                values = json.loads(line)
                if "verdict" in values:
                    self.done.add(values["number"])
                    yield Outcome(**values)
                begun = values
        _, status = os.waitpid(self.pid, 0)
        if status and "verdict" not in begun:
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
            self.done.add(begun["number"])
            late = name in ("SIGPROF", "SIGKILL")
            yield Outcome(begun["number"], begun["how"], "hang" if late else "killed", name, CPU_SECONDS)
        elif status:
            why = (self.place / "error").read_text(encoding="utf-8") if (self.place / "error").is_file() else status
            raise RuntimeError(f"the process that reads cases ended between two of them: {why}")

    def _lines(self, pipe: Any) -> Iterator[bytes]:
        """Yield lines; end a process that sleeps for too long. One that waits for a busy machine is not asleep."""
        rest, last = b"", ("", -1)
        while True:
            if not select.select([pipe], [], [], WALL_SECONDS)[0]:
                now = self._doing()
                if now == last and now[0] == "S":
                    os.kill(self.pid, signal.SIGKILL)
                last = now
                continue
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines

    def _doing(self) -> tuple[str, int]:
        """Return the process's state, such as S for asleep, and its processor time, in ticks."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])


def _start(trial: Trial, numbers: Sequence[int]) -> _Child:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading, trial.place)
    os.close(reading)
    status = 1
    try:
        _serve(trial, numbers, writing)
        status = 0
    finally:  # never back into the parent's code
        if status:
            (trial.place / "error").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(status)


# ---------------------------------------------------------------- the child's side


def _serve(trial: Trial, numbers: Sequence[int], pipe: int) -> None:
    watch = Watch(trial.place)
    _quiet(trial.place)
    for number in numbers:
        case = trial.make(number)
        _say(pipe, {"number": number, "how": case.how[:300]})
        shutil.rmtree(trial.place / "case", ignore_errors=True)
        write_files(trial.place / "case", case.files)
        _say(pipe, asdict(_read_one(number, case, trial, watch)))


def _say(pipe: int, values: dict[str, Any]) -> None:
    data = json.dumps(values).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _quiet(place: Path) -> None:
    """Keep what libraries print apart, and let nothing write outside by its own habits."""
    sys.dont_write_bytecode = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    faulthandler.disable()  # it has a descriptor of its own
    os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "case")}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_one(number: int, case: Case, trial: Trial, watch: Watch) -> Outcome:
    place, folder = trial.place, trial.place / "case"
    os.chdir(folder)
    before = _listing(place)
    watch.begin()
    verdict: Verdict
    started = time.process_time()
    with limited():
        try:
            seen = trial.read(folder)
            verdict, detail = _judge(seen, trial.originals[case.sample], plain=case.plain)
        except UserError as error:
            verdict, detail = "refused", f"{type(error).__name__}: {error.message}"
        except BaseException as error:  # a panic of Rust is no Exception
            verdict, detail = "crash", _where(error)
    seconds = time.process_time() - started
    faults = watch.end()
    os.chdir(place)
    if faults.ran or (folder / "canary").exists():
        verdict, detail = "ran", "; ".join(faults.ran) or "the canary is there"
    elif faults.wrote or (more := _changes(before, _listing(place))) or (more := _changed_input(folder, case.files)):
        verdict, detail = "wrote", "; ".join(faults.wrote) or more
    return Outcome(number, case.how[:300], verdict, detail[:600], round(seconds, 3))


def _judge(seen: Seen, original: Seen, *, plain: bool) -> tuple[Verdict, str]:
    if seen.meaning == original.meaning:
        return "equal", ""
    if seen.told:
        return "told", ""
    if seen.outline != original.outline:
        return "refused", "its weights are those of another net"
    return ("other", "") if plain else ("silent", f"{seen.meaning[:120]} instead of {original.meaning[:120]}")


@contextmanager
def limited() -> Iterator[None]:
    """Limit processor time, and address space above what is held."""
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_SPACE, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/ttstrain/" in frame.filename]
    at = f" at {Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else ""
    return f"{type(error).__name__}: {str(error)[:300]}{at}"


def _listing(place: Path) -> dict[str, tuple[int, int]]:
    """List everything in the folder round the case, but for the case's own folder."""
    found = {}
    for root, folders, files in os.walk(place):
        if Path(root) == place:
            folders[:] = [name for name in folders if name != "case"]
        for name in files:
            status = os.lstat(os.path.join(root, name))  # noqa: PTH118  thousands of times
            found[os.path.join(root, name)] = (status.st_size, status.st_mtime_ns)  # noqa: PTH118
    return found


def _changes(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> str:
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    return f"changed outside: {', '.join(sorted(changed)[:3])}" if changed else ""


def _changed_input(folder: Path, files: Files) -> str:
    for name, content in files.items():
        if isinstance(content, bytes) and not name.startswith(f"{MAY_CHANGE}/"):
            with suppress(OSError):
                if (folder / name).read_bytes() == content:
                    continue
            return f"changed its input {name}"
    return ""


# ---------------------------------------------------------------- what code does


@dataclass(frozen=True, slots=True)
class _Faults:
    ran: list[str]
    wrote: list[str]


_PROGRAMS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "webbrowser.open",
    "pickle.find_class",
)
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Notes what the interpreter is asked to do between `begin` and `end`; a hook cannot be taken away again."""

    def __init__(self, place: Path) -> None:
        self.place = str((place / "case").resolve())
        self.home = str((place / "home").resolve())
        self._on = False
        self._ran: list[str] = []
        self._wrote: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self) -> None:
        self._ran, self._wrote, self._on = [], [], True

    def end(self) -> _Faults:
        self._on = False
        return _Faults(self._ran, self._wrote)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in _PROGRAMS or (event == "import" and arguments[0] == "hostile_canary"):
            self._ran.append(f"{event} {arguments!r}"[:200])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and self._is_outside(path, follow=not flags & os.O_NOFOLLOW):
                self._wrote.append(f"opened {path!r} to write"[:200])
        elif event in _CHANGES and any(self._is_outside(path) for path in arguments if isinstance(path, str | bytes)):
            self._wrote.append(f"{event} {arguments!r}"[:200])

    def _is_outside(self, path: Any, *, follow: bool = True) -> bool:
        if not isinstance(path, str | bytes):
            return False  # a descriptor
        folder, name = os.path.split(os.fsdecode(path))
        full = os.path.realpath(os.fsdecode(path)) if follow else os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        return full != os.devnull and not full.startswith(self.place)
