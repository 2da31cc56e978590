from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowData

pytestmark = pytest.mark.gpu


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, rng.normal(0, 0.1, 24_000 + 2400 * i), 24_000)
        made.append(Clip(id=str(i), path=path, text="some words", duration_s=1 + i / 10, sample_rate=24_000))
    return made


def walk(
    place: str, clips: list[Clip], folder: Path, device: torch.device | None, *, ahead: bool = False
) -> list[object]:
    data = FlowData(FlowConfig())
    cache = FeatureCache(folder, data, place=place, device=device)  # type: ignore[arg-type]
    cache.build(clips)
    loader = Loader(cache, clips, data, batch_frames=300, max_clips=8, seed=0, device=device, ahead=ahead)
    batches = [batch for _ in range(3) for batch in loader.next(2)]
    loader.close()
    return list(batches)


def tensors(batch: object) -> dict[str, Tensor]:
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}  # type: ignore[arg-type]
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("place", ["memory", "disk", "device"])
def test_batches_for_a_gpu_are_pinned_or_there_and_the_same(place: str, clips: list[Clip], tmp_path: Path) -> None:
    gpu = torch.device("cuda")
    there = walk(place, clips, tmp_path / "c", gpu)
    here = walk("memory", clips, tmp_path / "c", None)
    for left, right in zip(there, here, strict=True):
        for name, value in tensors(left).items():
            assert value.is_cuda or value.is_pinned(), name
            assert torch.equal(value.cpu(), tensors(right)[name])
        assert tensors(left)["mel"].is_cuda is (place == "device")


@pytest.mark.parametrize("place", ["memory", "disk", "device"])
def test_a_thread_brings_the_same_batches_to_the_gpu(place: str, clips: list[Clip], tmp_path: Path) -> None:
    there = walk(place, clips, tmp_path / "c", torch.device("cuda", 0), ahead=True)
    here = walk("memory", clips, tmp_path / "c", None)
    for left, right in zip(there, here, strict=True):
        for name, value in tensors(left).items():
            assert value.is_cuda or name == "mel_lengths"
            assert torch.equal(value.cpu(), tensors(right)[name])
