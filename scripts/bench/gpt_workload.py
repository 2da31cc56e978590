"""What both sides of the GPT's benchmark train on: the same net, the same clips. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TOKENS_PER_S = 25.0
PHONES_PER_S = 12.0  # English read aloud
NUM_PHONES, NUM_CODES = 732, 1024
EOS, VOCAB_SIZE = 1024, 1025
BERT_CHANNELS = 1024
DROPOUT = 0.1
ACCUMULATE = 4  # micro-batches to an update, as upstream
LR, BETAS = 0.002, (0.9, 0.95)  # ScaledAdam on both sides
TOTAL_STEPS = 1_000_000  # far away: nothing that happens at a run's end is timed


@dataclass(frozen=True)
class Size:
    """A net and its batches."""

    width: int
    layers: int
    heads: int
    clips: int  # of a micro-batch
    num_batches: int  # different ones; they repeat
    sorted: bool  # clips of like length together, or as they come


SIZES = {
    "cpu_small": Size(width=256, layers=6, heads=8, clips=8, num_batches=8, sorted=False),
    "cpu_small_sorted": Size(width=256, layers=6, heads=8, clips=8, num_batches=8, sorted=True),
    "tiny": Size(width=64, layers=2, heads=4, clips=8, num_batches=4, sorted=False),  # of the smoke recipe
    "two_layers": Size(width=512, layers=2, heads=16, clips=2, num_batches=4, sorted=False),
    "six_layers": Size(width=256, layers=6, heads=8, clips=2, num_batches=4, sorted=False),
    "published": Size(width=512, layers=24, heads=16, clips=8, num_batches=8, sorted=False),
    "smoke": Size(width=32, layers=2, heads=2, clips=4, num_batches=4, sorted=False),
}


@dataclass(frozen=True)
class Clip:
    """Phonemes and tokens of one clip, without features of BERT: English has none."""

    phones: np.ndarray  # (p,) int64
    codes: np.ndarray  # (s,) int64


def make_batches(size: Size) -> list[list[Clip]]:
    """Draw clips with LJSpeech's lengths: 1.1 to 10.1 s, 6.6 s on average."""
    rng = np.random.RandomState(0)
    seconds = np.clip(rng.normal(6.6, 2.2, size.clips * size.num_batches), 1.1, 10.1)
    clips = list(_clips(np.sort(seconds) if size.sorted else seconds, rng))
    return [clips[begin : begin + size.clips] for begin in range(0, len(clips), size.clips)]


def _clips(seconds: np.ndarray, rng: np.random.RandomState) -> Iterator[Clip]:
    for length in seconds:
        yield Clip(
            phones=rng.randint(1, NUM_PHONES, round(length * PHONES_PER_S)),
            codes=rng.randint(0, NUM_CODES, round(length * TOKENS_PER_S)),
        )


def num_rows(batch: list[Clip]) -> int:
    """Count what the net has to compute: phonemes and tokens."""
    return sum(len(clip.phones) + len(clip.codes) for clip in batch)


def padded(batch: list[Clip]) -> int:
    """Return the rows of a batch whose texts and whose tokens are each as long as the longest."""
    return len(batch) * (max(len(clip.phones) for clip in batch) + max(len(clip.codes) for clip in batch))
