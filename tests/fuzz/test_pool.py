"""The pool that reads hostile files: whatever a reader does wrong is seen, and the next case is read all the same."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import pool
from hostile.mutation import Case
from hostile.pool import Outcome, Seen, Trial, read_all

from ttstrain.errors import DataError


def crash(folder: Path) -> Seen:
    raise KeyError("a")


def refuse(folder: Path) -> Seen:
    raise DataError("it is damaged")


def hang(folder: Path) -> Seen:
    while True:
        pass


def wait_forever(folder: Path) -> Seen:
    os.mkfifo(folder / "pipe")
    (folder / "pipe").read_bytes()
    raise AssertionError


def die(folder: Path) -> Seen:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def swell(folder: Path) -> Seen:
    return Seen(str(np.ones(1 << 28).sum()))  # two gibibytes


def write_outside(folder: Path) -> Seen:
    (folder.parent / "outside").write_bytes(b"x")
    return Seen("healthy")


def change_its_input(folder: Path) -> Seen:
    (folder / "a").write_bytes(b"changed")
    return Seen("healthy")


def run_a_program(folder: Path) -> Seen:
    subprocess.run(["true"], check=True)
    return Seen("healthy")


def obey_its_input(folder: Path) -> Seen:
    (folder / "canary").touch()
    return Seen("healthy")


def misread(folder: Path) -> Seen:
    return Seen("something else")


def tell(folder: Path) -> Seen:
    return Seen("something else", told=True)


def read_well(folder: Path) -> Seen:
    (folder / "cache").mkdir()
    (folder / "cache" / "unpacked").write_bytes(b"x")
    return Seen("healthy")


def outcomes(place: Path, read: Callable[[Path], Seen], *, cases: int = 1, plain: bool = False) -> list[Outcome]:
    (place / "home").mkdir()
    case = Case({"a": b"content"}, "changed", plain=plain)
    return list(read_all(Trial(lambda number: case, read, [Seen("healthy")], place), range(cases)))


@pytest.mark.parametrize(
    ("read", "verdict", "detail"),
    [
        (crash, "crash", "KeyError: 'a'"),
        (refuse, "refused", "DataError: it is damaged"),
        (hang, "hang", "SIGPROF"),
        (wait_forever, "hang", "SIGKILL"),
        (die, "killed", "SIGSEGV"),
        (swell, "crash", "MemoryError"),
        (write_outside, "wrote", "outside"),
        (change_its_input, "wrote", "changed its input a"),
        (run_a_program, "ran", "subprocess.Popen"),
        (obey_its_input, "ran", "canary"),
        (misread, "silent", "something else instead of healthy"),
        (tell, "told", ""),
        (read_well, "equal", ""),
    ],
)
def test_what_a_reader_does_is_seen(
    read: Callable[[Path], Seen], verdict: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(pool, "WALL_SECONDS", 1.0)
    (found,) = outcomes(tmp_path, read)
    assert (found.verdict, detail in found.detail) == (verdict, True), found


def test_another_valid_file_may_be_read_without_a_word(tmp_path: Path) -> None:
    (found,) = outcomes(tmp_path, misread, plain=True)
    assert found.verdict == "other"


def test_cases_after_one_that_ends_the_process_are_read(tmp_path: Path) -> None:
    found = outcomes(tmp_path, die, cases=3)
    assert [(one.number, one.verdict) for one in found] == [(0, "killed"), (1, "killed"), (2, "killed")]
