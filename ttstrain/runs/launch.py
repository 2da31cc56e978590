"""Start the same command once per process on this machine, by torch's elastic agent, and pass its exit code on.

The agent starts the processes, watches them and starts all again where one was lost. What it would do otherwise, as
under torchrun, is done here: end the other processes at once where one has failed; kill all 30 s after a signal, though
a checkpoint may take longer; start them again whatever the reason was; turn every failure into exit code 1.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler

from ttstrain.data.location import usable_cores
from ttstrain.errors import PeerError, RecipeError
from ttstrain.train.attempts import Attempts
from ttstrain.train.distributed import connect
from ttstrain.train.launched import LAUNCHER, under_launcher

GRACE_S = 30.0  # for the other processes to end by themselves, and finish a checkpoint, once one has failed
POLL_S = 0.1
_FORWARDED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
_PATIENCE = 3  # Ctrl-Cs before everything is killed; the first saves, the second stops at once


GO_ON = "`ttstrain resume` goes on from the last checkpoint"


def launch(arguments: Sequence[str], *, nproc: int, max_restarts: int = 0, go_on: str = GO_ON) -> int:
    """Run `ttstrain <arguments>` in `nproc` processes and return the exit code of the one that failed first, else zero.

    Ctrl-C and SIGTERM are passed on to every process, so that all save and leave together. Once one has failed, the
    others get `GRACE_S` seconds to end. Then all start again, up to `max_restarts` times, unless that would only repeat
    the failure. Raises RecipeError within processes of a launcher, and PeerError when a process was killed and so
    printed no error; `go_on` then says what is kept.
    """
    if under_launcher():
        raise RecipeError(f"`--nproc {nproc}` within processes that are started already", hint="drop `--nproc`")
    with _collected() as signals, _environment(nproc), _silent():
        agent = _Agent(_spec(_command(arguments), nproc=nproc, max_restarts=max_restarts), signals, go_on)
        agent.run()
        return agent.verdict()


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "ttstrain", *arguments]


def _spec(command: Sequence[str], *, nproc: int, max_restarts: int) -> WorkerSpec:
    port = _free_port()
    place = RendezvousParameters("static", f"127.0.0.1:{port}", uuid.uuid4().hex, 1, 1, rank=0)
    return WorkerSpec(
        role="ttstrain",
        local_world_size=nproc,
        rdzv_handler=create_rdzv_handler(place),
        max_restarts=max_restarts,
        entrypoint=command[0],
        args=tuple(word.replace("$", "$$") for word in command[1:]),  # the agent fills `${local_rank}` in
        monitor_interval=POLL_S,
        master_addr="127.0.0.1",
        master_port=port,
    )


class _Agent(LocalElasticAgent):
    """torch's agent, with our signals, grace for the others, and reasons to start again."""

    def __init__(self, spec: WorkerSpec, signals: list[int], go_on: str) -> None:
        super().__init__(spec, DefaultLogsSpecs(os.devnull))
        self._go_on = go_on  # after a process was killed
        self._signals = signals  # received, and not yet passed on
        self._asked: list[int] = []  # passed on
        self._failed: dict[int, int] = {}  # rank -> exit code, in the order of failing
        self._first_failed_at: float | None = None
        self._hung = False  # and were killed, though none had failed

    def verdict(self) -> int:
        """Choose the exit code: that of the first process that failed by itself, not of one that only lost the others.

        Raises PeerError for one that was killed.
        """
        if self._hung:
            return 128 + signal.SIGINT
        if not self._failed:
            return 0
        rank, code = self._first_failure()
        if code < 0 and -code not in self._asked:
            times = self._restarts()
            raise PeerError(
                _killed(rank, code) + (f", after {times} restart{'s' * (times > 1)}" if times else ""),
                hint=f"the machine's memory may be short; {self._go_on}",
                exit_code=128 - code,
            )
        return code if code >= 0 else 128 - code  # as a shell reports a death by signal

    # ------------------------------------------------------------ called by torch

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._failed, self._first_failed_at = {}, None
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Look at the processes; torch's own look would end all of them once one has failed."""
        processes = self._processes()
        while self._signals:
            self._asked.append(self._signals.pop(0))
            _send(processes, self._asked[-1])
        self._note_failures(processes)
        if any(process.poll() is None for process in processes.values()):
            if not self._out_of_patience():
                return RunResult(state=WorkerState.HEALTHY)
            self._hung = not self._failed
            self._shutdown(signal.SIGKILL)  # those are no failures of their own
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and self._remaining_restarts > 0:
            self._decide_on_restart(worker_group)
        return result

    def _construct_event(self, state: str, source: EventSource, *_: Any, **__: Any) -> Event:
        """Make an event of no more: nobody reads it, and torch asks a name server what this machine is called."""
        return Event(state, source)

    # ------------------------------------------------------------ what it sees and decides

    def _processes(self) -> Mapping[int, subprocess.Popen[bytes]]:
        assert isinstance(self._pcontext, SubprocessContext)
        return {rank: handler.proc for rank, handler in self._pcontext.subprocess_handlers.items()}

    def _note_failures(self, processes: Mapping[int, subprocess.Popen[bytes]]) -> None:
        for rank, process in processes.items():
            if process.poll() not in (None, 0):
                self._failed.setdefault(rank, process.returncode)
        if self._failed and self._first_failed_at is None:
            self._first_failed_at = time.monotonic()

    def _out_of_patience(self) -> bool:
        waited = 0.0 if self._first_failed_at is None else time.monotonic() - self._first_failed_at
        return waited > GRACE_S or self._asked.count(signal.SIGINT) >= _PATIENCE

    def _first_failure(self) -> tuple[int, int]:
        """Return rank and exit code; a process that only lost the others is named where no other failed."""
        own = ((rank, code) for rank, code in self._failed.items() if code != PeerError.exit_code)
        return next(own, (0, PeerError.exit_code))

    def _restarts(self) -> int:
        return self._worker_group.spec.max_restarts - self._remaining_restarts

    def _decide_on_restart(self, worker_group: WorkerGroup) -> None:
        """Leave torch no restart where it would only repeat the failure, or where the end was asked for."""
        rank, code = self._first_failure()
        spec = worker_group.spec
        assert spec.master_addr is not None and spec.master_port is not None
        attempts = Attempts(connect(spec.master_addr, spec.master_port), self._restarts())
        if code >= 0:
            attempts.end(code)
        else:
            attempts.lose(_killed(rank, code))
        if self._asked or attempts.repeats() is not None:
            spec.max_restarts, self._remaining_restarts = self._restarts(), 0
            return
        what = _killed(rank, code) if code < 0 else f"the process of rank {rank} failed"
        number, most = self._restarts() + 1, spec.max_restarts
        print(f"WARNING: {what}: all start again (restart {number} of {most})", file=sys.stderr, flush=True)


