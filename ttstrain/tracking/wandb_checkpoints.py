"""Checkpoints as artifacts of W&B: where they lie, or the files themselves.

- A later save may remove a checkpoint that is still being sent. So its files are linked (hard links: no copy, and no
  disk space while the checkpoint is there) into the run's `wandb/checkpoints`, and sent from there.
- W&B computes a checksum of every file it sends: seconds for each GB. A thread does that and waits for the upload,
  beside training. Where uploads are slower than saves, only the newest and the best that wait are sent.
- Offline nothing can be sent, so only the place is recorded.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain.tracking.tracker import RunInfo

How = Literal["off", "reference", "upload"]
PLACE = Path("wandb", "checkpoints")  # in a run's folder: links to the files that are being sent


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A checkpoint to be sent."""

    run: Any  # wandb.Run
    info: RunInfo
    step: int
    best: bool
    place: Path  # its linked files

    @property
    def aliases(self) -> list[str]:
        return _aliases(self.step, best=self.best)


class CheckpointSender:
    """Makes artifacts of one run's checkpoints, one after another."""

    def __init__(self, how: How) -> None:
        self.how = how
        self._waiting: list[_Parcel] = []  # oldest first
        self._change = threading.Lock()  # of what waits
        self._worker: threading.Thread | None = None
        self._begun = False
        self._error: Exception | None = None

    def send(self, run: Any, info: RunInfo, *, step: int, folder: Path, best: bool, offline: bool) -> None:
        """Record a checkpoint with W&B's run. Raises W&B's error, or OSError, also that of an earlier upload."""
        if self.how == "off" or not folder.is_dir():
            return
        self._raise_error()
        if self.how == "reference" or offline:
            artifact = _artifact(info, step)
            artifact.add_reference(folder.resolve().as_uri(), name=folder.name, checksum=False)
            run.log_artifact(artifact, aliases=_aliases(step, best=best))
            return
        place = info.run_dir / PLACE / folder.name
        with self._change:
            if not self._begun:  # what a killed run left there
                shutil.rmtree(place.parent, ignore_errors=True)
                self._begun = True
            for other in [other for other in self._waiting if best or not other.best or other.step == step]:
                self._waiting.remove(other)
                shutil.rmtree(other.place, ignore_errors=True)
            _link(folder, place)
            self._waiting.append(_Parcel(run, info, step, best, place))
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="checkpoint upload", daemon=True)
                self._worker.start()

    def finish(self, *, within_s: float) -> None:
        """Wait until everything is uploaded. Raises the error of an upload, or TimeoutError."""
        ends = time.monotonic() + within_s
        while (worker := self._worker) is not None:
            worker.join(max(0.0, ends - time.monotonic()))
            if worker.is_alive():
                self.how = "off"
                raise TimeoutError(f"its upload took more than {within_s:.0f} s; it is in the run's folder")
        self._raise_error()

    def _work(self) -> None:
        while True:
            with self._change:
                if self._error is not None:
                    self._drop_waiting()
                if not self._waiting:
                    self._worker = None
                    return
                parcel = self._waiting.pop(0)
            try:
                artifact = _artifact(parcel.info, parcel.step)
                for file in sorted(parcel.place.iterdir()):
                    artifact.add_file(str(file), name=file.name, policy="immutable", skip_cache=True)
                parcel.run.log_artifact(artifact, aliases=parcel.aliases).wait()
            except Exception as error:  # told by the next call: nothing of W&B may stop the run
                self._error = error
            shutil.rmtree(parcel.place, ignore_errors=True)
            with suppress(OSError):
                parcel.place.parent.rmdir()  # where it is empty

    def _drop_waiting(self) -> None:
        for parcel in self._waiting:
            shutil.rmtree(parcel.place, ignore_errors=True)
        self._waiting.clear()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _aliases(step: int, *, best: bool) -> list[str]:
    return ["latest", f"step-{step}", *(["best"] if best else [])]


def _artifact(info: RunInfo, step: int) -> Any:
    import wandb

    return wandb.Artifact(f"checkpoint-{info.run_id}", type="model", metadata={"step": step, "run": info.name})


def _link(folder: Path, place: Path) -> None:
    """Link every file of a checkpoint into `place`; where the disk knows no links they are copied."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in folder.iterdir():
        try:
            os.link(file, place / file.name)
        except OSError:
            shutil.copyfile(file, place / file.name)
