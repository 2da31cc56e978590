"""A pool of processes ends, whatever its processes do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from ttstrain.data import pool
from ttstrain.data.pool import Pool, StalledError, Threads, end_all

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def deaf() -> None:
    """Ignore what Python's pool ends its processes with, as ours do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def start(count: int = 2) -> Pool:
    return Pool(count, initializer=deaf)


def test_idle_processes_leave_by_themselves() -> None:
    started = start()
    assert started.submit(os.getpid).result() != os.getpid()
    started.shutdown(cancel_futures=True)
    assert started.gone(within_s=30)
    assert started.kill() == 0


def test_a_process_that_does_not_end_is_killed_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "PATIENCE_S", 0.5)
    started = start(1)
    assert started.submit(os.getpid).result()
    started.submit(time.sleep, 600)
    time.sleep(0.2)
    began = time.monotonic()
    started.shutdown(cancel_futures=True)
    assert time.monotonic() - began < 60
    assert started.gone(within_s=30)
    assert "1 processes that loaded data did not end" in caplog.text


def test_a_process_that_ended_is_not_called_killed_while_another_thread_collects_its_exit_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = start(1)
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    os.waitpid(process.pid, 0)  # what the pool's thread does a moment before it notes the exit code
    assert process.is_alive(), "Python itself does not know"
    started._started[process.pid] = process
    assert started.pids() == []
    started.shutdown(cancel_futures=True)
    assert caplog.text == ""


def test_when_one_is_killed_the_others_which_ignore_sigterm_go_too() -> None:
    started = start()
    pids = {started.submit(os.getpid).result() for _ in range(20)}
    busy = started.submit(time.sleep, 600)
    os.kill(min(pids), signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        busy.result(timeout=60)
    started.shutdown(cancel_futures=True)
    assert started.gone(within_s=30)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_pool import start
from ttstrain.data.pool import end_all
if __name__ == "__main__":
    started = start(2)
    started.submit(os.getpid).result()
    started.submit(time.sleep, 600)
    time.sleep(0.2)
    print(end_all(), flush=True)
"""


def test_a_program_ends_though_its_processes_are_at_work(tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), os.path.dirname(__file__)]  # noqa: PTH120
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"


def test_nothing_to_end_is_no_trouble() -> None:
    assert end_all()


def raise_timeout() -> None:
    raise TimeoutError("the drive said so")


def test_a_result_that_does_not_come_is_given_up_and_its_process_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started = start(1)
    assert started.result(started.submit(os.getpid)) != os.getpid()
    with pytest.raises(TimeoutError, match="the drive said so"):  # an error of the work's own is no stall
        started.result(started.submit(raise_timeout))
    monkeypatch.setattr(pool, "STALLED_S", 0.1)
    with pytest.raises(StalledError):
        started.result(started.submit(time.sleep, 600))
    started.shutdown(cancel_futures=True)
    assert started.gone(within_s=30)


def test_a_thread_that_hangs_is_left_behind_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_S", 0.1)
    monkeypatch.setattr(pool, "PATIENCE_S", 0.1)
    monkeypatch.setattr(pool, "_abandoned", [])
    free = threading.Event()
    started = Threads(2)
    try:
        with pytest.raises(StalledError):
            started.result(started.submit(free.wait))
        started.shutdown(cancel_futures=True)  # comes back, though the thread does not
        assert not end_all()
    finally:
        free.set()
    for thread in pool._abandoned:
        thread.join()
    assert end_all()
