"""Clips laid end to end: first the phonemes of all, then the tokens of all. Nothing is padded.

Legend: b clips, x phonemes of all clips together, y tokens of all together, n = x + y rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ttstrain.modules.transfer import to_device


@dataclass(frozen=True, slots=True)
class Documents:
    """Where each clip's rows lie, and where in the padded batch they come from. Lengths are on the host."""

    text_lengths: tuple[int, ...]
    audio_lengths: tuple[int, ...]
    text_source: Tensor  # (x,) int64, place of each phoneme in the flattened phonemes of the batch
    audio_source: Tensor  # (y,) int64, place of each token in the flattened tokens
    text_position: Tensor  # (x,) int64, from 0 in each clip
    audio_position: Tensor  # (y,) int64
    text_last: Tensor  # (b,) int64, row of each clip's last phoneme, which predicts its first token
    audio_last: Tensor  # (b,) int64, place of each clip's last token among the tokens; it predicts the end
    slots: Tensor  # (n,) int64, place of each row where every clip is padded to `padded_width`

    @property
    def num_text(self) -> int:
        return sum(self.text_lengths)

    @property
    def padded_width(self) -> int:
        """Rows of a clip once it is padded: the longest text, then the longest speech."""
        return max(self.text_lengths) + max(self.audio_lengths)

    @property
    def clip_of_audio(self) -> Tensor:
        """Number of the clip (y,) that each token belongs to."""
        return self.slots[self.num_text :] // self.padded_width


def lay_out(texts: Sequence[Tensor], audios: Sequence[Tensor], *, device: torch.device) -> Documents:
    """Lay clips out, given for each where its phonemes and tokens lie in the flattened batch: int64, on the CPU.

    All indices cross to the device in one copy that nobody waits for.
    """
    text_lengths, audio_lengths = tuple(map(len, texts)), tuple(map(len, audios))
    text_position = torch.cat([torch.arange(length) for length in text_lengths])
    audio_position = torch.cat([torch.arange(length) for length in audio_lengths])
    longest = max(text_lengths)
    width = longest + max(audio_lengths)
    parts = [
        torch.cat(list(texts)),
        torch.cat(list(audios)),
        text_position,
        audio_position,
        torch.tensor(list(accumulate(text_lengths))) - 1,
        torch.tensor(list(accumulate(audio_lengths))) - 1,
        _begins(text_lengths, width) + text_position,
        _begins(audio_lengths, width) + longest + audio_position,
    ]
    sizes = [len(part) for part in parts[:-2]] + [len(parts[-2]) + len(parts[-1])]
    moved = torch.split(to_device(torch.cat(parts), device), sizes)
    return Documents(text_lengths, audio_lengths, *moved)


def _begins(lengths: Sequence[int], width: int) -> Tensor:
    """Return for each unit of each clip where its clip begins, `width` apart."""
    return torch.cat([torch.full((length,), clip * width) for clip, length in enumerate(lengths)])


def whole(lengths: Sequence[int], width: int) -> list[Tensor]:
    """Return where each clip's units lie in the flattened batch: all of them, in order."""
    return [torch.arange(length) + clip * width for clip, length in enumerate(lengths)]
