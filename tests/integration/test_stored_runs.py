"""Runs that this release and earlier ones wrote: each loads, goes on, and comes to the losses stored with it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from small_runs import metrics

from ttstrain import registry
from ttstrain.checkpoint import store
from ttstrain.runs.resume import resume

STORED = Path(__file__).resolve().parents[1] / "stored_runs"
ARCHIVES = sorted(STORED.glob("*.tar.xz"))
BUDGET = 600_000  # bytes, of all of them
TOO_LARGE = ("/vae", "/joint")  # a codebook of 3 MB


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (run,) = folder.iterdir()
    return run


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def test_a_stored_run_goes_on_to_the_losses_stored_with_it(archive: Path, tmp_path: Path) -> None:
    run = unpacked(archive, tmp_path / "stored")
    expected = json.loads((run / "expected.json").read_text(encoding="utf-8"))
    assert expected
    resume(run, [f"data.cache_dir={tmp_path / 'cache'}"])
    row = metrics(run)[-1]
    assert {key: row.get(key) for key in expected} == pytest.approx(
        expected, rel=1e-3
    )  # other machines round otherwise


def test_every_task_has_a_stored_run_and_together_they_are_small(tmp_path: Path) -> None:
    found = set()
    for archive in ARCHIVES:
        run = unpacked(archive, tmp_path / archive.name)
        found.add(store.load(next((run / "checkpoints").glob("step-*"))).meta.task)
    assert found == {task for task in registry.tasks() if not task.endswith(TOO_LARGE)}
    assert sum(archive.stat().st_size for archive in ARCHIVES) < BUDGET
