"""A clip's waveform, ready for a model: decoded, treated as the audit says, resampled once."""

from __future__ import annotations

import functools

import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.data.decode import decode, treat
from ttstrain.errors import DataError


def read_clip(clip: Clip, sample_rate: int) -> Tensor:
    """Return the waveform (t,) float32, where t is exactly `clip.samples_at(sample_rate)`.

    Raises DataError when the file is gone, cannot be decoded or no longer holds what the audit saw.
    """
    try:
        decoded = decode(clip.path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"clip `{clip.id}` cannot be read: {error}", hint="check the data again") from error
    wav = torch.from_numpy(treat(decoded.samples, clip.treatment))  # (n,)
    if decoded.sample_rate != clip.sample_rate or len(wav) != clip.num_samples:
        raise DataError(
            f"`{clip.path}` changed since it was checked: clip `{clip.id}` should have {clip.num_samples} samples at "
            f"{clip.sample_rate} Hz, the file gives {len(wav)} at {decoded.sample_rate} Hz",
            hint="check the data again",
        )
    if sample_rate == clip.sample_rate:
        return wav
    resampled = resampler(clip.sample_rate, sample_rate)(wav)
    # torchaudio rounds the length in float32, which can be one sample off for long clips
    length = clip.samples_at(sample_rate)
    return F.pad(resampled, (0, length - len(resampled)))


@functools.cache
def resampler(from_rate: int, to_rate: int) -> torchaudio.transforms.Resample:
    """Return the resampler of a pair of rates; its filter is computed once per process."""
    return torchaudio.transforms.Resample(from_rate, to_rate)
