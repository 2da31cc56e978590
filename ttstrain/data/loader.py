"""A resumable loader of micro-batches in a deterministic order.

All ranks follow one endless stream of micro-batches: the plan of epoch 0, of epoch 1, and so on. A cursor (epoch,
index) counts what all ranks together have consumed. The batches depend on seed, cursor, stage and excluded clips only:
not on the number of workers, nor on how far they or the thread of `ahead` have read ahead.

A micro-batch that does not fit in memory is split into pieces. The limit is found during training and is part of the
state.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch

from ttstrain.contract.data import Batch, Clip, TaskData
from ttstrain.data import sampler
from ttstrain.data.ahead import FEWEST_AHEAD, Ahead, Load, Loaded, made_here, pinned
from ttstrain.data.batches import Batches
from ttstrain.data.cache import FeatureCache
from ttstrain.data.in_columns import column, taken, together
from ttstrain.data.pool import Pool
from ttstrain.data.workers import start_pool, worker_context
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.warning_listener import Listener

AHEAD_PER_WORKER = 3

log = logging.getLogger(__name__)


class Loader:
    """An endless supply of micro-batches for one rank."""

    def __init__(
        self,
        cache: FeatureCache,
        clips: Sequence[Clip],
        task_data: TaskData,
        *,
        batch_frames: int,
        max_clips: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: torch.device | None = None,
        ahead: bool = False,
        replay: Sequence[Clip] = (),
        replay_share: float = 0.0,
        stages: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Plan over the clips that fit `batch_frames`; `overlong` names the others. Raises DataError if none fits.

        Each epoch has every clip once, and enough `replay` clips to make up `replay_share` of its frames. `stages` maps
        a stage to the ids of its clips; before a stage is entered, all clips are used. `ahead`: a thread loads ahead.
        """
        lengths = task_data.lengths(clips)
        self.overlong = [clips[i].id for i in sampler.overlong(lengths, budget=batch_frames)]
        own, self.lengths = _fitting(clips, lengths, batch_frames=batch_frames)
        if not own:
            raise DataError(
                f"no clip fits a micro-batch: `data.batch_frames` is {batch_frames}, "
                + (f"the shortest of {len(clips)} clips has {min(lengths)} frames" if clips else "and there are none"),
                hint=f"set `data.batch_frames={min(lengths)}` or more" if clips else None,
            )
        replayed, of_replayed = _fitting(replay, task_data.lengths(replay), batch_frames=batch_frames)
        self.clips = together(own, replayed)
        self.lengths += of_replayed
        self._num_own = len(own)
        self._replay_share = replay_share
        self.batch_frames = batch_frames
        self.max_clips = max_clips
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.excluded: set[str] = set()
        self.limit: int | None = None  # frames of a piece; a single clip may have more
        self._cache = cache
        self._task_data = task_data
        self._stages = {name: frozenset(ids) for name, ids in (stages or {}).items()}
        self._stage: str | None = None
        self._fingerprints: dict[str | None, str] = {}
        self._places = {id_: i for i, id_ in enumerate(column(self.clips, "id"))}
        self._evaluated: dict[str, Clip] = {}  # held-out clips, by id
        self._pin = device is not None and device.type == "cuda"
        self._cursor = _Cursor(0, 0)
        self._thread = Ahead(device) if ahead else None
        self._collating = threading.Lock()  # of the thread and of who else needs a batch
        self._supply: Generator[list[Batch], None, None] | None = None
        self._plan = functools.lru_cache(maxsize=4)(self._plan_epoch)
        self._num_workers = workers
        self._pool = start_pool(workers, (cache, task_data, self.clips)) if workers else None

    # ------------------------------------------------------------ reading

    def next(self, micro_batches: int = 1) -> list[Batch]:
        """Return this rank's part of the next `micro_batches` x `world_size` micro-batches of the stream.

        More batches are returned if some are split into pieces. Tensors are on the CPU (pinned if the device is a GPU)
        unless the cache keeps features on the device, or a thread brings them there. Raises DataError if what loads
        them hangs.
        """
        if self._thread is not None:
            self._thread.depth = max(FEWEST_AHEAD, micro_batches)
        try:
            batches = [piece for _ in range(micro_batches) for piece in self._next_pieces()]
        except BrokenProcessPool:
            log.warning("a process that loads data was killed: batches are loaded by the training process from now on")
            self.close()
            batches = [piece for _ in range(micro_batches) for piece in self._next_pieces()]
        consumed = itertools.islice(self._stream(self._cursor), micro_batches * self.world_size)
        *_, last = consumed
        self._cursor = last.after
        return batches

    @property
    def epoch(self) -> int:
        """The number of complete passes over the data."""
        return self._cursor.epoch

    @property
    def batches_per_epoch(self) -> int:
        """The number of micro-batches of the first epoch, over all ranks; later epochs differ by a few."""
        return len(self._plan(0))

    @property
    def padding_share(self) -> float:
        """Return the share of the first epoch's frames that is padding."""
        return sampler.padding_share(self.lengths, self._plan(0), packed=self._task_data.packed)

    def eval_batches(self, clips: Sequence[Clip]) -> Iterator[Batch]:
        """Yield batches over clips once, in a fixed order, the same on every rank."""
        self._evaluated |= {clip.id: clip for clip in clips}
        lengths = [self._task_data.length(clip) for clip in clips]
        for batch in sampler.in_order(
            lengths, budget=self.batch_frames, max_clips=self.max_clips, packed=self._task_data.packed
        ):
            yield self._collated([clips[i] for i in batch])

    def worker_pids(self) -> list[int]:
        """List the process ids of the workers; empty where this process loads the batches."""
        return [] if self._pool is None else self._pool.pids()

    def close(self) -> None:
        """End the worker processes, and the thread that loads ahead; batches are then loaded by this process."""
        self._forget_supply()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._thread is not None:
            self._thread.close()
        self._pool = None

    def _forget_supply(self) -> None:
        """Drop what was loaded ahead: the next micro-batches are to be others."""
        if self._supply is not None:
            self._supply.close()
        self._supply = None

    # ------------------------------------------------------------ stages

    def enter(self, stage: str) -> None:
        """Use a stage's clips from now on; if they differ from the present ones, a new epoch begins."""
        before = self._members
        self._stage = stage
        if self._members != before:
            self._cursor = _Cursor(self.epoch + (self._cursor.index > 0), 0)
            self._plan.cache_clear()
            self._forget_supply()

    @property
    def _members(self) -> list[int]:
        """The stage's clips, without replay clips."""
        ids = self._stages.get(self._stage or "")
        if ids is None:
            return list(range(self._num_own))
        return [i for i, clip in enumerate(self.clips[: self._num_own]) if clip.id in ids]

    # ------------------------------------------------------------ micro-batches that are too large

    def half_of(self, batch: Batch) -> int | None:
        """Return half of a micro-batch's cost in frames; None for a single clip, which cannot be split."""
        lengths = [self._task_data.length(self._clip_of(id_)) for id_ in batch.ids]
        if len(lengths) == 1:
            return None
        return (sampler.cost(range(len(lengths)), lengths, packed=self._task_data.packed) + 1) // 2

    def _clip_of(self, id_: str) -> Clip:
        return self._evaluated[id_] if id_ in self._evaluated else self.clips[self._places[id_]]

    def limit_to(self, frames: int) -> None:
        """Split micro-batches into pieces of at most `frames` from now on."""
        self._forget_supply()
        self.limit = frames

    def divided(self, batch: Batch, *, limit: int | None) -> list[Batch]:
        """Collate a micro-batch again, in pieces within a limit."""
        clips = [self._clip_of(id_) for id_ in batch.ids]
        lengths = [self._task_data.length(clip) for clip in clips]
        parts = sampler.pieces(range(len(clips)), lengths, limit=limit, packed=self._task_data.packed)
        if len(parts) == 1:
            return [batch]
        return [self.ready(self._collated([clips[i] for i in part])) for part in parts]

    def ready(self, batch: Batch) -> Batch:
        """Move a batch's tensors to pinned memory if the device is a GPU."""
        ready: Batch = pinned(batch) if self._pin else batch
        return ready

    # ------------------------------------------------------------ leaving clips out

    def can_exclude(self, ids: Collection[str]) -> bool:
        """Tell whether every stage would still have a clip, not counting replay clips."""
        left = {clip.id for clip in self.clips[: self._num_own]} - self.excluded - set(ids)
        return bool(left) and all(left & stage for stage in self._stages.values())

    def exclude(self, ids: Collection[str]) -> None:
        """Leave clips out from the next micro-batch on; the other clips of their micro-batches stay where they are."""
        if unknown := set(ids) - {clip.id for clip in self.clips}:
            raise ValueError(f"no such clips: {sorted(unknown)}")
        if not self.can_exclude(ids):
            raise DataError("every clip is left out: nothing is left to train on")
        self._forget_supply()
        self.excluded |= set(ids)

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor, the excluded clips, a hash of the plan's inputs, and limit and stage if set."""
        state: dict[str, Any] = {
            "epoch": self._cursor.epoch,
            "index": self._cursor.index,
            "excluded": sorted(self.excluded),
            "plan": self._fingerprint(),
        }
        if self.limit is not None:
            state["limit"] = self.limit
        if self._stage is not None:
            state["stage"] = self._stage
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Go to a cursor; the cost does not grow with its position.

        If clips, budget or seed differ from the state's, the epoch begins again, with a warning.
        """
        self._forget_supply()
        self.excluded = {id_ for id_ in state_dict["excluded"] if id_ in self._places}
        self.limit = None if state_dict.get("limit") is None else int(state_dict["limit"])
        self._stage = state_dict.get("stage")
        self._plan.cache_clear()
        self._cursor = _Cursor(int(state_dict["epoch"]), int(state_dict["index"]))
        if state_dict["plan"] != self._fingerprint():
            self._cursor = _Cursor(self._cursor.epoch, 0)
            log.warning("the data or its budget changed since the checkpoint: epoch %d begins again", self.epoch)

    def _fingerprint(self) -> str:
        """Hash what decides the plans of all epochs; a stage's is computed once."""
        return self._fingerprints.get(self._stage) or self._fingerprints.setdefault(self._stage, self._hash_plan())

    def _hash_plan(self) -> str:
        made_from = [
            list(column(self.clips, "id")), self.lengths, self.batch_frames, self.max_clips, self.seed
        ]  # fmt: skip
        if self._num_own < len(self.clips):
            made_from += [self._num_own, self._replay_share]
        if len(members := self._members) < self._num_own:
            made_from.append(members)
        return sha256(json.dumps(made_from))[:16]

    # ------------------------------------------------------------ the stream

    def _stream(self, start: _Cursor) -> Iterator[_Planned]:
        epoch, index = start.epoch, start.index
        while True:
            plan = self._plan(epoch)
            for position in range(index, len(plan)):
                clips = [i for i in plan[position] if self.clips[i].id not in self.excluded]
                if clips:
                    last = position + 1 == len(plan)
                    yield _Planned(clips, after=_Cursor(epoch + 1, 0) if last else _Cursor(epoch, position + 1))
            epoch, index = epoch + 1, 0

    def _own(self) -> Iterator[list[int]]:
        """Yield this rank's micro-batches from the cursor on."""
        for planned in itertools.islice(self._stream(self._cursor), self.rank, None, self.world_size):
            yield planned.clips

    def _plan_epoch(self, epoch: int) -> Batches:
        members = self._members
        plan = sampler.plan_mixed_epoch(
            [self.lengths[i] for i in members],
            self.lengths[self._num_own :],
            share=self._replay_share,
            budget=self.batch_frames,
            max_clips=self.max_clips,
            seed=self.seed,
            epoch=epoch,
            packed=self._task_data.packed,
        )
        return plan.of_members(np.array([*members, *range(self._num_own, len(self.clips))], dtype=np.int64))

    def _loads(self) -> Iterator[Load]:
        """Yield what loads each of this rank's micro-batches, from the cursor on."""
        if self._pool is not None:
            yield from self._loads_by(self._pool)
        for indices in self._own():
            yield self._load(indices, functools.partial(self._collate_here, self._pieces(indices)))

    def _loads_by(self, pool: Pool) -> Iterator[Load]:
        submitted = ((indices, pool.submit(_in_worker, self._pieces(indices))) for indices in self._own())
        ahead = deque(itertools.islice(submitted, AHEAD_PER_WORKER * self._num_workers))
        while True:
            indices, future = ahead.popleft()
            ahead.append(next(submitted))
            yield self._load(indices, functools.partial(_from_worker, pool, future))

    def _load(self, indices: Sequence[int], make: Callable[[], Loaded]) -> Load:
        return Load([self.clips[i].id for i in indices], make)

    def _collate_here(self, pieces: Sequence[Sequence[int]]) -> Loaded:
        return Loaded([self._collated([self.clips[i] for i in piece]) for piece in pieces])

    def _collated(self, clips: Sequence[Clip]) -> Batch:
        with self._collating:
            return _collate(self._cache, self._task_data, clips)

    def _pieces(self, indices: Sequence[int]) -> list[list[int]]:
        return sampler.pieces(indices, self.lengths, limit=self.limit, packed=self._task_data.packed)

    def _next_pieces(self) -> list[Batch]:
        """Return the next micro-batch of this rank, in its pieces."""
        if self._supply is None:
            self._supply = self._supplied()
        return next(self._supply)

    def _supplied(self) -> Generator[list[Batch], None, None]:
        loads = self._loads()
        with closing(made_here(loads) if self._thread is None else self._thread.load(loads)) as supply:
            for loaded in supply:
                for warning in loaded.warnings:
                    log.warning("%s", warning)
                yield loaded.batches if self._thread is not None else [self.ready(batch) for batch in loaded.batches]


