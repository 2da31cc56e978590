"""Vocos and BigVGAN v2 against the published code: same files, same mel, same waveform.

The goldens come from `scripts/make_vocoder_goldens.py`, run with vocos 0.1.0 and bigvgan 2.4.1.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from ttstrain.modules.vocoder.bigvgan import low_pass
from ttstrain.modules.vocoder.load import load_vocoder

GOLDENS = Path(__file__).parent / "data" / "vocoders.safetensors"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_vocoder_goldens.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vocoder_goldens", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden(name: str) -> Tensor:
    with safe_open(GOLDENS, framework="pt") as file:
        return file.get_tensor(name)


def write_vocoder(folder: Path, script: ModuleType, *, kind: str) -> Path:
    """Write the files as the publisher would: its names, its layout, its pickle."""
    with safe_open(GOLDENS, framework="pt") as file:
        shapes = json.loads(file.metadata()[f"{kind}_shapes"])
    state = script.recipe_weights(shapes)
    assert len(state) > 30
    folder.mkdir()
    if kind == "vocos":
        from ttstrain.modules.mel import MelSpectrogram

        mel = MelSpectrogram("vocos")
        state["feature_extractor.mel_spec.spectrogram.window"] = mel.window
        state["feature_extractor.mel_spec.mel_scale.fb"] = mel.filters
        state["head.istft.window"] = golden("vocos/feature_extractor.mel_spec.spectrogram.window")
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "config.yaml").write_text(yaml.safe_dump(script.VOCOS))
    else:
        taps = golden("bigvgan/resblocks.0.activations.0.upsample.filter")
        state |= {key: taps for key in shapes if key.endswith("filter")}
        torch.save({"generator": state}, folder / "bigvgan_generator.pt")
        (folder / "config.json").write_text(json.dumps(script.BIGVGAN))
    assert set(state) == set(shapes)
    return folder


@pytest.mark.parametrize(("kind", "samples"), [("vocos", 8 * 256), ("bigvgan", 9 * 256)])
def test_waveform_equals_the_published_codes(kind: Any, samples: int, script: ModuleType, tmp_path: Path) -> None:
    vocoder = load_vocoder(str(write_vocoder(tmp_path / kind, script, kind=kind)), mel=kind)
    wav = vocoder.vocode(script.log_mel(seed=len(kind))[0].T)
    expected = golden(kind)
    assert wav.shape == expected.shape == (samples,)
    assert 0.01 < float(expected.abs().max()) < 0.99  # neither silent nor clamped
    assert float((wav - expected).abs().max()) < 2e-6


def test_low_pass_filter_equals_the_published_one() -> None:
    expected = golden("bigvgan/resblocks.0.activations.0.upsample.filter")
    assert torch.allclose(low_pass(taps=12, cutoff=0.25, half_width=0.3), expected, atol=1e-7)


def test_weights_with_parametrized_norm_are_the_same_vocoder(script: ModuleType, tmp_path: Path) -> None:
    folder = write_vocoder(tmp_path / "bigvgan", script, kind="bigvgan")
    mel = script.log_mel(seed=1)[0].T
    wav = load_vocoder(str(folder), mel="bigvgan").vocode(mel)
    path = folder / "bigvgan_generator.pt"
    state = torch.load(path, weights_only=True)["generator"]
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {
        stem + dot + names.get(leaf, leaf): value
        for key, value in state.items()
        for stem, dot, leaf in [key.rpartition(".")]
    }
    assert renamed.keys() != state.keys()
    torch.save({"generator": renamed}, path)
    assert torch.equal(load_vocoder(str(folder), mel="bigvgan").vocode(mel), wav)
