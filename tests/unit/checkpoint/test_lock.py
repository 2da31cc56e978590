"""One process writes into a run's folder; a dead one keeps nobody out."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ttstrain.checkpoint import lock
from ttstrain.checkpoint.lock import LOCK, RunBusyError, hold
from ttstrain.errors import UserError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="flock as POSIX has it")


@contextmanager
def held_elsewhere(folder: Path, *, forks: bool = False) -> Iterator[int]:
    """Hold the lock in a process that is killed at the end; `forks` leaves a child of it behind that goes on."""
    ready, tell = os.pipe()
    over, end = os.pipe()
    process = os.fork()
    if process == 0:
        sys.argv = ["/usr/bin/ttstrain", "resume", "runs/a b"]
        hold(folder)
        if forks and os.fork() == 0:  # as a loader's worker that outlives its parent
            os.close(end)
            os.write(tell, b"c")
            os.read(over, 1)
            os._exit(0)
        os.write(tell, b"p")
        signal.pause()
    try:
        for _ in range(1 + forks):
            assert os.read(ready, 1)
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for descriptor in (ready, tell, over, end):
            os.close(descriptor)


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(RunBusyError) as caught:
            hold(tmp_path)
        assert caught.value.exit_code == 2
        assert f"process {process} on `{os.uname().nodename}` since 20" in caught.value.message
        assert "`ttstrain resume 'runs/a b'`" in caught.value.message
        assert f"touch {tmp_path / 'STOP'}" in str(caught.value.hint)


def test_a_dead_holder_keeps_nobody_out_though_its_child_lives(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, forks=True) as process:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert (tmp_path / LOCK).exists()
        with hold(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_leaves_no_trace(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path), pytest.raises(RunBusyError):
            hold(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_made_for_a_run_that_wrote_nothing_is_removed(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
        with hold(tmp_path / name, made=True):
            if name == "used":
                (tmp_path / name / "x").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_a_lock_whose_file_was_removed_before_it_was_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hold(tmp_path)
    try_lock, tries = lock._try_lock, []

    def let_go_in_between(descriptor: int) -> lock.Answer:
        tries.append(descriptor)
        first.release()  # the file that was just opened goes, with its lock
        return try_lock(descriptor)

    monkeypatch.setattr(lock, "_try_lock", let_go_in_between)
    with hold(tmp_path):
        assert len(tries) == 2
        monkeypatch.undo()
        with pytest.raises(RunBusyError):
            hold(tmp_path)


def test_a_lock_that_says_nothing_readable_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SAYS_WITHIN_S", 0.0)
    with held_elsewhere(tmp_path) as process:
        for content in (b"", b'{"pid": 1', b"\xff\xfe", b"[]"):
            (tmp_path / LOCK).write_bytes(content)
            with pytest.raises(RunBusyError, match=rf"process {process} on `.+` since 20|another process"):
                hold(tmp_path)


@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="the system lists no locks")
def test_a_holder_that_could_not_write_its_name_is_found_in_the_list_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SAYS_WITHIN_S", 0.0)
    with held_elsewhere(tmp_path) as process:
        (tmp_path / LOCK).write_bytes(b"")
        place = (tmp_path / LOCK).stat()
        if f":{place.st_ino} " not in Path("/proc/locks").read_text():
            pytest.skip("the list of locks does not name this file system's files")
        with pytest.raises(RunBusyError, match=rf"process {process} on `{os.uname().nodename}` since 20"):
            hold(tmp_path)


def test_a_holder_that_has_just_begun_is_given_time_to_say_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_elsewhere(tmp_path) as process:
        said = (tmp_path / LOCK).read_bytes()
        (tmp_path / LOCK).write_bytes(b"")
        monkeypatch.setattr(lock.time, "sleep", lambda seconds: (tmp_path / LOCK).write_bytes(said))
        with pytest.raises(RunBusyError, match=rf"process {process} on .+: `ttstrain resume"):
            hold(tmp_path)


def test_a_drive_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with hold(tmp_path) as held:
        assert "has no locks" in str(held.warning)


def test_a_lock_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    other.write_text("kept")
    (run / LOCK).symlink_to(other)
    with pytest.raises(UserError, match="cannot be written"):
        hold(run)
    assert other.read_text() == "kept"


def test_a_folder_that_was_removed_renamed_or_replaced_is_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with hold(run) as held:
        (run / LOCK).unlink()  # by an impatient user: the folder is still ours
        assert not held.lost()
        run.rename(tmp_path / "elsewhere")
        assert held.lost()
        run.mkdir()
        assert held.lost()
        run.rmdir()
        (tmp_path / "elsewhere").rename(run)
        assert not held.lost()
