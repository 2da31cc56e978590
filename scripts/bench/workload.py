"""What both sides of the step benchmark train on: the same nets, the same batches. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

N_MELS = 100
FRAMES_PER_S = 93.75  # 24 kHz, hop 256
CHARACTERS_PER_S = 15.0  # English read aloud
ALPHABET = "abcdefghijklmnopqrstuvwxyz ',.?"
VOCAB_SIZE = 2545  # of the published nets
DROPOUT = 0.1
LR = 1e-5
WARMUP_STEPS = 100
TOTAL_STEPS = 1_000_000  # far away: nothing that happens at a run's end is timed
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Size:
    """A net and the budget of a batch."""

    dim: int
    depth: int
    heads: int
    text_dim: int
    batch_frames: int  # real frames, as upstream counts them
    max_clips: int
    num_batches: int  # different ones; they repeat
    ff_mult: int = 2
    conv_layers: int = 4
    dropout: float = DROPOUT


SIZES = {
    "cpu_small": Size(dim=384, depth=8, heads=6, text_dim=256, batch_frames=3200, max_clips=64, num_batches=5),
    "cpu_wide": Size(dim=512, depth=12, heads=8, text_dim=256, batch_frames=3200, max_clips=64, num_batches=5),
    "quickstart": Size(  # of the recipe `from_scratch`
        dim=128,
        depth=4,
        heads=2,
        text_dim=128,
        conv_layers=2,
        dropout=0.0,
        batch_frames=1600,
        max_clips=64,
        num_batches=2,
    ),
    "small_batch": Size(dim=384, depth=8, heads=6, text_dim=256, batch_frames=1600, max_clips=64, num_batches=1),
    "one_layer": Size(dim=1024, depth=1, heads=16, text_dim=512, batch_frames=1600, max_clips=64, num_batches=1),
    "base": Size(dim=1024, depth=22, heads=16, text_dim=512, batch_frames=38_400, max_clips=64, num_batches=5),
    "smoke": Size(dim=64, depth=2, heads=1, text_dim=32, batch_frames=800, max_clips=8, num_batches=5),
}


@dataclass(frozen=True)
class Clips:
    """One batch, not yet padded."""

    mels: list[np.ndarray]  # (n, N_MELS) float32, natural log
    texts: list[list[str]]  # characters

    @property
    def num_frames(self) -> int:
        return sum(len(mel) for mel in self.mels)


def vocab() -> list[str]:
    """Return as many tokens as the published nets have; the texts use the first few."""
    return [*ALPHABET, *(f"<{i}>" for i in range(VOCAB_SIZE - len(ALPHABET)))]


def make_batches(size: Size) -> list[Clips]:
    """Draw clips with LJSpeech's lengths (1.1 to 10.1 s, 6.6 s on average) and fill batches as upstream does.

    Upstream sorts the clips by length once and fills a batch while its real frames fit the budget.
    """
    rng = np.random.RandomState(0)
    num_clips = int(1.2 * size.num_batches * size.batch_frames / (6.6 * FRAMES_PER_S))
    seconds = np.clip(rng.normal(6.6, 2.2, num_clips), 1.1, 10.1)
    batches = list(_fill(sorted(seconds * FRAMES_PER_S), size))
    order = rng.permutation(len(batches))[: size.num_batches]
    return [Clips(*_draw(batches[index], rng)) for index in order]


def _fill(lengths: list[float], size: Size) -> Iterator[list[int]]:
    batch: list[int] = []
    for length in (round(length) for length in lengths):
        if sum(batch) + length > size.batch_frames or len(batch) == size.max_clips:
            yield batch
            batch = []
        batch.append(length)


def _draw(lengths: list[int], rng: np.random.RandomState) -> tuple[list[np.ndarray], list[list[str]]]:
    mels = [(rng.standard_normal((length, N_MELS)) * 2 - 4).astype(np.float32) for length in lengths]
    counts = [max(2, round(length / FRAMES_PER_S * CHARACTERS_PER_S)) for length in lengths]
    return mels, [[ALPHABET[i] for i in rng.randint(0, len(ALPHABET), count)] for count in counts]
