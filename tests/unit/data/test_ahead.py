"""One thread loads ahead: the same batches, the same state, errors as they were, bounded, and gone at the end."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_cuda import GPU, PretendedCuda, needs_cuda_build, pretended_cuda
from speech_toys import ToyBatch, ToyData, write_clips

from ttstrain.contract.data import Clip
from ttstrain.data import pool
from ttstrain.data.ahead import FEWEST_AHEAD, NAME
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.errors import DataError
from ttstrain.warning_listener import Listener

DURATIONS = [0.4 + 0.137 * (i % 11) for i in range(20)]


class Watched(ToyData):
    """Notes what it collates, and does to some clips what a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.collated: list[list[str]] = []
        self.threads: set[str] = set()
        self.enough = threading.Event()
        self.wanted = 0  # micro-batches, after which `enough` is set
        self.broken = ""  # a clip that cannot be collated
        self.hangs = ""  # a clip on which collating hangs
        self.released = threading.Event()

    def collate(self, examples: Sequence[Any]) -> ToyBatch:
        batch = super().collate(examples)
        self.collated.append(list(batch.ids))
        self.threads.add(threading.current_thread().name)
        if self.broken in batch.ids:
            raise KeyError(self.broken)
        if self.hangs in batch.ids:
            self.released.wait()
        if len(self.collated) == self.wanted:
            self.enough.set()
        return batch


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return write_clips(tmp_path_factory.mktemp("ahead") / "wavs", DURATIONS)


@pytest.fixture(scope="module")
def cache(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), ToyData(), place="disk")
    cache.build(clips)
    return cache


@pytest.fixture
def data() -> Iterator[Watched]:
    data = Watched()
    yield data
    data.released.set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(NAME)], "a thread is left"


def make(cache: FeatureCache, clips: list[Clip], data: ToyData, **changes: Any) -> Loader:
    options = {"batch_frames": 500, "max_clips": 64, "seed": 3, "ahead": True} | changes
    return Loader(cache, clips, data, **options)