@dataclasses.dataclass(frozen=True, slots=True)
class _Cursor:
    epoch: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Planned:
    clips: list[int]
    after: _Cursor


def _collate(cache: FeatureCache, task_data: TaskData, clips: Sequence[Clip]) -> Batch:
    return task_data.collate([task_data.example(clip, cache.get(clip)) for clip in clips])


def _fitting(clips: Sequence[Clip], lengths: Sequence[int], *, batch_frames: int) -> tuple[Sequence[Clip], list[int]]:
    """Return the clips that fit a micro-batch, and their lengths."""
    places = [i for i, length in enumerate(lengths) if length <= batch_frames]
    return taken(clips, places), [lengths[i] for i in places]


# ---------------------------------------------------------------- worker processes


def _in_worker(pieces: Sequence[Sequence[int]]) -> bytes:
    cache, task_data, clips = worker_context()
    warnings: list[str] = []  # logged by the training process, which has the trackers
    with Listener(warnings.append):
        batches = [_collate(cache, task_data, [clips[i] for i in piece]) for piece in pieces]
    return pickle.dumps((batches, warnings), protocol=5)  # through a pipe: shared memory is 64 MB in many a container


def _from_worker(pool: Pool, future: Future[bytes]) -> Loaded:
    batches, warnings = pickle.loads(pool.result(future))
    return Loaded(batches, warnings)


def worker_count(wanted: int | Literal["auto"], *, place: Literal["memory", "disk", "device"], cores: int) -> int:
    """Return the number of loader processes: `auto` uses none unless features are on disk."""
    if wanted != "auto":
        return wanted
    return min(4, max(1, cores - 1)) if place == "disk" else 0
