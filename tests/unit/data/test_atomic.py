"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttstrain.data import atomic


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
