from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from speech_toys import ToyBatch, ToyData, write_clips

from ttstrain.contract.data import Clip
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.data.mixture import Mixture


class Questions:
    """Companions of ten to fourteen frames, laid end to end; a round of them for each round of clips."""

    name = "questions"
    packed = True
    ids = tuple(f"question{i}" for i in range(12))
    lengths = tuple(10 + i % 5 for i in range(12))

    def ratio(self, progress: float) -> float:
        return 1.0

    def batch(self, indices: Sequence[int]) -> ToyBatch:
        frames = sum(self.lengths[i] for i in indices)
        return ToyBatch([self.ids[i] for i in indices], torch.zeros(1, frames), len(indices), frames, frames)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return write_clips(tmp_path_factory.mktemp("mixture") / "wavs", [0.4 + 0.1 * (i % 5) for i in range(10)])


@pytest.fixture
def mixture(clips: list[Clip], tmp_path: Path) -> Mixture:
    cache = FeatureCache(tmp_path, ToyData(), place="disk")
    cache.build(clips)
    loader = Loader(cache, clips, ToyData(), batch_frames=300, max_clips=64, seed=3, stages={"some": ["clip01"]})
    return Mixture(loader, Questions(), total_rounds=20)


def test_clips_and_companions_come_in_pieces_of_the_same_clips(mixture: Mixture) -> None:
    before = mixture.state_dict()
    whole = [mixture.next() for _ in range(6)]
    mixture.load_state_dict(before)
    mixture.limit_to(60)
    assert mixture.limit == 60
    pieces = [mixture.next() for _ in range(6)]
    assert {batches[0].ids[0][:4] for batches in whole} == {"clip", "ques"}
    for (batch,), parts in zip(whole, pieces, strict=True):
        assert list(itertools.chain(*(part.ids for part in parts))) == list(batch.ids)
        assert all(part.num_padded <= 60 or len(part.ids) == 1 for part in parts)
        assert [part.ids for part in mixture.divided(batch, limit=60)] == [part.ids for part in parts]
        half = mixture.half_of(batch)
        assert half == (batch.num_padded + 1) // 2
        assert len(mixture.divided(batch, limit=half)) >= 2
    single = mixture.divided(whole[0][0], limit=1)[0]
    assert mixture.half_of(single) is None
    assert mixture.state_dict()["clips"]["limit"] == 60


def test_both_kinds_are_page_locked_for_a_gpu(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, ToyData(), place="disk")
    cache.build(clips)
    gpu = torch.device("cuda")
    loader = Loader(cache, clips, ToyData(), batch_frames=300, max_clips=64, seed=3, device=gpu)
    mixture = Mixture(loader, Questions(), total_rounds=20)
    locked: list[int] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(id(tensor))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    batches = [batch for batch in mixture.next(4) if isinstance(batch, ToyBatch)]
    assert {batch.ids[0][:4] for batch in batches} == {"clip", "ques"}
    assert locked == [id(batch.energy) for batch in batches]


def test_a_stage_chooses_clips_and_leaves_companions(mixture: Mixture) -> None:
    mixture.enter("some")
    seen = {id_ for _ in range(30) for batch in mixture.next() for id_ in batch.ids}
    assert seen == {"clip01", *Questions.ids}
