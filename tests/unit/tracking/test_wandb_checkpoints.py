"""Checkpoints reach W&B as references or whole, and neither a slow nor a broken upload holds a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttstrain.tracking.tracker import RunInfo
from ttstrain.tracking.wandb import WandbNames, WandbTracker
from ttstrain.tracking.wandb_checkpoints import PLACE, CheckpointSender, How


class Logged:
    """What the server has of an artifact, once `wait` returns."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait


class FakeRun:
    """Keeps the artifacts that it is given: names of files, references, aliases."""

    def __init__(self, *, upload: Callable[[], None] = lambda: None) -> None:
        self.upload = upload
        self.artifacts: list[tuple[dict[str, Any], list[str]]] = []
        self.sent = threading.Event()

    def log_artifact(self, artifact: Any, *, aliases: list[str]) -> Logged:
        content = {
            name: entry.ref or Path(entry.local_path).read_bytes() for name, entry in artifact.manifest.entries.items()
        }
        self.artifacts.append((content, aliases))
        self.sent.set()
        return Logged(self.upload)


def info(run_dir: Path) -> RunInfo:
    return RunInfo("a run", run_dir, "run-7f3a", False, {}, (), 100, 0, 10.0)


def checkpoint(run_dir: Path, step: int) -> Path:
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights of %d" % step)
    (folder / "meta.json").write_bytes(b"{}")
    return folder


def send(sender: CheckpointSender, run: FakeRun, run_dir: Path, step: int, *, best: bool = False, **how: Any) -> Path:
    folder = checkpoint(run_dir, step)
    sender.send(run, info(run_dir), step=step, folder=folder, best=best, **{"offline": False, **how})
    return folder


@pytest.mark.parametrize(("how", "offline"), [("reference", False), ("reference", True), ("upload", True)])
def test_a_reference_says_where_the_checkpoint_lies(tmp_path: Path, how: How, offline: bool) -> None:
    run = FakeRun()
    folder = send(CheckpointSender(how), run, tmp_path, 5, best=True, offline=offline)
    uri = folder.resolve().as_uri()
    files = {f"step-00000005/{name}": f"{uri}/{name}" for name in ("meta.json", "weights.safetensors")}
    assert run.artifacts == [(files, ["latest", "step-5", "best"])]


def test_by_default_nothing_is_recorded(tmp_path: Path) -> None:
    run = FakeRun()
    send(CheckpointSender("off"), run, tmp_path, 5)
    assert run.artifacts == []


def test_an_upload_holds_every_file_though_the_checkpoint_is_removed_meanwhile(tmp_path: Path) -> None:
    removed = threading.Event()
    run, sender = FakeRun(upload=lambda: None), CheckpointSender("upload")
    plain = run.log_artifact
    run.log_artifact = lambda *args, **more: removed.wait(30) and plain(*args, **more)  # type: ignore[method-assign]
    folder = send(sender, run, tmp_path, 5)
    for file in folder.iterdir():
        file.unlink()
    removed.set()
    sender.finish(within_s=30)
    assert run.artifacts == [({"meta.json": b"{}", "weights.safetensors": b"weights of 5"}, ["latest", "step-5"])]
    assert not (tmp_path / PLACE).exists()


def test_uploads_slower_than_saves_send_the_newest_and_the_best(tmp_path: Path) -> None:
    go_on = threading.Event()
    run, sender = FakeRun(upload=lambda: go_on.wait(30) and None), CheckpointSender("upload")
    send(sender, run, tmp_path, 5)
    assert run.sent.wait(30)  # its upload has begun, and does not end
    for step, best in ((6, False), (7, True), (8, False), (9, False)):
        send(sender, run, tmp_path, step, best=best)
    assert sorted(place.name for place in (tmp_path / PLACE).iterdir()) == [f"step-0000000{step}" for step in (5, 7, 9)]
    go_on.set()
    sender.finish(within_s=30)
    assert [aliases[1:] for _, aliases in run.artifacts] == [["step-5"], ["step-7", "best"], ["step-9"]]


def test_the_end_of_a_run_waits_for_an_upload_only_so_long(tmp_path: Path) -> None:
    go_on = threading.Event()
    run, sender = FakeRun(upload=lambda: go_on.wait(30) and None), CheckpointSender("upload")
    send(sender, run, tmp_path, 5)
    with pytest.raises(TimeoutError, match="more than 0 s"):
        sender.finish(within_s=0.05)
    go_on.set()


def test_a_failed_upload_is_one_warning_and_the_run_is_recorded_on(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no such project\nwith details")

    warned: list[str] = []
    tracker = WandbTracker(mode="online", names=WandbNames("p"), checkpoints="upload", note=print, warn=warned.append)
    run = FakeRun(upload=fail)
    tracker._run, tracker._info = run, info(tmp_path)
    tracker.checkpoint(5, checkpoint(tmp_path, 5), best=False)
    worker = tracker._checkpoints._worker
    if worker is not None:
        worker.join(30)
    for step in (6, 7):
        tracker.checkpoint(step, checkpoint(tmp_path, step), best=False)
    assert warned == ["W&B gets no more checkpoints of this run: no such project"]
    assert len(run.artifacts) == 1
    assert tracker._run is run
