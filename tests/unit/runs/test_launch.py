"""The launcher passes signals down and one exit code up, whatever becomes of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ttstrain.errors import DataError, PeerError, RecipeError
from ttstrain.runs import launch as launching
from ttstrain.runs.launch import launch
from ttstrain.train.launched import LAUNCHER, check_environment, first_speaks

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

Launch = Callable[..., int]
SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def launch_scripts(monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Launch one Python script per rank in place of ttstrain."""
    for name in ("RANK", "WORLD_SIZE", LAUNCHER):
        monkeypatch.delenv(name, raising=False)

    def launch_all(*scripts: str, max_restarts: int = 0) -> int:
        choose = f"import os; exec({scripts!r}[int(os.environ['LOCAL_RANK'])])"
        monkeypatch.setattr(launching, "_command", lambda arguments: [sys.executable, "-S", "-c", choose])
        return launch([], nproc=len(scripts), max_restarts=max_restarts)

    return launch_all


def leave(code: int, *, after: float = 0.0) -> str:
    return f"import sys, time; time.sleep({after}); sys.exit({code})"


def signal_me(number: signal.Signals, *, after: float, times: int = 1) -> None:
    def send() -> None:
        for _ in range(times):
            time.sleep(after)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((0, 3), 3), ((75, 75), 75), ((1, 6), 6), ((6, 1), 6), ((1, 1), 1), ((1, 0), 1)],
)
def test_the_code_is_that_of_the_process_that_knows_why(
    launch_scripts: Launch, codes: tuple[int, ...], expected: int
) -> None:
    assert launch_scripts(*map(leave, codes)) == expected


def test_the_first_to_fail_decides(launch_scripts: Launch) -> None:
    assert launch_scripts(leave(5, after=0.5), leave(6)) == 6


def test_a_process_that_does_not_end_after_another_has_failed_is_killed(
    launch_scripts: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "GRACE_S", 0.3)
    started = time.monotonic()
    assert launch_scripts(SLEEP, leave(4)) == 4
    assert launch_scripts(SLEEP, leave(1)) == 1
    assert time.monotonic() - started < 5


def test_a_killed_process_is_named(launch_scripts: Launch) -> None:
    with pytest.raises(PeerError, match="the process of rank 1 was killed by SIGKILL") as raised:
        launch_scripts(leave(1, after=0.3), "import os; os.kill(os.getpid(), 9)", leave(1, after=0.3))
    assert raised.value.exit_code == 128 + signal.SIGKILL
    assert not raised.value.told


KILLED_ONCE = "import os; os.environ['TORCHELASTIC_RESTART_COUNT'] != '0' or os.kill(os.getpid(), 9)"
KILLED = "import os; os.kill(os.getpid(), 9)"


def test_all_start_again_once_one_is_killed(launch_scripts: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch_scripts(leave(0), KILLED_ONCE, max_restarts=3) == 0
    said = capfd.readouterr().err
    assert said == "WARNING: the process of rank 1 was killed by SIGKILL: all start again (restart 1 of 3)\n"


def test_a_process_that_is_killed_again_without_a_new_checkpoint_is_not_started_again(
    launch_scripts: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PeerError, match=r"the process of rank 0 was killed by SIGKILL, after 1 restart$"):
        launch_scripts(KILLED, max_restarts=3)
    assert capfd.readouterr().err.count("start again") == 1


@pytest.mark.parametrize("code", [1, 6, 75])
def test_what_another_start_would_repeat_is_not_started_again(
    launch_scripts: Launch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    assert launch_scripts(leave(code), max_restarts=3) == code
    assert capfd.readouterr().err == ""


def test_what_was_asked_to_end_is_not_started_again(launch_scripts: Launch) -> None:
    signal_me(signal.SIGTERM, after=0.5)
    assert launch_scripts(SLEEP, max_restarts=3) == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_reaches_every_process(launch_scripts: Launch, number: signal.Signals, code: int) -> None:
    signal_me(number, after=0.5)
    assert launch_scripts(*[f"import signal; signal.signal({int(number)}, signal.SIG_DFL); {SLEEP}"] * 2) == code


def test_ctrl_c_again_and_again_ends_processes_that_hang(launch_scripts: Launch) -> None:
    signal_me(signal.SIGINT, after=0.3, times=3)
    started = time.monotonic()
    assert launch_scripts(DEAF, DEAF) == 130
    assert time.monotonic() - started < 10


def test_signal_handlers_are_put_back(launch_scripts: Launch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    launch_scripts(leave(0))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_under_nohup_a_hangup_reaches_nobody(launch_scripts: Launch) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_me(signal.SIGHUP, after=0.3)
        assert launch_scripts(leave(0, after=0.8)) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_the_death_of_the_launcher_preempts_its_processes(tmp_path: Path) -> None:
    ready, told = tmp_path / "ready", tmp_path / "told"
    child = (
        "import pathlib, signal, time\n"
        "from ttstrain.train.launched import end_with_launcher\n"
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(told)!r}).touch())\n"
        "end_with_launcher()\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(5)\n"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"os.environ[{LAUNCHER!r}] = str(os.getpid())\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(ready)
    assert not told.exists()
    launcher.kill()
    launcher.wait()
    wait_for(told)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.02)


def test_processes_do_not_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="started already"):
        launch([], nproc=2)


def test_half_an_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecipeError, match=r"WORLD_SIZE=4 .* RANK, MASTER_PORT is not set"):
        check_environment()


@pytest.mark.parametrize(("local_rank", "kind"), [(None, DataError), ("0", DataError), ("3", PeerError)])
def test_what_all_read_alike_is_told_by_the_first_process_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, kind: type[Exception]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(kind) as raised, first_speaks():
        raise DataError("no such file")
    assert raised.type is kind
    assert getattr(raised.value, "exit_code", None) == 3