def _killed(rank: int, code: int) -> str:
    return f"the process of rank {rank} was killed by {signal.Signals(-code).name}"


def _send(processes: Mapping[int, subprocess.Popen[bytes]], number: int) -> None:
    for process in processes.values():
        if process.poll() is None:
            process.send_signal(number)


# ---------------------------------------------------------------- around the agent


@contextmanager
def _collected() -> Iterator[list[int]]:
    """Collect the signals that are passed on; an ignored SIGHUP stays ignored, as nohup wants."""
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    sighup = getattr(signal, "SIGHUP", None)
    ignored = {sighup} if sighup is not None and signal.getsignal(sighup) == signal.SIG_IGN else set()
    previous = {number: signal.signal(number, note) for number in _FORWARDED if number not in ignored}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _environment(nproc: int) -> Iterator[None]:
    """Set what the processes inherit, and what keeps torch's agent from handling signals itself."""
    ours = {LAUNCHER: str(os.getpid()), "TORCHELASTIC_SIGNALS_TO_HANDLE": ""}
    if "OMP_NUM_THREADS" not in os.environ:
        ours["OMP_NUM_THREADS"] = str(max(1, usable_cores() // nproc))
    former = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's own lines about processes from the screen: they repeat what is said here."""
    log = logging.getLogger("torch.distributed.elastic")
    silence, passes_on = logging.NullHandler(), log.propagate
    log.addHandler(silence)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(silence)
        log.propagate = passes_on


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
