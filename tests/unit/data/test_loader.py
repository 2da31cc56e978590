from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speech_toys import HangingData, ToyBatch, ToyData, write_clips

from ttstrain.contract.data import Clip
from ttstrain.data import pool
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader, worker_count
from ttstrain.errors import DataError

DURATIONS = [0.4 + 0.137 * (i % 11) for i in range(20)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return write_clips(tmp_path_factory.mktemp("loader") / "wavs", DURATIONS)


@pytest.fixture(scope="module")
def cache(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), ToyData(), place="disk")
    cache.build(clips)
    return cache


def make(cache: FeatureCache, clips: list[Clip], **changes: Any) -> Loader:
    options = {"batch_frames": 500, "max_clips": 64, "seed": 3} | changes
    return Loader(cache, clips, ToyData(), **options)


def ids(batches: list[ToyBatch]) -> list[list[str]]:
    return [list(batch.ids) for batch in batches]


def equal(left: list[ToyBatch], right: list[ToyBatch]) -> bool:
    return ids(left) == ids(right) and all(torch.equal(a.energy, b.energy) for a, b in zip(left, right, strict=True))


def test_each_epoch_is_every_clip_once_in_a_new_order(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    epochs: list[list[list[str]]] = [[], [], []]
    while loader.epoch < 3:
        epoch = loader.epoch
        epochs[epoch] += ids(loader.next())
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == [clip.id for clip in clips]
    assert epochs[0] != epochs[1] != epochs[2]
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}
    assert len(epochs[0]) == loader.batches_per_epoch


def test_frames_are_counted_without_padding(cache: FeatureCache, clips: list[Clip]) -> None:
    lengths = {clip.id: ToyData().length(clip) for clip in clips}
    loader = make(cache, clips)
    batches = loader.next(loader.batches_per_epoch)
    for batch in batches:
        assert batch.num_frames == sum(lengths[name] for name in batch.ids)
        assert batch.num_padded == len(batch.ids) * max(lengths[name] for name in batch.ids) <= 500
    real, padded = sum(b.num_frames for b in batches), sum(b.num_padded for b in batches)
    assert loader.padding_share == pytest.approx(1 - real / padded)


def test_batches_are_the_same_whatever_the_worker_count(cache: FeatureCache, clips: list[Clip]) -> None:
    def walk(workers: int) -> list[ToyBatch]:
        loader = make(cache, clips, workers=workers)
        batches = [batch for _ in range(8) for batch in loader.next(3)]
        loader.exclude(["clip03", batches[-1].ids[0]])
        batches += loader.next(9)
        loader.load_state_dict({**make(cache, clips).state_dict(), "epoch": 2, "index": 4})
        batches += loader.next(5)
        loader.close()
        return batches

    assert equal(walk(0), walk(1))
    assert equal(walk(0), walk(2))


