"""`ttstrain` commands in processes of their own, several at once, with faults planted in them before they begin.

The processes are forked from a server that has imported torch, which saves seconds for each.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = [
    "ttstrain.cli.main",
    "ttstrain.runs.new",
    "ttstrain.runs.resume",
    "ttstrain.export.write",
    "torchaudio",
    *(
        f"transformers.models.{name}"
        for name in ("bert.modeling_bert", "hubert.modeling_hubert", "llama.modeling_llama")
    ),
    *("pypinyin", "rjieba"),  # with their dictionaries
]
PATIENCE_S = 300.0  # a busy machine is no hang


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said on stdout and stderr; `code` is negative for a signal."""

    code: int
    said: str

    @property
    def is_complete(self) -> bool:
        """Whether a run has taken all its steps: it ended well, or `resume` refuses it since none are left."""
        return self.code == 0 or bool(re.search(r"its schedule has (\d+) steps and the run is at step \1", self._words))

    @property
    def _words(self) -> str:
        return " ".join(self.said.split())

    @property
    def brief(self) -> str:
        return f"exit code {self.code}: {self.said.strip()[-300:]}"


class Program:
    """A `ttstrain` command that runs. `plant` is called in its process first, with `planted` as its arguments."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path,
        plant: Callable[..., None] | None = None,
        planted: Sequence[Any] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._said = cwd / f".said-{time.monotonic_ns()}.txt"
        self._said.touch()
        words = [str(word) for word in arguments]
        begin = _Begin(words, dict(environment or os.environ), cwd, self._said, plant, tuple(planted))
        self._process = context.Process(target=begin)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def wait(self, *, within_s: float = PATIENCE_S) -> Ended:
        """Wait for the end. One that takes longer is killed, and has the code of that signal."""
        self._process.join(within_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, self.said())

    def wait_for(self, sign: Callable[[], bool]) -> bool:
        """Wait until `sign` is true; return False where the command ends before that."""
        ends = time.monotonic() + PATIENCE_S
        while not sign():
            if self._process.exitcode is not None or time.monotonic() > ends:
                return sign()
            time.sleep(0.02)
        return True


def run(*arguments: str | Path, cwd: Path, **options: Any) -> Ended:
    """Run a command and wait for its end."""
    return Program(*arguments, cwd=cwd, **options).wait()


@dataclass(frozen=True)
class _Begin:
    """What the new process does."""

    arguments: list[str]
    environment: dict[str, str]
    cwd: Path
    said: Path
    plant: Callable[..., None] | None
    planted: tuple[Any, ...]

    def __call__(self) -> None:
        file = os.open(self.said, os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        os.close(file)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        if self.plant is not None:
            self.plant(*self.planted)
        sys.argv = ["ttstrain", *self.arguments]

        from ttstrain.cli.main import main

        main()
