"""Both nets.

Legend: b clips, n positions, s bytes of text, c speech tokens, f mel frames, m mel bins, d width, h heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.cosy.config import FRAMES_PER_TOKEN, NUM_BYTES, CosyConfig, NetConfig

START, TURN = 0, 1  # marks: the text begins, speech begins


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        d = config.dim
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm1 = nn.LayerNorm(d)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.norm2 = nn.LayerNorm(d)
        self.widen, self.narrow = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return new states (b, n, d); `mask` (b, 1, n, n) or (b, 1, 1, n) is true where a position may look."""
        given = self.norm1(x)
        parts = [
            part(given).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        ]
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)  # (b, h, n, d / h)
        x = x + self._drop(self.out(seen.transpose(1, 2).flatten(2)))
        return x + self._drop(self.narrow(F.gelu(self.widen(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Layout(NamedTuple):
    """The rows of a batch: start, text, turn, speech tokens, with the padding of both left in its place."""

    valid: Tensor  # (b, n) bool, true where there is a token
    positions: Tensor  # (b, n) int64: of a token among its row's tokens


class Llm(nn.Module):
    """A causal transformer that continues a text with its speech tokens."""

    def __init__(self, config: CosyConfig) -> None:
        super().__init__()
        d = config.llm.dim
        self.text_embedding = nn.Embedding(NUM_BYTES, d)
        self.marks = nn.Embedding(2, d)
        self.speech_embedding = nn.Embedding(config.num_codes, d)
        self.blocks = nn.ModuleList(Block(config.llm) for _ in range(config.llm.depth))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, config.num_codes + 1)  # the last is the end of speech

    def forward(self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor) -> Tensor:
        """Return logits (b, c + 1, codes + 1) of each speech token, and of what comes after the last."""
        num_clips = len(text)
        marks = self.marks.weight.expand(num_clips, 2, -1)
        start, turn = marks[:, START : START + 1], marks[:, TURN : TURN + 1]
        x = torch.cat([start, self.text_embedding(text), turn, self.speech_embedding(codes)], dim=1)  # (b, n, d)
        valid, positions = _layout(text, text_lengths, codes, code_lengths)
        x = x + waves(positions.to(x.dtype), x.shape[2])
        n = x.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        mask = (causal & valid[:, None, :])[:, None]  # (b, 1, n, n); the start is valid: no row is empty
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.head(self.norm(x[:, text.shape[1] + 1 :]))
        return logits


def _layout(text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor) -> Layout:
    mark = torch.ones(len(text), 1, dtype=torch.bool, device=text.device)
    spoken = within(code_lengths, codes.shape[1])
    valid = torch.cat([mark, within(text_lengths, text.shape[1]), mark, spoken], dim=1)
    return Layout(valid, (valid.cumsum(1) - 1).clamp(min=0))


class Flow(nn.Module):
    """A transformer that tells where a noisy mel should move, given the speech tokens of its frames."""

    def __init__(self, config: CosyConfig) -> None:
        super().__init__()
        d = config.flow.dim
        self.code_embedding = nn.Embedding(config.num_codes, d)
        self.input = nn.Linear(config.n_mels, d)
        self.time = nn.Linear(d, d)
        self.blocks = nn.ModuleList(Block(config.flow) for _ in range(config.flow.depth))
        self.norm = nn.LayerNorm(d)
        self.output = nn.Linear(d, config.n_mels)

    def forward(self, mel: Tensor, codes: Tensor, time: Tensor, lengths: Tensor) -> Tensor:
        """Return velocities (b, f, m) of mels at times (b,) in [0, 1]."""
        num_frames = mel.shape[1]
        told = self.code_embedding(codes).repeat_interleave(FRAMES_PER_TOKEN, dim=1)[:, :num_frames]
        x = self.input(mel) + told
        places = torch.arange(num_frames, device=mel.device, dtype=x.dtype)
        x = x + waves(places, x.shape[2]) + self.time(waves(1000 * time.to(x.dtype), x.shape[2]))[:, None]
        mask = within(lengths, num_frames)[:, None, None]  # (b, 1, 1, f)
        for block in self.blocks:
            x = block(x, mask)
        velocity: Tensor = self.output(self.norm(x))
        return velocity


def within(lengths: Tensor, size: int) -> Tensor:
    """Return (b, size), true before each length (b,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def waves(positions: Tensor, width: int) -> Tensor:
    """Return sines and cosines (..., width) of positions (...), as the first transformer had them."""
    rates = torch.arange(width // 2, device=positions.device, dtype=positions.dtype) * (
        -math.log(10_000) / (width // 2)
    )
    angles = positions[..., None] * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
