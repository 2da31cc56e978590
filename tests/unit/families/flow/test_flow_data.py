"""Mels, their promised lengths, and padding."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttstrain.contract.data import Clip, Treatment
from ttstrain.data.audio import read_clip
from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowData, FlowExample


def flow_data(**options: object) -> FlowData:
    return FlowData(FlowConfig(**{"tokenizer": "char", **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vocos", "bigvgan"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("samples", [20_000, 25_600, 25_601, 33_333])
def test_promised_length_is_the_mels(tmp_path: Path, kind: str, rate: int, samples: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(size=samples + 100) / 10, rate)
    clip = Clip(
        id="a",
        path=path,
        text="a",
        duration_s=samples / rate,
        sample_rate=rate,
        treatment=Treatment(start=60, end=60 + samples),
    )
    data = flow_data(mel=kind)
    mel = data.features(read_clip(clip, data.sample_rate), clip)["mel"]
    assert mel.shape == (data.length(clip), 100)
    assert mel.dtype == torch.float32 and mel.is_contiguous()


def test_batch_is_padded_as_upstream_pads_it() -> None:
    data = flow_data()
    batch = data.collate(
        [
            FlowExample(id="long", mel=torch.ones(7, 100), text=torch.tensor([5])),
            FlowExample(id="short", mel=torch.ones(4, 100), text=torch.tensor([6, 7, 8])),
        ]
    )
    assert batch.ids == ["long", "short"]
    assert batch.mel[1, 4:].eq(0).all() and batch.mel[1, :4].eq(1).all()
    assert batch.text.tolist() == [[5, -1, -1], [6, 7, 8]]
    assert batch.mel_lengths.tolist() == [7, 4]
    assert (batch.weight, batch.num_frames, batch.num_padded) == (11.0, 11, 14)


def test_example_holds_the_texts_indices() -> None:
    data = flow_data()
    clip = Clip(id="a", path=Path("a.wav"), text="A a!", duration_s=1.0, sample_rate=24_000)
    example = data.example(clip, {"mel": torch.zeros(3, 100)})
    assert example.text.tolist() == [32, 0, 62, 1]
    assert data.reference({"mel": example.mel}) is example.mel


def test_lengths_stay_on_the_host() -> None:
    data = flow_data()
    batch = data.collate([FlowExample(id="a", mel=torch.ones(7, 100), text=torch.tensor([5]))]).to(torch.device("meta"))
    assert batch.mel.is_meta and batch.lengths.is_meta and batch.text.is_meta
    assert batch.mel_lengths.device.type == "cpu"


def test_cache_key_changes_with_the_mel_only() -> None:
    assert flow_data().fingerprint == flow_data(dim=16).fingerprint
    assert flow_data().fingerprint != flow_data(mel="bigvgan").fingerprint
    assert flow_data().fingerprint != flow_data(n_mels=80).fingerprint


def test_missing_libraries_are_reported_before_any_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(RecipeError, match="rjieba"):
        flow_data(tokenizer="pinyin")
    flow_data(tokenizer="char")


def test_workers_can_receive_it() -> None:
    wav = torch.randn(3000)
    clip = Clip(id="a", path=Path("a.wav"), text="a", duration_s=1.0, sample_rate=24_000)
    data = flow_data()
    copied = pickle.loads(pickle.dumps(data))
    assert torch.equal(copied.features(wav, clip)["mel"], data.features(wav, clip)["mel"])
