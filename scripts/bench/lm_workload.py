"""What all sides of the language model's benchmark train on: the same nets, the same rows. Needs numpy only.

The length law is called `ft-like`: seconds of speech are lognormal around 8 s, as in data people fine-tune on. A row
has 82.03 audio tokens for a second, 1.35 text tokens for a word, and 8 tokens around them; 834 tokens on average, 1,858
at the 95th percentile, and 3.5 % are longer than 2,048 and left out. A size may divide the seconds for a small machine;
the shape of the law, and so the share of padding, stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VOCAB_SIZE = 156_940
FIRST_CUSTOM = 128_256
BOS, EOT = 128_000, 128_009
SOS, EOS, SOH, EOH, SOA, EOA, PAD = (FIRST_CUSTOM + number for number in range(1, 8))
FIRST_AUDIO = FIRST_CUSTOM + 10
NUM_SLOTS, CODEBOOK_SIZE = 7, 4096
FRAMES_PER_S = 24_000 / 2048
MEDIAN_S, SIGMA = 8.0, 0.6
WORDS_PER_S, TOKENS_PER_WORD = 2.7, 1.35
MOST_TOKENS = 2048
IGNORED = -100
ROWS = 8  # in a step
LR = 1e-4
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
SEED = 3  # of the first few, the one whose rows are padded by what the law comes to in the long run, 46 %
TOTAL_STEPS = 1_000_000  # far away: nothing that happens at a run's end is timed


@dataclass(frozen=True)
class Size:
    """A Llama, and by how much the law's seconds are divided."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    shorter: int
    num_batches: int  # of ROWS rows, different ones; they repeat


SIZES = {
    "cpu_small": Size(256, 688, 4, 4, 2, 64, shorter=8, num_batches=4),
    "cpu_long": Size(128, 344, 4, 2, 1, 64, shorter=4, num_batches=4),
    "one_batch": Size(256, 688, 4, 4, 2, 64, shorter=8, num_batches=1),
    "3b": Size(3072, 8192, 28, 24, 8, 128, shorter=1, num_batches=8),
    "smoke": Size(32, 64, 2, 4, 2, 16, shorter=64, num_batches=2),
}


@dataclass(frozen=True)
class Tokens:
    """One row; labels are the tokens that are learned, not shifted."""

    ids: np.ndarray  # (t,) int64
    labels: np.ndarray  # (t,) int64, IGNORED in the prompt


def make_batches(size: Size) -> list[list[Tokens]]:
    """Draw rows in the law's lengths, ROWS at a time, in no order: what a loader that shuffles hands out."""
    rng = np.random.RandomState(SEED)
    rows: list[Tokens] = []
    while len(rows) < ROWS * size.num_batches:
        seconds = rng.lognormal(np.log(MEDIAN_S), SIGMA)
        if _num_tokens(seconds) <= MOST_TOKENS:
            rows.append(_row(seconds / size.shorter, rng))
    return [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]


def _num_tokens(seconds: float) -> int:
    return 8 + _num_words(seconds) + NUM_SLOTS * _num_frames(seconds)


def _num_frames(seconds: float) -> int:
    return max(1, round(seconds * FRAMES_PER_S))


def _num_words(seconds: float) -> int:
    return max(1, round(seconds * WORDS_PER_S * TOKENS_PER_WORD))


def _row(seconds: float, rng: np.random.RandomState) -> Tokens:
    text = rng.randint(0, BOS, _num_words(seconds))
    codes = rng.randint(0, CODEBOOK_SIZE, (_num_frames(seconds), NUM_SLOTS))
    audio = (codes + FIRST_AUDIO + CODEBOOK_SIZE * np.arange(NUM_SLOTS)).reshape(-1)
    prompt = [SOH, BOS, *text, EOT, EOH]
    ids = np.array([*prompt, SOA, SOS, *audio, EOS, EOA], dtype=np.int64)
    labels = ids.copy()
    labels[: len(prompt)] = IGNORED
    return Tokens(ids, labels)


def padded(rows: list[Tokens]) -> int:
    """Return what rows take when each is as long as the longest."""
    return len(rows) * max(len(row.ids) for row in rows)