def equal(left: Sequence[Any], right: Sequence[Any]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(list(a.ids) == list(b.ids) and torch.equal(a.energy, b.energy) for a, b in pairs)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_and_states_are_those_without_the_thread(
    accumulate: int, cache: FeatureCache, clips: list[Clip], data: Watched
) -> None:
    plain = make(cache, clips, ToyData(), ahead=False, stages={"few": {f"clip{i:02}" for i in range(9)}})
    ahead = make(cache, clips, data, stages={"few": {f"clip{i:02}" for i in range(9)}})

    def walk(loader: Loader) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        for change in (
            lambda: None,
            lambda: loader.exclude(["clip03", "clip08"]),
            lambda: loader.limit_to(200),
            lambda: loader.load_state_dict({**loader.state_dict(), "epoch": 2, "index": 4}),
            lambda: loader.enter("few"),
            loader.close,
        ):
            change()
            for _ in range(3):
                yield loader.next(accumulate), loader.state_dict()

    for (expected, before), (batches, after) in zip(walk(plain), walk(ahead), strict=True):
        assert equal(batches, expected)
        assert after == before
    assert all(name.startswith(NAME) for name in data.threads)
    ahead.close()


def test_a_run_that_is_resumed_gets_what_was_not_trained_on(
    cache: FeatureCache, clips: list[Clip], data: Watched
) -> None:
    whole = make(cache, clips, ToyData(), ahead=False).next(12)
    data.wanted = 5 + FEWEST_AHEAD
    loader = make(cache, clips, data)
    for _ in range(5):
        loader.next()
    assert data.enough.wait(60), "nothing is loaded ahead"
    resumed = make(cache, clips, data)
    resumed.load_state_dict(loader.state_dict())
    assert equal(resumed.next(7), whole[5:])
    loader.close()
    resumed.close()


def test_what_is_loaded_ahead_is_bounded(cache: FeatureCache, clips: list[Clip], data: Watched) -> None:
    loader = make(cache, clips, data)
    for step in range(3):
        data.wanted = 2 * (step + 1) + FEWEST_AHEAD
        data.enough.clear()
        loader.next(2)
        assert len(data.collated) == data.wanted or data.enough.wait(60)
    assert not data.released.wait(0.2), "time for the thread to go too far"
    assert len(data.collated) == 6 + FEWEST_AHEAD
    loader.close()


def test_an_error_arrives_as_it_was_where_its_batch_is_due(
    cache: FeatureCache, clips: list[Clip], data: Watched
) -> None:
    order = make(cache, clips, ToyData(), ahead=False).next(4)
    data.broken = order[2].ids[0]
    loader = make(cache, clips, data)
    assert equal([*loader.next(), *loader.next()], order[:2])
    with pytest.raises(KeyError, match=data.broken):
        loader.next()
    assert loader.state_dict()["index"] == 2  # where it was, for the checkpoint that is saved
    loader.close()


def test_a_thread_that_hangs_is_given_up_and_its_clips_named(
    cache: FeatureCache, clips: list[Clip], data: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STALLED_S", 0.2)
    monkeypatch.setattr(pool, "PATIENCE_S", 0.2)
    data.hangs = make(cache, clips, ToyData(), ahead=False).next()[0].ids[0]
    loader = make(cache, clips, data)
    with pytest.raises(DataError, match=f"`{data.hangs}`.* could not be loaded: nothing has come") as caught:
        loader.next()
    assert caught.value.exit_code == 3
    loader.close()
    abandoned = [thread for thread in pool._abandoned if thread.name.startswith(NAME)]
    assert abandoned, "the end of the program does not wait for it"
    data.released.set()
    for thread in abandoned:
        thread.join(60)


def test_warnings_are_told_in_the_training_thread_with_their_batch(
    clips: list[Clip], data: Watched, tmp_path: Path
) -> None:
    own = FeatureCache(tmp_path, data, place="disk")
    own.build(clips[:4])
    own.path(clips[2]).write_bytes(b"")
    told: list[tuple[str, str]] = []
    loader = make(own, clips[:4], data)
    with Listener(lambda message: told.append((message, threading.current_thread().name))):
        loader.next(8)
    assert [(message[:29], thread) for message, thread in told] == [("features of clip clip02 are m", "MainThread")]
    loader.close()


def test_loader_processes_feed_the_thread_and_their_loss_is_survived(
    cache: FeatureCache, clips: list[Clip], data: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(cache, clips, ToyData(), ahead=False).next(16)
    loader = make(cache, clips, ToyData(), workers=1)
    batches = loader.next(4)
    (worker,) = loader.worker_pids()
    os.kill(worker, signal.SIGKILL)
    for _ in range(6):
        batches += loader.next(2)
    assert "was killed" in caplog.text
    assert equal(batches, expected)
    loader.close()


# ---------------------------------------------------------------- on the way to a GPU


def shapes(batches: Sequence[Any]) -> list[tuple[list[str], torch.Size]]:
    return [(list(batch.ids), batch.energy.shape) for batch in batches]


@needs_cuda_build
def test_batches_are_on_the_gpu_before_the_step_and_nothing_waits(
    cache: FeatureCache, clips: list[Clip], data: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(cache, clips, ToyData(), ahead=False).next(4)
    kept: list[int] = []
    with pretended_cuda() as gpu:
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append(id(tensor)))
        loader = make(cache, clips, _Unwaited(data), device=GPU)
        batches = loader.next(4)
        assert {batch.energy.device for batch in batches} == {GPU}
        assert shapes(batches) == shapes(expected)
        assert gpu.waits == []
        assert kept == [id(batch.energy) for batch in batches], "memory that the step reads could be used again"
        del batches
        loader.close()
    assert gpu.live == 0


@needs_cuda_build
def test_a_batch_for_which_the_gpu_has_no_room_comes_page_locked(
    cache: FeatureCache, clips: list[Clip], data: Watched
) -> None:
    expected = make(cache, clips, ToyData(), ahead=False).next(2)

    def load(gpu: PretendedCuda) -> list[Any]:
        loader = make(cache, clips, _Unwaited(data), device=GPU)
        batches = loader.next(2)
        assert all(gpu.is_pinned(batch.energy) for batch in batches)
        loader.close()
        return batches

    with pretended_cuda(limit=100) as gpu:
        batches = load(gpu)
        assert equal(batches, expected)


class _Unwaited(ToyData):
    """Batches as those of families, whose copies to a GPU do not wait."""

    def __init__(self, inner: Watched) -> None:
        super().__init__()
        self._inner = inner

    def collate(self, examples: Sequence[Any]) -> Any:
        batch = self._inner.collate(examples)
        return _UnwaitedBatch(batch.ids, batch.energy, batch.weight, batch.num_frames, batch.num_padded)


class _UnwaitedBatch(ToyBatch):
    def to(self, device: torch.device) -> Any:
        return dataclasses.replace(self, energy=self.energy.to(device, non_blocking=True))
