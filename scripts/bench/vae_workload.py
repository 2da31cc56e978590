"""What both sides of the VAE's benchmark train on: the same nets, the same clips. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 32_000
HOP_LENGTH = 640
FRAMES_PER_S = SAMPLE_RATE // HOP_LENGTH
PHONES_PER_S = 13.0
SYMBOLS = 732
SSL_CHANNELS = 768
DROPOUT = 0.1
LR = 1e-4
TEXT_LR_SCALE = 0.4
BETAS = (0.8, 0.99)
EPS = 1e-9
WEIGHT_DECAY = 0.01
TOTAL_STEPS = 1_000_000
NUM_BATCHES = 2  # different ones; they repeat


@dataclass(frozen=True)
class Size:
    """A net and a batch. The discriminator is the published one, unless its widest layer is said to be narrower."""

    inter_channels: int
    filter_channels: int
    n_layers: int
    upsample_initial_channel: int
    segment_size: int
    clips: int
    discriminator_channels: int = 1024
    dropout: float = DROPOUT


SIZES = {
    "tiny": Size(24, 64, 2, 64, segment_size=5_120, clips=2, discriminator_channels=32, dropout=0.0),  # smoke recipes'
    "published_discriminator": Size(96, 256, 2, 128, segment_size=10_240, clips=1),
    "cpu_small": Size(96, 256, 2, 128, segment_size=10_240, clips=4),  # s2_v2_reduced of the fixtures' report
    "v2": Size(192, 768, 6, 512, segment_size=20_480, clips=2),
    "smoke": Size(24, 64, 2, 64, segment_size=5_120, clips=2),
}


@dataclass(frozen=True)
class Clip:
    wav: np.ndarray  # (t,) float32
    ssl: np.ndarray  # (SSL_CHANNELS, n) float32, 50 frames a second
    phones: np.ndarray  # (p,) int64

    @property
    def num_frames(self) -> int:
        return len(self.wav) // HOP_LENGTH


def make_batches(size: Size) -> list[list[Clip]]:
    """Draw clips with LJSpeech's lengths (1.1 to 10.1 s, 6.6 s on average), each batch sorted as upstream's collate."""
    rng = np.random.RandomState(0)
    batches = []
    for _ in range(NUM_BATCHES):
        seconds = np.clip(rng.normal(6.6, 2.2, size.clips), 1.1, 10.1)
        batches.append([_draw(round(s * FRAMES_PER_S), rng) for s in sorted(seconds, reverse=True)])
    return batches


def width(clips: list[Clip]) -> int:
    """Return the frames that a batch is padded to, as upstream's collate: even."""
    return 2 * (max(clip.num_frames for clip in clips) // 2 + 1)


def _draw(frames: int, rng: np.random.RandomState) -> Clip:
    count = max(2, round(frames / FRAMES_PER_S * PHONES_PER_S))
    return Clip(
        wav=(0.1 * rng.standard_normal(frames * HOP_LENGTH)).astype(np.float32),
        ssl=rng.standard_normal((SSL_CHANNELS, frames)).astype(np.float32),
        phones=rng.randint(1, SYMBOLS, count),
    )
