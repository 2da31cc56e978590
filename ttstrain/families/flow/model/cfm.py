"""The training objective: fill in a hidden span of a mel, along a straight path from noise.

Legend: b clips, n frames, m mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttstrain.families.flow.config import CfmConfig


@dataclass(frozen=True, slots=True)
class FlowDraws:
    """The random choices of one micro-batch. Noise and times are drawn on the device unless they are given."""

    span_start: Tensor  # (b,) first hidden frame
    span_end: Tensor  # (b,) one past the last hidden frame
    drop_audio: Tensor  # (b,) bool: no conditioning mel at all
    drop_text: Tensor  # (b,) bool
    noise: Tensor | None = None  # (b, n, m)
    time: Tensor | None = None  # (b,) in [0, 1]

    def to(self, device: torch.device) -> FlowDraws:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return FlowDraws(
            span_start=move(self.span_start),
            span_end=move(self.span_end),
            drop_audio=move(self.drop_audio),
            drop_text=move(self.drop_text),
            noise=None if self.noise is None else move(self.noise),
            time=None if self.time is None else move(self.time),
        )


def draw(lengths: Tensor, config: CfmConfig) -> FlowDraws:
    """Choose spans and drops for clips of `lengths` (b,) frames, from torch's global CPU generator."""
    num_clips = len(lengths)
    low, high = config.frac_lengths
    fraction = torch.empty(num_clips).uniform_(low, high)
    start, end = spans(lengths, fraction=fraction, position=torch.rand(num_clips), kind=config.span)
    # One choice for all clips of the micro-batch, as upstream, or one for each.
    hide_audio, hide_both = torch.rand(2, 1 if config.drop == "batch" else num_clips)
    drop_text = (hide_both < config.cond_drop_prob).expand(num_clips).clone()
    drop_audio = (hide_audio < config.audio_drop_prob) | drop_text
    return FlowDraws(span_start=start, span_end=end, drop_audio=drop_audio, drop_text=drop_text)


def spans(
    lengths: Tensor, *, fraction: Tensor, position: Tensor, kind: Literal["upstream", "inclusive"]
) -> tuple[Tensor, Tensor]:
    """Return first frames and ends (b,) of spans that hide a `fraction` of each clip at a relative `position`.

    Upstream's rounding never lets a span reach a clip's last frame; `inclusive` spans may.
    """
    size = (fraction * lengths).long()
    room = lengths - size + (1 if kind == "inclusive" else 0)
    start = (room * position).long()
    return start, start + size


@dataclass(frozen=True, slots=True)
class Noised:
    """One point on each clip's way from noise to speech: what the net is given there, and what it should answer."""

    x: Tensor  # (b, n, m)
    cond: Tensor  # (b, n, m), zero where the net is shown nothing
    velocity: Tensor  # (b, n, m)


def noised(mel: Tensor, *, noise: Tensor, time: Tensor, hidden: Tensor) -> Noised:
    """Go to one time of each clip's way: `mel` and `noise` (b, n, m), `time` (b,), `hidden` (b, n)."""
    velocity = mel - noise
    x = torch.addcmul(noise, time[:, None, None], velocity)
    return Noised(x, cond=mel.masked_fill(hidden.unsqueeze(-1), 0.0), velocity=velocity)


def squared_error(answer: Tensor, velocity: Tensor, *, within: Tensor) -> Tensor:
    """Return the mean over mel bins of the squared error, summed over each clip's frames `within` (b, n), as (b,)."""
    error = (answer.float() - velocity).square().mean(-1)  # (b, n)
    return (error * within).sum(-1)


def frames_between(start: Tensor | int, end: Tensor, *, num_frames: int) -> Tensor:
    """Return (b, num_frames), true from `start` to before `end` of each clip."""
    frame = torch.arange(num_frames, device=end.device)
    first = start[:, None] if isinstance(start, Tensor) else start
    return (frame >= first) & (frame < end[:, None])
