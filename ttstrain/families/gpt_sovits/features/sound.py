"""What the nets and the encoders hear of a recording: upstream's loudness, at 32 and at 16 kHz.

t samples at 32 kHz. Upstream mixes a recording with a copy of itself brought to a peak of 0.95, half and half: which is
a gain. Peaks above 1.05 then leave the range of 16 bits, and upstream wraps them round: loud clicks in what the VAE
learns to make. Here such a recording is scaled to fit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from ttstrain.errors import DataError, RecipeError

PEAK: Final = 0.95  # of the copy; GPT-SoVITS prepare_datasets/2-get-hubert-wav32k.py `maxx`
SHARE: Final = 0.5  # of the copy in the mix; `alpha`
HUBERT_SCALE: Final = 1145.14  # what HuBERT reads in place of 32768, without the feature extractor's normalisation
FULL_SCALE: Final = 32_768
LOUDEST: Final = (FULL_SCALE - 1) / FULL_SCALE
RATES: Final = (32_000, 16_000)  # Hz, from and to


def mix_gain(wav: Tensor) -> float:
    """Return the gain that a waveform (t,) gets. Raises DataError for one without sound."""
    peak = float(wav.abs().max()) if len(wav) else 0.0
    if not 0 < peak < float("inf"):
        raise DataError("the recording is silent" if peak == 0 else "the recording is not finite")
    return SHARE * PEAK / peak + (1 - SHARE)


def training_wav(wav: Tensor, gain: float) -> Tensor:
    """Return the waveform (t,) that the VAE learns, int16, rounded towards zero as upstream's."""
    loudest = float(wav.abs().max()) * gain
    fitting = gain * min(1.0, LOUDEST / loudest) if loudest else gain
    return (wav * (fitting * FULL_SCALE)).clamp(1 - FULL_SCALE, FULL_SCALE - 1).to(torch.int16)


def hubert_wav(wav: Tensor, gain: float) -> Tensor:
    """Return what HuBERT reads, (t / 2,) at 16 kHz, resampled as librosa does: soxr's `HQ`, in its own length."""
    try:
        import soxr
    except ModuleNotFoundError as error:
        raise RecipeError(
            "semantic tokens need the package `soxr`", hint="pip install 'ttstrain[gpt_sovits]'"
        ) from error
    scaled = (wav * (gain * HUBERT_SCALE)).numpy()
    wanted = -(-len(scaled) * RATES[1] // RATES[0])
    resampled = np.asarray(soxr.resample(scaled, *RATES, quality="soxr_hq"), dtype=np.float32)[:wanted]
    return torch.from_numpy(np.pad(resampled, (0, wanted - len(resampled))))
