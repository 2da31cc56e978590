"""The stand-in vocoder."""

from __future__ import annotations

import math

import pytest
import torch

from ttstrain.modules.griffin_lim import griffin_lim, invert_filters
from ttstrain.modules.mel import MelKind, MelSpectrogram


def voice_like(seconds: float = 1.0) -> torch.Tensor:
    """Sound with a gliding fundamental, its harmonics, pauses and some breath."""
    t = torch.arange(int(24_000 * seconds)) / 24_000
    phase = 2 * math.pi * (120 * t + 30 * t**2)
    tone = sum(torch.sin(k * phase) / k for k in range(1, 20))
    breath = torch.randn(t.shape, generator=torch.Generator().manual_seed(0))
    return (0.1 * tone + 0.01 * breath) * (torch.sin(2 * math.pi * 3 * t) > -0.5)


@pytest.mark.parametrize("kind", ["vocos", "bigvgan"])
def test_waveform_has_nearly_the_mel_it_was_made_from(kind: MelKind) -> None:
    mel = MelSpectrogram(kind)(voice_like()[None])[0].T
    wav = griffin_lim(mel, kind=kind)
    again = MelSpectrogram(kind)(wav[None])[0].T
    assert again.shape == mel.shape
    heard = mel > -6  # what lies far below the rest is noise that no phase brings back
    distance = (again - mel).abs()[heard].mean()
    silence = (mel + 11.5).abs()[heard].mean()
    assert float(distance) < 0.25 < 0.05 * float(silence)


def test_it_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    mel = MelSpectrogram("vocos")(voice_like(0.2)[None])[0].T
    state = torch.get_rng_state()
    first = griffin_lim(mel, kind="vocos")
    assert torch.equal(griffin_lim(mel, kind="vocos"), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_magnitudes_have_the_mel_they_were_found_for() -> None:
    filters = MelSpectrogram("vocos").filters  # (f, m)
    mel = MelSpectrogram("vocos")(voice_like()[None])[0].T.exp()  # (n, m)
    magnitudes = invert_filters(mel, filters)
    assert (magnitudes >= 0).all()
    assert float(((magnitudes @ filters) / mel).log().abs().mean()) < 0.02
