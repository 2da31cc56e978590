"""Batches for the nets: clips padded to one length.

b clips, p phonemes, s semantic tokens (25 a second), t samples at 32 kHz. A clip of n spectrogram frames (50 a second)
has ceil(n / 2) tokens: the last of an odd number of frames stands for one frame alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Edit(NamedTuple):
    """The edit that makes a clip's rejected sample for DPO: a span of tokens repeated, or left out."""

    kind: Literal["repeat", "delete"]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SovitsBatch:
    """Phonemes, tokens and recordings of some clips. Lengths are on the host, so that no device waits for them."""

    ids: tuple[str, ...]
    weight: float  # clips
    num_frames: int  # spectrogram frames, real
    num_padded: int
    phones: Tensor  # (b, p) int64, 0 after each clip's, which is the `!` as well: lengths tell them apart
    phone_lengths: tuple[int, ...]
    bert: Tensor | None  # (b, p, 1024) float32, zeros where a clip has none; None where no clip has any
    codes: Tensor  # (b, s) int64, 0 after each clip's
    code_lengths: tuple[int, ...]
    wav: Tensor | None  # (b, t) float32 in [-1, 1], 0 after each clip's; None where the VAE is not trained
    frame_lengths: tuple[int, ...]  # spectrogram frames: samples // 640
    ssl: Tensor | None  # (b, 768, 2 s) HuBERT's features; only where the quantizer is trained
    speaker: Tensor | None  # (b, 20480) float32; only v2Pro and v2ProPlus
    wav_lengths: tuple[int, ...] = ()  # samples of each clip, whose spectrogram is mirrored there; none without `wav`
    segment_starts: tuple[int, ...] = ()  # frames; drawn for each step by the VAE's task
    edits: tuple[Edit, ...] = ()  # of each clip's tokens; drawn for each step by the GPT's task

    def to(self, device: torch.device) -> SovitsBatch:
        return replace(
            self,
            phones=self.phones.to(device, non_blocking=True),
            bert=_moved(self.bert, device),
            codes=self.codes.to(device, non_blocking=True),
            wav=_moved(self.wav, device),
            ssl=_moved(self.ssl, device),
            speaker=_moved(self.speaker, device),
        )


def num_tokens(num_frames: int) -> int:
    """Count the semantic tokens of a clip of so many spectrogram frames."""
    return -(-num_frames // 2)


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
