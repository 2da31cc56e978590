"""Requests to stop are noticed between steps, and nothing else changes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ttstrain.errors import Preempted
from ttstrain.train.signals import POLL_S, Hurried, Signals, preparing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

ALL = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += POLL_S  # every look is due
        return self.now


@pytest.fixture
def signals(tmp_path: Path) -> Iterator[Signals]:
    with Signals(tmp_path, clock=Clock()) as entered:
        yield entered


@pytest.mark.parametrize(
    ("number", "request_"),
    [
        (signal.SIGTERM, "preempted"),
        (signal.SIGUSR1, "preempted"),
        (signal.SIGHUP, "preempted"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_is_a_request_that_stays(signals: Signals, number: int, request_: str) -> None:
    assert signals.requested() is None
    signal.raise_signal(number)
    assert [signals.requested(), signals.requested()] == [request_, request_]


def test_a_second_ctrl_c_stops_at_once(signals: Signals) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_preemption_again_and_again_is_still_one_request(signals: Signals) -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        signal.raise_signal(number)
    assert signals.requested() == "preempted"


def test_a_first_ctrl_c_never_raises_even_after_a_preemption(signals: Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert signals.requested() == "preempted"  # the job is to be queued again, whoever else wants it to end
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_person_is_told_at_once(signals: Signals, capfd: pytest.CaptureFixture[str]) -> None:
    signal.raise_signal(signal.SIGINT)
    out, err = capfd.readouterr()
    assert out == ""
    assert "press again" in err


@pytest.mark.parametrize("number", ALL)
def test_handlers_are_put_back_whatever_happens(tmp_path: Path, number: int) -> None:
    def mine(*args: object) -> None:
        pass

    former = signal.signal(number, mine)
    try:
        with pytest.raises(ZeroDivisionError), Signals(tmp_path):
            assert signal.getsignal(number) is not mine
            1 / 0  # noqa: B018
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, former)


def test_after_a_second_ctrl_c_the_former_handler_is_back_too(tmp_path: Path) -> None:
    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Signals(tmp_path):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former


def test_a_stop_file_ends_the_run_and_does_not_stop_the_next_one(signals: Signals, tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    assert signals.requested() == "stop"
    assert not (tmp_path / "STOP").exists()
    assert signals.requested() == "stop"


def test_a_save_file_asks_for_one_checkpoint(signals: Signals, tmp_path: Path) -> None:
    assert not signals.save_requested()
    (tmp_path / "SAVE").touch()
    assert signals.requested() is None  # looks at both files, and forgets neither
    assert signals.save_requested()
    assert not signals.save_requested()
    assert not (tmp_path / "SAVE").exists()


def test_files_are_looked_for_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []

    def unlink(path: Path) -> None:
        looks.append(path)
        raise FileNotFoundError

    monkeypatch.setattr(Path, "unlink", unlink)
    now = 0.0
    with Signals(tmp_path, clock=lambda: now) as signals:
        for step in range(1000):
            now = step / 100
            signals.requested()
            signals.save_requested()
    assert all(10 <= [path.name for path in looks].count(name) <= 11 for name in ("STOP", "SAVE"))


def test_a_stop_file_from_before_is_no_request(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    (tmp_path / "SAVE").touch()
    with Signals(tmp_path, clock=Clock()) as signals:
        assert signals.requested() is None
        assert not signals.save_requested()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_looked_into_is_told_once_and_ends_nothing(
    signals: Signals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "unlink", fail)
    assert [signals.requested() for _ in range(3)] == [None] * 3
    assert not signals.save_requested()
    assert caplog.text.count(os.strerror(number)) == 1


def test_what_can_be_left_out_breaks_off_at_a_signal_and_nothing_else_does(signals: Signals) -> None:
    with pytest.raises(Hurried), signals.breakable():
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError
    signal.raise_signal(signal.SIGTERM)  # outside: a request, as ever
    with pytest.raises(Hurried), signals.breakable():
        raise AssertionError
    assert signals.hurried


def test_a_stop_file_is_in_no_hurry(signals: Signals, tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    assert signals.requested() == "stop"
    with signals.breakable():
        assert not signals.hurried


@pytest.mark.parametrize("context", [preparing, lambda: Signals(Path("nowhere"))])
def test_under_nohup_a_hangup_stays_ignored(context) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with context():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_before_the_first_step_a_signal_is_an_error_of_its_own(number: int) -> None:
    with pytest.raises(Preempted, match="nothing to save") as caught, preparing():
        signal.raise_signal(number)
    assert caught.value.exit_code == 75


STARTING = """
import time
from ttstrain.train.signals import starting
with starting():
    print("importing", flush=True)
    time.sleep(60)
"""


def test_while_modules_are_imported_a_signal_ends_the_program_with_75() -> None:
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "error: SIGTERM: there is nothing to save" in err


def test_a_forked_worker_outlives_the_signals_that_its_trainer_gets(signals: Signals) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        os._exit(7 if signals.requested() is None else 8)
    time.sleep(0.2)
    for number in (*ALL, signal.SIGINT):
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


SCRIPT = """
import sys, time
from pathlib import Path
from ttstrain.train.signals import Signals
with Signals(Path(sys.argv[1])) as signals:
    print("training", flush=True)
    for step in range(10**6):
        time.sleep(0.01)
        if request := signals.requested():
            print(request)
            break
"""


@pytest.mark.parametrize(("number", "request_"), [(signal.SIGTERM, "preempted"), (signal.SIGINT, "interrupted")])
def test_a_signal_from_another_process_lets_the_step_finish(tmp_path: Path, number: int, request_: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{request_}\n")
    assert "finishing this step and saving" in err


# ---------------------------------------------------------------- samples on request


def test_a_text_in_the_file_is_asked_for_once(signals: Signals, tmp_path: Path) -> None:
    assert signals.sample_requested() is None
    (tmp_path / "SAMPLE").write_text("  What a day!\n", encoding="utf-8")
    assert [signals.sample_requested(), signals.sample_requested()] == ["What a day!", None]
    assert not (tmp_path / "SAMPLE").exists()
    (tmp_path / "SAMPLE").touch()
    assert [signals.sample_requested(), signals.sample_requested()] == ["", None]
    assert signals.requested() is None
    assert not signals.save_requested()


def test_only_the_process_that_speaks_takes_the_request(tmp_path: Path) -> None:
    with (
        Signals(tmp_path, speak=True, clock=Clock()) as speaker,
        Signals(tmp_path, speak=False, clock=Clock()) as other,
    ):
        (tmp_path / "SAMPLE").write_text("a", encoding="utf-8")
        assert other.sample_requested() is None
        assert speaker.sample_requested() == "a"


def test_an_old_request_is_removed_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "SAMPLE").write_text("old", encoding="utf-8")
    with Signals(tmp_path, clock=Clock()) as entered:
        assert entered.sample_requested() is None
    assert not (tmp_path / "SAMPLE").exists()
