"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ttstrain.data import atomic
from ttstrain.places import is_refusal


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")

    atomic.write_text(tmp_path / "atomic", "x")

    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.write_text(path, "old")

    def fail(_self: Path, _target: Path) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        atomic.write_text(path, "new")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_writing_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write_text(tmp_path / "file", "new")
    assert caught.value.filename == str(tmp_path / "file")
    assert is_refusal(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_cleaning_up_does_not_hide_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(path))

    def fail(path: Path, _target: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    atomic.write_text(tmp_path / "file", "old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_leftovers_of_dead_processes_go_and_all_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = atomic.temporary_beside(tmp_path / "features", end=atomic.PART)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    monkeypatch.setattr(os, "getpid", lambda: dead.pid)
    left = atomic.temporary_beside(tmp_path / "features", end=atomic.PART)
    folder = atomic.temporary_beside(tmp_path / "export")
    monkeypatch.setattr(atomic, "_machine", lambda: "0123abcd")
    elsewhere = atomic.temporary_beside(tmp_path / "features", end=atomic.PART)
    days_ago = atomic.temporary_beside(tmp_path / "features", end=atomic.PART)
    monkeypatch.undo()
    monkeypatch.setattr(os, "getpid", lambda: 9_999_999_999)
    no_process = atomic.temporary_beside(tmp_path / "features", end=atomic.PART)
    kept = [own, elsewhere, tmp_path / "features", tmp_path / ".hidden.part"]
    for path in (left, days_ago, no_process, *kept):
        path.touch()
    os.utime(days_ago, (time.time() - 2 * atomic.DAY_S,) * 2)
    (folder / "inner").mkdir(parents=True)
    monkeypatch.undo()
    atomic.remove_leftovers(tmp_path, end=atomic.PART)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, folder])
    atomic.remove_leftovers(tmp_path, start="export")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    atomic.remove_leftovers(tmp_path / "nowhere")
