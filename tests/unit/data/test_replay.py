"""Clips that are mixed in: which, how many, and that every process and every resume draws the same."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speech_toys import ToyBatch, ToyData, write_clips

from ttstrain.contract.data import Clip
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.data.sampler import draw_replay, plan_epoch, plan_mixed_epoch
from ttstrain.data.split import split_data
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig, ReplayConfig

OWN = [100 + 7 * i for i in range(12)]
OTHERS = [80 + 13 * i for i in range(30)]
SHARE = 0.3


def mixed(*, epoch: int, share: float = SHARE, others: list[int] = OTHERS) -> list[list[int]]:
    return list(plan_mixed_epoch(OWN, others, share=share, budget=900, max_clips=64, seed=1, epoch=epoch))


@pytest.mark.parametrize("epoch", range(5))
def test_every_own_clip_comes_once_whatever_is_mixed_in(epoch: int) -> None:
    batches = mixed(epoch=epoch)
    flat = [i for batch in batches for i in batch]
    assert sorted(i for i in flat if i < len(OWN)) == list(range(len(OWN)))
    assert len(set(flat)) == len(flat)
    every = [*OWN, *OTHERS]
    assert all(len(batch) * max(every[i] for i in batch) <= 900 for batch in batches)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_replayed_frames_are_the_share_of_an_epoch(share: float) -> None:
    # 0.9 asks for more than there is, so that clips come twice; 0.02 for less than one clip.
    taken = [
        sum(OTHERS[i - len(OWN)] for b in mixed(epoch=e, share=share) for i in b if i >= len(OWN)) for e in range(800)
    ]
    mean = statistics.mean(taken)
    assert mean / (mean + sum(OWN)) == pytest.approx(share, rel=0.12)
    assert max(taken) - min(taken) <= 2 * max(OTHERS)


def test_each_epoch_draws_others_and_in_the_end_all() -> None:
    draws = [frozenset(draw_replay(OTHERS, frames=600, seed=1, epoch=epoch)) for epoch in range(60)]
    assert len(set(draws)) > 50
    assert set().union(*draws) == set(range(len(OTHERS)))
    assert draws == [frozenset(draw_replay(OTHERS, frames=600, seed=1, epoch=epoch)) for epoch in range(60)]


def test_no_clip_comes_again_before_all_came() -> None:
    drawn = draw_replay([10] * 4, frames=90, seed=0, epoch=0)
    assert len(drawn) == 9
    assert set(drawn[:4]) == set(drawn[4:8]) == {0, 1, 2, 3}


def test_without_replay_an_epoch_is_what_it_was() -> None:
    assert mixed(epoch=3, others=[]) == list(plan_epoch(OWN, budget=900, max_clips=64, seed=1, epoch=3))


# ---------------------------------------------------------------- in the loader


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return write_clips(tmp_path_factory.mktemp("replay") / "wavs", [0.4 + 0.137 * (i % 7) for i in range(20)])


@pytest.fixture(scope="module")
def cache(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), ToyData(), place="disk")
    cache.build(clips)
    return cache


def make(cache: FeatureCache, clips: list[Clip], **changes: Any) -> Loader:
    options = {"batch_frames": 300, "max_clips": 64, "seed": 3, "replay": clips[8:], "replay_share": 0.4} | changes
    return Loader(cache, clips[:8], ToyData(), **options)


def ids(batches: list[ToyBatch]) -> list[list[str]]:
    return [list(batch.ids) for batch in batches]


@pytest.mark.parametrize("cut", range(0, 26, 5))
def test_resume_at_any_cursor_equals_an_uninterrupted_run(cut: int, cache: FeatureCache, clips: list[Clip]) -> None:
    whole, first, resumed = (make(cache, clips) for _ in range(3))
    expected = ids(whole.next(40))
    if cut:
        first.next(cut)
    resumed.load_state_dict(first.state_dict())
    assert ids(resumed.next(40 - cut)) == expected[cut:]
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_interleave_to_the_stream_of_one(world_size: int, cache: FeatureCache, clips: list[Clip]) -> None:
    one = make(cache, clips)
    ranks = [make(cache, clips, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(15):
        parts = [rank.next(2) for rank in ranks]
        together = [parts[rank][i] for i in range(2) for rank in range(world_size)]
        assert ids(together) == ids(one.next(2 * world_size))


def test_epochs_end_where_the_plan_says(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    assert loader.batches_per_epoch > make(cache, clips, replay=[]).batches_per_epoch
    loader.next(loader.batches_per_epoch)
    assert loader.epoch == 1


def test_another_share_begins_the_epoch_again(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    loader.next(2)
    other = make(cache, clips, replay_share=0.2)
    other.load_state_dict(loader.state_dict())
    assert other.state_dict()["index"] == 0


def test_replayed_clips_alone_are_nothing_to_train_on(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    assert loader.can_exclude([clip.id for clip in clips[8:]])
    assert not loader.can_exclude([clip.id for clip in clips[:8]])
    loader.exclude([clips[8].id])
    met = set(itertools.chain(*ids(loader.next(60))))
    assert clips[8].id not in met
    assert {clip.id for clip in clips[:8]} <= met


def test_batches_are_the_same_whatever_the_worker_count(cache: FeatureCache, clips: list[Clip]) -> None:
    alone, helped = make(cache, clips), make(cache, clips, workers=1)
    pairs = list(zip(alone.next(9), helped.next(9), strict=True))
    helped.close()
    assert all(torch.equal(a.energy, b.energy) for a, b in pairs)


# ---------------------------------------------------------------- what is held out


def named(count: int, prefix: str) -> list[Clip]:
    return [
        Clip(
            id=f"{prefix}{i}",
            path=Path(f"{prefix}{i}"),
            text="x",
            duration_s=1,
            sample_rate=8000,
            digest=f"{prefix}{i}",
        )
        for i in range(count)
    ]


def config(holdout: float = 0.25) -> DataConfig:
    return DataConfig(path="a", holdout=3, replay=ReplayConfig(path="b", holdout=holdout))


def test_each_side_holds_out_its_own() -> None:
    split = split_data(named(10, "a"), named(20, "r"), config(), seed=0)
    assert [len(part) for part in (split.train, split.held_out, split.replay, split.retained)] == [7, 3, 15, 5]
    assert all(clip.id.startswith("a") for clip in (*split.train, *split.held_out))
    alone = split_data(named(10, "a"), [], DataConfig(path="a", holdout=3), seed=0)
    assert alone.held_out == split.held_out


def test_a_recording_of_the_data_is_never_replayed() -> None:
    own = named(10, "a")
    again = [replace(clip, id=f"replay/{clip.id}") for clip in own[:4]]
    split = split_data(own, [*again, *named(6, "r")], config(), seed=0)
    assert split.num_shared == 4
    assert {clip.digest for clip in (*split.replay, *split.retained)} == {f"r{i}" for i in range(6)}
    with pytest.raises(DataError, match="in the data themselves"):
        split_data(own, again, config(), seed=0)


def test_a_holdout_of_everything_names_its_key() -> None:
    with pytest.raises(DataError, match=r"data\.replay\.holdout=6"):
        split_data(named(10, "a"), named(6, "r"), config(6), seed=0)
