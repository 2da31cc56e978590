"""Mix auxiliary examples (without recordings) into the clips, in a ratio that changes over the run.

The stream is divided into rounds, one micro-batch for each rank. A round has only clips or only auxiliary examples, so
that all ranks do similar work. The choice depends on the ratio only, so the mixture can be resumed at any round.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttstrain.contract.data import AuxiliaryData, Batch, Clip
from ttstrain.data import sampler
from ttstrain.data.batches import Batches
from ttstrain.data.loader import Loader
from ttstrain.digest import sha256
from ttstrain.errors import DataError

log = logging.getLogger(__name__)


class Mixture:
    """An endless supply of micro-batches of clips and of auxiliary data for one rank."""

    def __init__(self, clips: Loader, auxiliary: AuxiliaryData, *, total_rounds: int) -> None:
        """Mix over `total_rounds` rounds; after them the ratio stays. Raises DataError if no auxiliary example fits."""
        self._clips = clips
        self._auxiliary = auxiliary
        self._total_rounds = total_rounds
        self._round = 0
        self._owed = 0.0  # auxiliary rounds due by the ratio and not yet given
        self._epoch, self._index = 0, 0  # the next auxiliary micro-batch, of rank 0
        self._excluded: set[str] = set()
        too_long = set(sampler.overlong(auxiliary.lengths, budget=clips.batch_frames))
        self._fitting = [i for i in range(len(auxiliary.lengths)) if i not in too_long]
        if not self._fitting:
            raise DataError(f"none of {len(auxiliary.lengths)} {auxiliary.name} fits `data.batch_frames`")
        self._plan = functools.lru_cache(maxsize=4)(self._plan_epoch)

    # ------------------------------------------------------------ reading

    def next(self, micro_batches: int = 1) -> list[Batch]:
        """Return this rank's micro-batches of the next rounds; more if some are split into pieces."""
        return [piece for _ in range(micro_batches) for piece in self._next_round()]

    def _next_round(self) -> list[Batch]:
        progress = min(self._round / self._total_rounds, 1.0)
        self._round += 1
        if self._owed >= 1:
            self._owed -= 1
            return self._auxiliary_round()
        self._owed += self._auxiliary.ratio(progress)
        return self._clips.next(1)

    def _auxiliary_round(self) -> list[Batch]:
        ranks = [self._next_auxiliary() for _ in range(self._clips.world_size)]
        return [self._batch(piece) for piece in self._pieces(ranks[self._clips.rank], self._clips.limit)]

    def _batch(self, piece: Sequence[int]) -> Batch:
        return self._clips.ready(self._auxiliary.batch(piece))

    def _pieces(self, indices: Sequence[int], limit: int | None) -> list[list[int]]:
        return sampler.pieces(indices, self._auxiliary.lengths, limit=limit, packed=self._auxiliary.packed)

    def _next_auxiliary(self) -> list[int]:
        """Return the next auxiliary micro-batch, without excluded examples."""
        while True:
            plan = self._plan(self._epoch)
            wanted = [i for i in plan[self._index] if self._auxiliary.ids[i] not in self._excluded]
            self._index += 1
            if self._index == len(plan):
                self._epoch, self._index = self._epoch + 1, 0
            if wanted:
                return wanted

    def _plan_epoch(self, epoch: int) -> Batches:
        plan = sampler.plan_epoch(
            [self._auxiliary.lengths[i] for i in self._fitting],
            budget=self._clips.batch_frames,
            max_clips=self._clips.max_clips,
            seed=self._clips.seed,
            epoch=epoch,
            packed=self._auxiliary.packed,
        )
        return plan.of_members(np.array(self._fitting, dtype=np.int64))

    @property
    def epoch(self) -> int:
        """The number of complete passes over the clips."""
        return self._clips.epoch

    def eval_batches(self, clips: Sequence[Clip]) -> Iterator[Batch]:
        """Yield batches over clips once, in a fixed order, the same on every rank."""
        return self._clips.eval_batches(clips)

    def worker_pids(self) -> list[int]:
        """List the process ids of the workers that load clips."""
        return self._clips.worker_pids()

    def close(self) -> None:
        """End the worker processes and the thread that loads ahead."""
        self._clips.close()

    # ------------------------------------------------------------ stages, and micro-batches that are too large

    def enter(self, stage: str) -> None:
        """Use a stage's clips from now on; auxiliary data is mixed in as before."""
        self._clips.enter(stage)

    @property
    def limit(self) -> int | None:
        """Frames of a piece; a single clip may have more."""
        return self._clips.limit

    def half_of(self, batch: Batch) -> int | None:
        """Return half of a micro-batch's cost in frames; None for a single clip or auxiliary example."""
        members = self._members(batch)
        if members is None:
            return self._clips.half_of(batch)
        if len(members) == 1:
            return None
        return (sampler.cost(members, self._auxiliary.lengths, packed=self._auxiliary.packed) + 1) // 2

    def limit_to(self, frames: int) -> None:
        """Split micro-batches into pieces of at most `frames` from now on."""
        self._clips.limit_to(frames)

    def divided(self, batch: Batch, *, limit: int | None) -> list[Batch]:
        """Collate a micro-batch again, in pieces within a limit."""
        members = self._members(batch)
        if members is None:
            return self._clips.divided(batch, limit=limit)
        parts = self._pieces(members, limit)
        return [batch] if len(parts) == 1 else [self._batch(part) for part in parts]

    def _members(self, batch: Batch) -> list[int] | None:
        """Return the indices of a micro-batch's auxiliary examples; None if it has clips."""
        places = {id_: i for i, id_ in enumerate(self._auxiliary.ids)}
        return [places[id_] for id_ in batch.ids] if all(id_ in places for id_ in batch.ids) else None

    # ------------------------------------------------------------ leaving out

    def can_exclude(self, ids: Collection[str]) -> bool:
        """Tell whether clips and auxiliary examples would both be left."""
        mine = self._mine(ids)
        fitting = {self._auxiliary.ids[i] for i in self._fitting}
        return bool(fitting - self._excluded - mine) and self._clips.can_exclude(set(ids) - mine)

    def exclude(self, ids: Collection[str]) -> None:
        """Leave clips and auxiliary examples out from the next round on."""
        if not self.can_exclude(ids):
            raise DataError("everything is left out: nothing is left to train on")
        mine = self._mine(ids)
        self._excluded |= mine
        if others := set(ids) - mine:
            self._clips.exclude(others)

    def _mine(self, ids: Collection[str]) -> set[str]:
        return set(ids) & set(self._auxiliary.ids)

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the position in both streams and the number of auxiliary rounds that are due."""
        return {
            "clips": self._clips.state_dict(),
            "round": self._round,
            "owed": self._owed,
            "epoch": self._epoch,
            "index": self._index,
            "excluded": sorted(self._excluded),
            "plan": self._fingerprint,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Resume from a state; the pass over the auxiliary data begins again, with a warning, if it changed."""
        self._clips.load_state_dict(state_dict["clips"])
        self._round, self._owed = int(state_dict["round"]), float(state_dict["owed"])
        self._epoch, self._index = int(state_dict["epoch"]), int(state_dict["index"])
        self._excluded = set(state_dict["excluded"]) & set(self._auxiliary.ids)
        if state_dict["plan"] != self._fingerprint:
            self._index = 0
            log.warning("the %s or their budget changed: their pass begins again", self._auxiliary.name)

    @functools.cached_property
    def _fingerprint(self) -> str:
        clips = self._clips
        made_from = [
            list(self._auxiliary.ids), list(self._auxiliary.lengths), clips.batch_frames, clips.max_clips, clips.seed
        ]  # fmt: skip
        return sha256(json.dumps(made_from))[:16]