def test_reading_ahead_uses_no_random_numbers_of_the_run(cache: FeatureCache, clips: list[Clip]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loader = make(cache, clips, workers=1)
    loader.next(7)
    loader.exclude(["clip00"])
    loader.next(7)
    loader.close()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cut", range(0, 26, 3))
def test_resume_at_any_cursor_equals_an_uninterrupted_run(cut: int, cache: FeatureCache, clips: list[Clip]) -> None:
    whole = make(cache, clips)
    expected = whole.next(40)
    first = make(cache, clips)
    if cut:
        first.next(cut)
    resumed = make(cache, clips)
    resumed.load_state_dict(first.state_dict())
    assert equal(resumed.next(40 - cut), expected[cut:]) if cut else equal(resumed.next(40), expected)
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_interleave_to_the_stream_of_one(
    world_size: int, accumulate: int, cache: FeatureCache, clips: list[Clip]
) -> None:
    one = make(cache, clips)
    ranks = [make(cache, clips, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(12):
        parts = [rank.next(accumulate) for rank in ranks]
        together = [parts[rank][i] for i in range(accumulate) for rank in range(world_size)]
        assert equal(together, one.next(accumulate * world_size))
    assert all(rank.state_dict() == one.state_dict() for rank in ranks)


def test_resume_on_another_number_of_ranks_goes_on_in_the_same_stream(cache: FeatureCache, clips: list[Clip]) -> None:
    one = make(cache, clips)
    pair = [make(cache, clips, rank=rank, world_size=2) for rank in range(2)]
    for rank in pair:
        rank.next(3)
    one.load_state_dict(pair[0].state_dict())
    assert equal(one.next(20), make(cache, clips).next(26)[6:])


def test_excluded_clips_never_come_again_and_the_others_stay(cache: FeatureCache, clips: list[Clip]) -> None:
    expected = make(cache, clips).next(60)
    loader = make(cache, clips)
    loader.next(5)
    loader.exclude(["clip01", "clip07"])
    rest = ids(loader.next(30))
    assert not {"clip01", "clip07"} & set(itertools.chain(*rest))
    kept = [[name for name in batch if name not in ("clip01", "clip07")] for batch in ids(expected[5:])]
    assert rest == [batch for batch in kept if batch][:30]

    resumed = make(cache, clips)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.excluded == {"clip01", "clip07"}
    assert equal(resumed.next(10), loader.next(10))


def test_the_last_clip_cannot_be_excluded(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips[:2])
    assert loader.can_exclude(["clip00"])
    loader.exclude(["clip00"])
    assert not loader.can_exclude(["clip01"])
    with pytest.raises(DataError, match="nothing is left"):
        loader.exclude(["clip01"])
    assert ids(loader.next(3)) == [["clip01"]] * 3
    with pytest.raises(ValueError, match="clip99"):
        loader.exclude(["clip99"])


@pytest.mark.parametrize("world_size", [1, 4])
def test_six_clips_are_enough_for_any_number_of_ranks(world_size: int, cache: FeatureCache, clips: list[Clip]) -> None:
    loaders = [make(cache, clips[:6], rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = [name for loader in loaders for batch in loader.next(8) for name in batch.ids]
    assert set(seen) == {clip.id for clip in clips[:6]}


def test_overlong_clips_are_named_and_the_rest_is_used(cache: FeatureCache, clips: list[Clip]) -> None:
    lengths = {clip.id: ToyData().length(clip) for clip in clips}
    loader = make(cache, clips, batch_frames=100)
    assert loader.overlong == [name for name, length in lengths.items() if length > 100]
    seen = {name for batch in loader.next(loader.batches_per_epoch) for name in batch.ids}
    assert seen == set(lengths) - set(loader.overlong)


def test_a_budget_below_every_clip_is_refused_with_the_way_out(cache: FeatureCache, clips: list[Clip]) -> None:
    with pytest.raises(DataError, match="shortest of 20 clips has 40 frames") as refusal:
        make(cache, clips, batch_frames=39)
    assert "data.batch_frames=40" in str(refusal.value.hint)
    with pytest.raises(DataError, match="there are none"):
        make(cache, [])


def test_changed_data_begin_the_epoch_again_with_a_warning(
    cache: FeatureCache, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    loader = make(cache, clips)
    while loader.epoch < 1:
        loader.next()
    loader.next(2)
    fewer = make(cache, clips[1:])
    fewer.load_state_dict(loader.state_dict())
    assert (fewer.state_dict()["epoch"], fewer.state_dict()["index"]) == (1, 0)
    assert "epoch 1 begins again" in caplog.text


def test_held_out_batches_are_the_same_every_time(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips[:10], batch_frames=150)
    first = list(loader.eval_batches(clips[10:]))
    loader.next(7)
    assert equal(first, list(loader.eval_batches(clips[10:])))
    assert sorted(itertools.chain(*ids(first))) == [clip.id for clip in clips[10:]]


def test_host_tensors_are_page_locked_for_a_gpu(
    cache: FeatureCache, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[torch.Tensor] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(tensor.clone())
        return locked[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    batches = make(cache, clips, device=torch.device("cuda")).next(3)
    assert [batch.energy is tensor for batch, tensor in zip(batches, locked, strict=True)] == [True] * 3
    assert equal(batches, make(cache, clips, device=torch.device("cpu")).next(3))


def test_workers_survive_ctrl_c_and_their_loss_is_survived(
    cache: FeatureCache, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(cache, clips).next(30)
    loader = make(cache, clips, workers=1)
    batches = loader.next(2)
    assert loader._pool is not None
    [worker] = loader._pool._processes
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGTERM)
    batches += loader.next(8)
    assert caplog.text == ""
    os.kill(worker, signal.SIGKILL)
    batches += loader.next(20)
    assert "was killed" in caplog.text
    assert equal(batches, expected)
    loader.close()


def test_a_worker_that_hangs_is_given_up_and_its_clips_named(
    cache: FeatureCache, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(cache, clips).next(2)
    copied = FeatureCache(tmp_path, HangingData(expected[1].ids), place="disk")
    shutil.copytree(cache.folder, copied.folder)
    for clip in clips:
        if clip.id in expected[1].ids:
            copied.path(clip).unlink()
    loader = make(copied, clips, workers=2)
    assert equal(loader.next(), expected[:1])
    monkeypatch.setattr(pool, "STALLED_S", 0.2)
    with pytest.raises(DataError, match=f"`{expected[1].ids[0]}`.* could not be loaded: nothing has come") as caught:
        loader.next()
    assert caught.value.exit_code == 3
    assert loader.state_dict()["index"] == 1  # where it was, for the checkpoint that is saved
    assert loader._pool is not None
    assert loader._pool.gone(within_s=60)
    loader.close()


def test_a_cursor_far_away_costs_nothing(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1_000_000, "index": 2})
    loader.next()
    assert loader.epoch == 1_000_000


@pytest.mark.parametrize(
    ("wanted", "place", "expected"),
    [("auto", "memory", 0), ("auto", "device", 0), ("auto", "disk", 3), (0, "disk", 0), (2, "memory", 2)],
)
def test_auto_needs_workers_only_for_features_on_disk(wanted: Any, place: Any, expected: int) -> None:
    assert worker_count(wanted, place=place, cores=4) == expected


# ---------------------------------------------------------------- stages

STAGES = {"all": {f"clip{i:02}" for i in range(20)}, "some": {f"clip{i:02}" for i in range(0, 20, 3)}}


def test_a_stage_draws_its_clips_alone_each_once_in_an_epoch(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips, stages=STAGES)
    loader.enter("all")
    loader.next(2)
    loader.enter("some")
    assert loader.epoch == 1  # the epoch before was left
    for epoch in (1, 2):
        seen = []
        while loader.epoch == epoch:
            seen += itertools.chain(*ids(loader.next()))
        assert sorted(seen) == sorted(STAGES["some"])
    loader.enter("all")
    assert sorted(itertools.chain(*ids(loader.next(loader.batches_per_epoch)))) == sorted(STAGES["all"])


def test_a_stage_of_the_same_clips_goes_on_in_the_epoch(cache: FeatureCache, clips: list[Clip]) -> None:
    plain, staged = make(cache, clips), make(cache, clips, stages={"a": STAGES["all"], "b": STAGES["all"]})
    staged.enter("a")
    before = staged.next(2)
    staged.enter("b")
    assert equal([*before, *staged.next(9)], plain.next(11))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_loader_resumed_in_a_stage_goes_on_in_it(
    cache: FeatureCache, clips: list[Clip], cut: int, workers: int
) -> None:
    whole = make(cache, clips, stages=STAGES)
    whole.enter("some")
    whole.next(cut)
    resumed = make(cache, clips, stages=STAGES, workers=workers)
    resumed.load_state_dict(whole.state_dict())
    resumed.enter("some")
    assert equal(resumed.next(7), whole.next(7))
    resumed.close()


def test_no_stage_may_be_left_without_clips(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips, stages=STAGES)
    assert not loader.can_exclude(STAGES["some"])
    assert loader.can_exclude(STAGES["all"] - STAGES["some"])


# ---------------------------------------------------------------- micro-batches in pieces


@pytest.mark.parametrize("workers", [0, 1])
def test_pieces_hold_the_same_clips_in_order_and_keep_within_the_limit(
    cache: FeatureCache, clips: list[Clip], workers: int
) -> None:
    plain, limited = make(cache, clips), make(cache, clips, workers=workers)
    limited.limit_to(200)
    for _ in range(6):
        (batch,), pieces = plain.next(), limited.next()
        assert list(itertools.chain(*ids(pieces))) == list(batch.ids)
        assert all(piece.num_padded <= 200 or len(piece.ids) == 1 for piece in pieces)
        assert equal(limited.divided(batch, limit=200), pieces)
        assert equal(limited.divided(batch, limit=None), [batch])
    assert limited.epoch == plain.epoch
    resumed = make(cache, clips)
    resumed.load_state_dict(limited.state_dict())
    assert equal(resumed.next(5), limited.next(5))
    limited.close()


def test_half_of_a_batch_is_half_of_what_it_takes(cache: FeatureCache, clips: list[Clip]) -> None:
    loader = make(cache, clips)
    batch = max(loader.next(8), key=lambda batch: len(batch.ids))
    assert loader.half_of(batch) == (batch.num_padded + 1) // 2
    assert len(loader.divided(batch, limit=loader.half_of(batch))) >= 2
    (held_out,) = loader.eval_batches([replace(clips[0], id="held out")])
    assert loader.half_of(held_out) is None  # one clip has no halves
