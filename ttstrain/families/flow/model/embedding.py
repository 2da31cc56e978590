"""What enters the blocks: flow time, text, and the frames themselves.

Legend: b clips, n frames, s text positions as given, d width, t text width, m mel bins.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.flow.config import CONV_GROUPS
from ttstrain.families.flow.shapes import CONV_KERNEL, TEXT_KERNEL, TIME_FREQUENCIES
from ttstrain.modules.cpu.frame_convolution import FrameConv1d
from ttstrain.modules.padding import zero_padding


class TimeEmbedding(nn.Module):
    """Sinusoids of the flow time through a small MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Embed times (b,) in [0, 1] as (b, d)."""
        out: Tensor = self.time_mlp(time_sinusoids(time))
        return out


def time_sinusoids(time: Tensor) -> Tensor:
    """Return [sin | cos] of 1000 x time at geometric frequencies (b, TIME_FREQUENCIES), in float32."""
    half = TIME_FREQUENCIES // 2
    frequencies = torch.exp(torch.arange(half, device=time.device).float() * (-math.log(10_000) / (half - 1)))
    angles = 1000.0 * time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def text_sinusoids(num_positions: int, dim: int, *, device: torch.device) -> Tensor:
    """Return the text's position table [cos | sin] (n, t), halves one after the other."""
    frequencies = 1.0 / 10_000 ** (torch.arange(0, dim, 2, device=device).float() / dim)
    angles = torch.arange(num_positions, device=device).float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GlobalResponseNorm(nn.Module):
    """Divide each channel's norm over the text by the mean norm of all channels, as in ConvNeXt V2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor, *, constant: Tensor | None = None, repeats: int = 0) -> Tensor:
        """Normalize (b, n, c) as if `repeats` further positions followed that all hold `constant` (1, 1, c)."""
        # Padding counts, as upstream.
        counted = x if constant is None else torch.cat([x, (constant * math.sqrt(repeats)).expand(len(x), -1, -1)], 1)
        norm = torch.linalg.vector_norm(counted, dim=1, keepdim=True)  # (b, 1, c)
        ratio = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return torch.addcmul(self.beta, x, 1 + self.gamma * ratio)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt V2 block along the text."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=TEXT_KERNEL, padding=TEXT_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 2 * dim)
        self.grn = GlobalResponseNorm(2 * dim)
        self.pwconv2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, *, zeros_after: int = 0) -> Tensor:
        """Transform (b, n, t) as if `zeros_after` positions of zeros followed, and leave those out.

        Exact where the last three of the n positions are zeros too: then the convolution sees nothing but its bias
        beyond them, and every position there has one and the same hidden vector.
        """
        hidden = self._hidden(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        constant = (
            self._hidden(self.dwconv.bias.view(1, 1, -1)) if zeros_after and self.dwconv.bias is not None else None
        )
        out: Tensor = x + self.pwconv2(self.grn(hidden, constant=constant, repeats=zeros_after))
        return out

    def _hidden(self, x: Tensor) -> Tensor:
        return F.gelu(self.pwconv1(self.norm(x)))


class TextEmbedding(nn.Module):
    """Embed text at the length of the mel: token ids, filler after them, positions, ConvNeXt blocks.

    `fill` says how far the filler reaches: to each clip's own last frame (DiT) or to the batch's (UNetT).
    """

    def __init__(
        self,
        num_tokens: int,
        dim: int,
        *,
        conv_layers: int,
        mask_padding: bool,
        fill: Literal["clip", "batch"],
        average_upsampling: bool = False,
    ) -> None:
        super().__init__()
        self.fill = fill
        self.mask_padding = mask_padding
        self.average_upsampling = average_upsampling
        self.text_embed = nn.Embedding(num_tokens + 1, dim)  # row 0 is the filler
        self.text_blocks = nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(conv_layers)))

    def forward(self, text: Tensor, *, num_frames: int, lengths: Tensor | None, drop: Tensor | None = None) -> Tensor:
        """Embed vocab indices (b, s), -1 after each text, as (b, w, t): frames after the first w hold zeros.

        `lengths` (b,) are the clips' frames, where there is padding: text and positions end with them. `drop` (b,)
        hides texts; where `mask_padding` holds, the length of a hidden text still shows, as upstream.
        """
        if self.fill == "batch":
            lengths = None
        masked = self.mask_padding and len(self.text_blocks) > 0
        # Where the filler is masked, only the text and the reach of one convolution after it need computing.
        width = min(num_frames, text.shape[1] + TEXT_KERNEL // 2) if masked else num_frames
        ids = F.pad((text + 1)[:, :width], (0, max(0, width - text.shape[1])))  # (b, w)
        position = torch.arange(width, device=text.device)
        within = None if lengths is None else position < lengths[:, None]  # (b, w)
        if within is not None:
            ids = ids.masked_fill(~within, 0)
        spoken = ids != 0  # (b, w): before texts are hidden
        if drop is not None:
            ids = ids.masked_fill(drop[:, None], 0)
        x: Tensor = self.text_embed(ids)  # (b, w, t)
        if len(self.text_blocks):
            x = x + text_sinusoids(width, x.shape[-1], device=x.device)
        if within is not None:
            x = zero_padding(x, within)
        if masked:
            x = zero_padding(x, spoken)
        for block in self.text_blocks:
            x = block(x, zeros_after=num_frames - width)
            if masked:
                x = zero_padding(x, spoken)
        if self.average_upsampling:
            return _spread(F.pad(x, (0, 0, 0, num_frames - width)), num_tokens=spoken.sum(-1), lengths=lengths)
        return x


def _spread(x: Tensor, *, num_tokens: Tensor, lengths: Tensor | None) -> Tensor:
    """Repeat each clip's tokens until they fill its frames; the last `frames % tokens` of them once more."""
    position = torch.arange(x.shape[1], device=x.device)  # (n,)
    frames = torch.full_like(num_tokens, x.shape[1]) if lengths is None else lengths
    tokens = num_tokens.clamp(min=1)
    repeats = frames // tokens  # (b,)
    longer = frames % tokens
    border = ((tokens - longer) * repeats)[:, None]  # (b, 1): frames before the tokens that come once more
    early = position // repeats[:, None]
    late = (tokens - longer)[:, None] + (position - border) // (repeats + 1)[:, None]
    source = torch.where(position < border, early, late)  # (b, n)
    outside = (position >= frames[:, None]) | (num_tokens == 0)[:, None]
    source = source.masked_fill(outside, 0)
    spread = x.gather(1, source.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return spread.masked_fill(outside.unsqueeze(-1), 0.0)


class ConvPositionEmbedding(nn.Module):
    """Positions from two grouped convolutions over the frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first, second = (FrameConv1d(dim, CONV_KERNEL, groups=CONV_GROUPS) for _ in range(2))
        self.conv1d = nn.Sequential(first, nn.Mish(), second, nn.Mish())

    def forward(self, x: Tensor, *, mask: Tensor | None) -> Tensor:
        """Convolve (b, n, d); with a mask (b, n), padded frames are zeros before and after each convolution."""
        if mask is not None:
            x = zero_padding(x, mask)
        for layer in self.conv1d:
            x = layer(x)
            if mask is not None and isinstance(layer, FrameConv1d):
                x = zero_padding(x, mask)
        return x


class InputEmbedding(nn.Module):
    """Join noised mel, conditioning mel and text in one vector per frame."""

    def __init__(self, n_mels: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(2 * n_mels + text_dim, dim)
        self.conv_pos_embed = ConvPositionEmbedding(dim)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Embed x and cond (b, n, m) and text (b, w, t), zeros after its w frames, as (b, n, d)."""
        spoken = F.pad(text, (0, 0, 0, x.shape[1] - text.shape[1]))  # (b, n, t)
        frames = self.proj(torch.cat([x, cond, spoken], dim=-1))
        out: Tensor = self.conv_pos_embed(frames, mask=mask) + frames
        return out
