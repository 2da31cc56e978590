"""The feature cache: one safetensors file per clip, named by a hash of everything its features depend on.

The key covers the recording's bytes, its treatment, its text, speaker and language, and the family's fingerprint, so
entries never need invalidation. A file's checksum is verified when it is read; a damaged file is computed again.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ttstrain.contract.data import Clip, TaskData, Treatment
from ttstrain.data import atomic
from ttstrain.data.audio import read_clip
from ttstrain.data.location import CACHE_HINT, usable_cores
from ttstrain.data.pool import StalledError, given_up
from ttstrain.data.shards import digest_of
from ttstrain.data.workers import start_pool, worker_context
from ttstrain.digest import sha256
from ttstrain.errors import CheckpointError, DataError, OutOfMemoryError, first_line, is_of_the_device, is_out_of_memory
from ttstrain.places import refused_as
from ttstrain.tensors import tensorfile

LAYOUT = 2  # raise when what a file holds or how it is named changes
MEMORY_LIMIT = 1 << 30  # bytes of features that `auto` keeps in memory
CLIPS_WORTH_A_WORKER = 200  # starting a worker imports torch, which takes as long as a few hundred clips

_OF_TREATMENT = tuple(one.name for one in fields(Treatment))

Features = dict[str, Tensor]
Place = Literal["auto", "memory", "disk", "device"]
TellProgress = Callable[[int, int], None]  # (done, of)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Counts of a build, and the clips that failed."""

    reused: int = 0
    computed: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)  # clip id -> why it has no features
    num_bytes: int = 0
    place: Literal["memory", "disk", "device"] = "disk"


