"""SNAC codes as tokens: seven per coarse frame, each with ids of its own slot.

A frame is a walk down a binary tree, depth first: one coarse code, its first child, that one's two children, the second
child, and its two. n frames; levels (n,), (2n,), (4n,); frames (n, 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, NUM_SLOTS, PUBLISHED, SAMPLE_RATE, SAMPLES_PER_FRAME, TokenIds

Dedup = Literal["slot0", "exact7", "none"]

LEVEL_RATES: Final = (1, 2, 4)  # codes of each level in a frame
PLACES: Final = ((0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3))  # (level, which of the frame's) per slot


def interleave(levels: Sequence[Tensor]) -> Tensor:
    """Return frames (n, 7) of three levels (n,), (2n,), (4n,). Raises ValueError when they do not belong together."""
    if len(levels) != len(LEVEL_RATES) or any(level.ndim != 1 for level in levels):
        raise ValueError(f"expected 3 levels of codes, got shapes {[tuple(level.shape) for level in levels]}")
    n = len(levels[0])
    if any(len(level) != rate * n for level, rate in zip(levels, LEVEL_RATES, strict=True)):
        raise ValueError(f"levels of {[len(level) for level in levels]} codes are not n, 2n and 4n")
    frames = [level.reshape(n, rate) for level, rate in zip(levels, LEVEL_RATES, strict=True)]
    return torch.stack([frames[level][:, which] for level, which in PLACES], dim=1)


def deinterleave(frames: Tensor) -> list[Tensor]:
    """Return the three levels (n,), (2n,), (4n,) of frames (n, 7)."""
    if frames.ndim != 2 or frames.shape[1] != NUM_SLOTS:
        raise ValueError(f"expected frames (n, {NUM_SLOTS}), got {tuple(frames.shape)}")
    slots = [[PLACES.index((level, which)) for which in range(rate)] for level, rate in enumerate(LEVEL_RATES)]
    return [frames[:, columns].reshape(-1) for columns in slots]


def to_ids(frames: Tensor, ids: TokenIds = PUBLISHED) -> Tensor:
    """Return the token ids (7n,) int64 of frames (n, 7). Raises ValueError that names the first illegal code."""
    if frames.ndim != 2 or frames.shape[1] != NUM_SLOTS:
        raise ValueError(f"expected frames (n, {NUM_SLOTS}), got {tuple(frames.shape)}")
    frames = frames.long()
    wrong = (frames < 0) | (frames >= CODEBOOK_SIZE)
    if bool(wrong.any()):
        frame, slot = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"code {int(frames[frame, slot])} of frame {frame}, slot {slot} is not one of 0 to {CODEBOOK_SIZE - 1}"
        )
    return (frames + ids.first_audio + CODEBOOK_SIZE * torch.arange(NUM_SLOTS)).reshape(-1)


def from_ids(tokens: Tensor, ids: TokenIds = PUBLISHED) -> Tensor:
    """Return frames (n, 7) int64 of token ids (7n,). Raises ValueError at the first breach of the slot grammar."""
    breach = find_breach(tokens, ids)
    if breach is not None:
        raise ValueError(str(breach))
    return tokens.long().reshape(-1, NUM_SLOTS) - ids.first_audio - CODEBOOK_SIZE * torch.arange(NUM_SLOTS)


# ---------------------------------------------------------------- validation


@dataclass(frozen=True, slots=True)
class Breach:
    """The first token of a stretch of codes that should not stand where it does."""

    position: int  # in the stretch
    expected_slot: int
    found: str

    def __str__(self) -> str:
        frame = self.position // NUM_SLOTS
        return f"token {self.position} (frame {frame}): slot {self.expected_slot} expected, {self.found} found"


def find_breach(tokens: Tensor, ids: TokenIds = PUBLISHED) -> Breach | None:
    """Find where audio tokens (t,) leave the order of slots; a broken-off last frame is a breach at its end."""
    if tokens.ndim != 1:
        raise ValueError(f"expected tokens (t,), got {tuple(tokens.shape)}")
    tokens = tokens.long().cpu()
    expected = torch.arange(len(tokens)) % NUM_SLOTS
    first = ids.first_audio + CODEBOOK_SIZE * expected
    wrong = ((tokens < first) | (tokens >= first + CODEBOOK_SIZE)).nonzero()
    if len(wrong):
        position = int(wrong[0])
        return Breach(position, position % NUM_SLOTS, ids.describe(int(tokens[position])))
    if len(tokens) % NUM_SLOTS:
        return Breach(len(tokens), len(tokens) % NUM_SLOTS, "the end")
    return None


# ---------------------------------------------------------------- frames that repeat


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Frames without repeats, and what that took away."""

    frames: Tensor  # (m, 7), m <= n
    kept: Tensor  # (m,) int64, where each stood among the n

    num_removed: int

    @property
    def seconds_removed(self) -> float:
        return frames_to_s(self.num_removed)


def deduplicate(frames: Tensor, how: Dedup) -> Deduplicated:
    """Leave out frames that repeat the one before.

    `slot0` is upstream's rule: a frame goes when its coarse code is that of the last kept frame, though its six finer
    codes may differ; time is lost for good. `exact7` asks all seven to be equal.
    """
    n = len(frames)
    if how == "none" or n < 2:
        kept = torch.arange(n)
    else:
        # The frame before is either the last kept one or equal to it in what is compared.
        compared = frames[:, :1] if how == "slot0" else frames
        changed = (compared[1:] != compared[:-1]).any(dim=1)
        kept = torch.cat([torch.zeros(1, dtype=torch.long), changed.nonzero()[:, 0] + 1])
    return Deduplicated(frames=frames[kept], kept=kept, num_removed=n - len(kept))


def frames_to_s(num_frames: int) -> float:
    """Return how long so many frames sound, in seconds."""
    return num_frames * SAMPLES_PER_FRAME / SAMPLE_RATE


def count_zeros(frames: Tensor) -> Tensor:
    """Count code 0 per level (3,): the upstream player drops such tokens, and up to 427 ms of sound with each."""
    return torch.stack([(level == 0).sum() for level in deinterleave(frames)])
