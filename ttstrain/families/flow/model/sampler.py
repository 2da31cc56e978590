"""From noise to a mel: the ODE solver with classifier-free guidance.

Legend: b clips, n frames, m mel bins, p prompt frames, s text positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.families.flow.model import FlowNet
from ttstrain.families.flow.model.cfm import frames_between

Method = Literal["euler", "midpoint"]

# Empirically pruned step grids of F5-TTS, in thirty-seconds.
_EPSS = {
    5: [0, 2, 4, 8, 16, 32],
    6: [0, 2, 4, 6, 8, 16, 32],
    7: [0, 2, 4, 6, 8, 16, 24, 32],
    10: [0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32],
    12: [0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32],
    16: [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32],
}


def time_grid(steps: int, *, sway: float | None, epss: bool, device: torch.device | None = None) -> Tensor:
    """Return the times (steps + 1,) from 0 to 1 at which the solver looks."""
    if epss and steps in _EPSS:
        time = torch.tensor(_EPSS[steps], dtype=torch.float32, device=device) / 32
    else:
        time = torch.linspace(0, 1, steps + 1, device=device)
    if sway is None:
        return time
    return time + sway * (torch.cos(torch.pi / 2 * time) - 1 + time)


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], y: Tensor, *, times: Tensor, method: Method
) -> Iterator[Tensor]:
    """Yield the state after each step of `dy/dt = velocity(t, y)` over a fixed grid."""
    for now, then in pairwise(times):
        step = then - now
        slope = velocity(now, y)
        if method == "midpoint":
            slope = velocity(now + step / 2, y + step / 2 * slope)
        y = y + step * slope
        yield y


def durations(wanted: Tensor, *, text: Tensor, prompt_lengths: Tensor) -> Tensor:
    """Return lengths (b,) in frames, prompt included, that leave room for every token and for one new frame."""
    least = torch.maximum((text != -1).sum(-1), prompt_lengths) + 1
    return torch.maximum(wanted, least)


def noise(lengths: Sequence[int], *, n_mels: int, seed: int) -> list[Tensor]:
    """Draw each clip's starting noise (n_i, m) on the CPU; every clip starts again from the seed, as upstream."""
    return [torch.randn(n, n_mels, generator=torch.Generator().manual_seed(seed)) for n in lengths]


def generate(
    net: FlowNet,
    prompt: Tensor,
    text: Tensor,
    *,
    lengths: Tensor,
    prompt_lengths: Tensor,
    noise: Sequence[Tensor],
    times: Tensor,
    cfg_strength: float,
    method: Method = "euler",
) -> Tensor:
    """Return the mels (b, n, m) at the end of `trajectory`, with the true prompt put back over their start."""
    mels = prompt
    for state in trajectory(
        net,
        prompt,
        text,
        lengths=lengths,
        prompt_lengths=prompt_lengths,
        noise=noise,
        times=times,
        cfg_strength=cfg_strength,
        method=method,
    ):
        mels = state
    shown = frames_between(0, prompt_lengths.to(mels.device), num_frames=mels.shape[1]).unsqueeze(-1)
    return torch.where(shown, F.pad(prompt, (0, 0, 0, mels.shape[1] - prompt.shape[1])), mels)


@torch.no_grad()
def trajectory(
    net: FlowNet,
    prompt: Tensor,
    text: Tensor,
    *,
    lengths: Tensor,
    prompt_lengths: Tensor,
    noise: Sequence[Tensor],
    times: Tensor,
    cfg_strength: float,
    method: Method = "euler",
) -> Iterator[Tensor]:
    """Yield the mels (b, n, m) after each solver step.

    `prompt` (b, p, m) is padded, `text` (b, s) holds vocab indices and -1 after each text, `lengths` and
    `prompt_lengths` (b,) count frames, `noise` holds one (n_i, m) per clip.
    """
    num_clips, num_frames = len(lengths), int(lengths.max())
    device = prompt.device
    lengths = lengths.to(device)
    # A single clip has no padding, and upstream gives it no mask.
    mask = frames_between(0, lengths, num_frames=num_frames) if num_clips > 1 else None
    shown = frames_between(0, prompt_lengths.to(device), num_frames=num_frames).unsqueeze(-1)
    cond = F.pad(prompt, (0, 0, 0, num_frames - prompt.shape[1])) * shown  # (b, n, m)
    start = torch.stack([F.pad(each.to(device), (0, 0, 0, num_frames - len(each))) for each in noise])  # (b, n, m)
    guided = cfg_strength >= 1e-5
    copies = 2 if guided else 1  # with the conditions, then without
    drop = torch.arange(copies, device=device).repeat_interleave(num_clips) == 1
    embedded = net.text_embed(
        text.to(device).repeat(copies, 1),
        num_frames=num_frames,
        lengths=None if mask is None else lengths.repeat(copies),
        drop=drop,
    )
    cond = cond.repeat(copies, 1, 1).masked_fill(drop[:, None, None], 0.0)
    mask = None if mask is None else mask.repeat(copies, 1)

    def velocity(time: Tensor, mels: Tensor) -> Tensor:
        repeated = mels.repeat(copies, 1, 1)
        out: Tensor = net(repeated, cond, embedded, time.expand(copies * num_clips), mask=mask).float()
        if not guided:
            return out
        conditional, unconditional = out[:num_clips], out[num_clips:]
        return conditional + cfg_strength * (conditional - unconditional)

    yield from integrate(velocity, start, times=times, method=method)
