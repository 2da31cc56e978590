"""A run starts where its checkpoints fit, the one being written included, and its own do not count twice."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttstrain.errors import RecipeError
from ttstrain.runs import disk
from ttstrain.runs.disk import bytes_wanted, check_disk

EACH = 10_000_000
Usage = namedtuple("Usage", "total used free")


def plan(*, kept: int = 3, steps: int = 20, best: str | None = "eval/loss/total", snapshot: str = "memory") -> Any:
    recipe = SimpleNamespace(checkpoint=SimpleNamespace(best=best), guard=SimpleNamespace(snapshot=snapshot))
    snapshots = 2 * EACH if snapshot == "disk" else 0
    return SimpleNamespace(
        disk_bytes=kept * EACH,
        num_checkpoints=kept,
        steps=steps,
        save_every=4,
        world_size=4,
        recipe=recipe,
        snapshot_disk_bytes=snapshots,
    )


def test_the_one_being_written_counts_beside_those_that_are_kept() -> None:
    assert bytes_wanted(plan(), present=0) == 4 * EACH
    assert bytes_wanted(plan(kept=2, best=None), present=0) == 3 * EACH
    assert bytes_wanted(plan(kept=2, steps=8, best=None), present=0) == 2 * EACH  # all are kept


def test_a_runs_own_checkpoints_count_once() -> None:
    assert bytes_wanted(plan(), present=3 * EACH) == EACH
    assert bytes_wanted(plan(), present=9 * EACH) == EACH  # there is always one more before old ones go


def test_snapshots_on_the_disk_count_for_each_machine() -> None:
    assert bytes_wanted(plan(snapshot="disk"), present=0) == (4 + 2) * EACH
    assert bytes_wanted(plan(snapshot="disk"), present=0, machines=2) == (4 + 2 * 2) * EACH


def test_a_disk_that_is_too_small_is_told_in_figures_that_say_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: Usage(0, 0, 20_000_000))
    with pytest.raises(RecipeError, match=r"need 40\.0 MB more, .* has 20\.0 MB left"):
        check_disk(plan(), tmp_path)
    own = tmp_path / "checkpoints" / "step-00000004"
    own.mkdir(parents=True)
    (own / "weights.safetensors").write_bytes(bytes(25_000_000))
    check_disk(plan(), tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: Usage(0, 0, 512))
    with pytest.raises(RecipeError, match="has 512 bytes left"):
        check_disk(plan(), tmp_path)