class FeatureCache:
    """The features of clips, read from disk, from memory or from the device."""

    def __init__(
        self, folder: Path, task_data: TaskData, *, place: Place = "auto", device: torch.device | None = None
    ) -> None:
        self.folder = folder / sha256(task_data.fingerprint)[:16]
        self.task_data = task_data
        self.place = place
        self.device = device
        self._held: dict[Path, Features] = {}

    def build(
        self, clips: Sequence[Clip], *, workers: int | Literal["auto"] = "auto", progress: TellProgress | None = None
    ) -> BuildReport:
        """Compute missing features, then load them to `place`.

        Clips that fail are named in the report; the others are built. An interrupted build resumes where it stopped.
        """
        num_missing, failed = self.compute(clips, workers=workers, progress=progress)
        usable = [clip for clip in clips if clip.id not in failed]
        num_bytes = sum(self.path(clip).stat().st_size for clip in usable)
        place = self.place
        if place == "auto":
            place = "memory" if num_bytes <= MEMORY_LIMIT else "disk"
        if place != "disk":
            self._held = {self.path(clip): self._take_in(clip, place) for clip in usable}
        return BuildReport(
            reused=len(clips) - num_missing,
            computed=num_missing - len(failed),
            failed=failed,
            num_bytes=num_bytes,
            place=place,
        )

    def compute(
        self,
        clips: Sequence[Clip],
        *,
        workers: int | Literal["auto"] = "auto",
        cores: int | None = None,
        progress: TellProgress | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Compute missing features to disk; return how many were missing, and why clips have none.

        `workers="auto"` uses as many processes as `cores`, by default all.
        """
        missing = [(clip, path) for clip in clips if not _looks_whole(path := self.path(clip))]
        for folder in {path.parent for _, path in missing}:  # what a killed process was writing is missing
            atomic.remove_leftovers(folder, end=atomic.PART)
        failed: dict[str, str] = {}
        done = len(clips) - len(missing)
        for clip, why in self._compute([clip for clip, _ in missing], workers, cores or usable_cores()):
            done += 1
            if why is not None:
                failed[clip.id] = why
            if progress is not None:
                progress(done, len(clips))
        return len(missing), failed

    def get(self, clip: Clip) -> Features:
        """Return one clip's features, computing them again when their file is missing or damaged.

        From disk the tensors are memory-mapped: read them, never write into them.
        """
        path = self.path(clip)
        held = self._held.get(path)
        if held is not None:
            return held
        try:
            return _read_features(path)
        except _DamagedError as damage:
            log.warning("features of clip %s are made again: %s", clip.id, damage)
        _write_features(path, _features(clip, self.task_data))
        return _read_features(path)

    def path(self, clip: Clip) -> Path:
        """Return where a clip's features are kept."""
        key = _key(clip, self.task_data)
        return self.folder / key[:2] / f"{key}.safetensors"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}  # workers map the files instead of copying memory

    def _take_in(self, clip: Clip, place: Literal["memory", "device"]) -> Features:
        device = self.device if place == "device" and self.device is not None else torch.device("cpu")
        return {name: tensor.to(device, copy=True) for name, tensor in self.get(clip).items()}

    def _compute(
        self, clips: Sequence[Clip], workers: int | Literal["auto"], cores: int
    ) -> Iterator[tuple[Clip, str | None]]:
        count = 0 if self.task_data.in_one_process else min(cores, len(clips) // CLIPS_WORTH_A_WORKER)
        if workers != "auto":
            count = workers
        if count == 0:
            for clip in clips:
                yield clip, _build_one(clip, self.path(clip), self.task_data)
            return
        pool = start_pool(count, self.task_data)
        try:
            futures = deque((clip, pool.submit(_build_in_worker, clip, self.path(clip))) for clip in clips)
            while futures:
                clip, future = futures.popleft()
                yield clip, pool.result(future)
        except StalledError as error:
            raise given_up([clip.id], "computed") from error
        except BrokenProcessPool as error:
            raise DataError(
                "a process that computed features was killed",
                hint="memory may be short: set `data.workers` lower; finished clips are kept",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- one clip


class _DamagedError(Exception):
    """A file of features is missing or damaged."""


def _key(clip: Clip, task_data: TaskData) -> str:
    decided_by: dict[str, Any] = {
        "layout": LAYOUT,
        "audio": clip.digest or digest_of(clip.path),
        "treatment": {name: getattr(clip.treatment, name) for name in _OF_TREATMENT},
        "said": [clip.text, clip.speaker, clip.language],
        "fingerprint": task_data.fingerprint,
    }
    if clip.tokens or clip.ready:  # absent where there are none, so that older files are still found
        decided_by["prepared"] = [clip.tokens, [(one.name, one.digest, one.values) for one in clip.ready]]
    return sha256(json.dumps(decided_by, sort_keys=True))


def _build_one(clip: Clip, path: Path, task_data: TaskData) -> str | None:
    try:
        features = _features(clip, task_data)
    except DataError as error:
        return f"{error.message}: {error.hint}" if error.hint else error.message
    except (OSError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        _check_device(error, clip)
        return f"{type(error).__name__}: {error}"
    _write_features(path, features)
    return None


def _check_device(error: BaseException, clip: Clip) -> None:
    """Raise errors of the device or of memory: the clip is not at fault, and every later clip would fail too."""
    if is_out_of_memory(error):
        raise OutOfMemoryError(
            f"memory ran out while features of clip `{clip.id}` were computed: {first_line(error)}",
            hint="end other programs that hold memory of the device, or leave long clips out (`data.max_s`); what is "
            "done is kept",
        ) from error
    if is_of_the_device(error):
        raise RuntimeError(f"the device failed while features of clip `{clip.id}` were computed: {error}") from error


def _features(clip: Clip, task_data: TaskData) -> Features:
    with torch.no_grad():
        features = task_data.features(read_clip(clip, task_data.sample_rate), clip)
    for name, tensor in features.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"feature `{name}` of clip `{clip.id}` is not finite")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in features.items()}


def _write_features(path: Path, features: Features) -> None:
    content = tensorfile.encode(features, metadata={"crc32": str(_checksum(features))})
    with refused_as(DataError, path=path, hint=CACHE_HINT, what="the feature cache"):
        atomic.write_bytes(path, content, durability="cached")


def _read_features(path: Path) -> Features:
    try:
        features, metadata = tensorfile.read_mapped(path)
    except FileNotFoundError as error:
        raise _DamagedError("their file is gone") from error
    except OSError as error:
        raise _DamagedError(f"`{path}` cannot be read ({error})") from error
    except CheckpointError as error:
        raise _DamagedError(error.message) from error
    if metadata.get("crc32") != str(_checksum(features)):
        raise _DamagedError(f"`{path}` is damaged (wrong checksum)")
    return features


def _looks_whole(path: Path) -> bool:
    """Tell whether a file has the length its header promises; its checksum is verified when it is read."""
    try:
        tensorfile.read_header(path)
    except (OSError, CheckpointError):
        return False
    return True


def _checksum(features: Features) -> int:
    crc = 0
    for name in sorted(features):
        crc = zlib.crc32(f"{name} {features[name].dtype} {tuple(features[name].shape)}".encode(), crc)
        crc = zlib.crc32(features[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _build_in_worker(clip: Clip, path: Path) -> str | None:
    task_data: TaskData = worker_context()
    return _build_one(clip, path, task_data)
