"""The text encoder's transformers: self-attention with relative positions, and attention from sound to text.

Legend: b clips, h heads, c channels, n frames or phonemes, m of what is looked at, w 2 * window + 1 distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import MRTE_CHANNELS, RELATIVE_WINDOW
from ttstrain.families.gpt_sovits.vae.layers import ChannelNorm
from ttstrain.modules.dropout import Dropout

MASKED = -1e4  # score of masked positions, as upstream; a row with all positions masked gets uniform weights
MRTE_HEADS = 4


class Attention(nn.Module):
    """Multi-head attention over (b, c, n), whose window adds learned vectors for near distances (arXiv 1803.02155)."""

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0, window: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        width = channels // heads
        if window is not None:
            shape = (1, 2 * window + 1, width)  # shared by the heads
            self.emb_rel_k = nn.Parameter(torch.randn(shape) * width**-0.5)
            self.emb_rel_v = nn.Parameter(torch.randn(shape) * width**-0.5)
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.drop = Dropout(dropout)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Look from x (b, c, n) at `seen` (b, c, m), as far as `mask` (b, 1, n, m) is not 0."""
        query = self._split(self.conv_q(x)) / math.sqrt(x.shape[1] // self.heads)  # (b, h, n, c / h)
        key, value = self._split(self.conv_k(seen)), self._split(self.conv_v(seen))
        scores = query @ key.mT  # (b, h, n, m)
        near = None if self.window is None else _near(x.shape[2], self.window, x.device)
        if near is not None:
            index, inside = (table.expand(*scores.shape[:2], -1, -1) for table in near)
            by_distance = query @ self.emb_rel_k.mT  # (b, h, n, w)
            scores = scores.scatter_add(-1, index, (by_distance * inside).to(scores.dtype))
        weights = self.drop(scores.float().masked_fill(mask == 0, MASKED).softmax(dim=-1)).to(value.dtype)
        output = weights @ value
        if near is not None:
            output = output + (weights.gather(-1, index) * inside).to(value.dtype) @ self.emb_rel_v
        merged: Tensor = self.conv_o(output.mT.reshape(x.shape[0], -1, x.shape[2]))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], self.heads, -1, x.shape[2]).mT


def _near(length: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which positions lie within the window of each, (n, w), and 1.0 where there is one."""
    positions = torch.arange(length, device=device)[:, None] + torch.arange(-window, window + 1, device=device)
    return positions.clamp(0, length - 1), ((positions >= 0) & (positions < length)).float()


class FeedForward(nn.Module):
    """Two convolutions over neighbouring frames."""

    def __init__(self, channels: int, inner: int, kernel: int, *, dropout: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, inner, kernel)
        self.conv_2 = nn.Conv1d(inner, channels, kernel)
        self.drop = Dropout(dropout)
        self.pad = ((kernel - 1) // 2, kernel // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.drop(self.conv_1(nn.functional.pad(x * mask, self.pad)).relu())
        y: Tensor = self.conv_2(nn.functional.pad(x * mask, self.pad)) * mask
        return y


class Encoder(nn.Module):
    """A transformer that normalizes after each part."""

    def __init__(self, channels: int, inner: int, *, heads: int, layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        attentions = [Attention(channels, heads, dropout=dropout, window=RELATIVE_WINDOW) for _ in range(layers)]
        feed_forwards = [FeedForward(channels, inner, kernel, dropout=dropout) for _ in range(layers)]
        self.attn_layers = nn.ModuleList(attentions)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(feed_forwards)
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (b, c, n) of x (b, c, n); `mask` (b, 1, n) is 0 on padding."""
        pairs = (mask.mT @ mask)[:, None]  # (b, 1, n, n)
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in layers:
            x = norm_1(x + self.drop(attention(x, x, pairs)))
            x = norm_2(x + self.drop(feed_forward(x, mask)))
        return x * mask


class Mrte(nn.Module):
    """Multi-reference timbre encoder: sound attends to its text, and the speaker's style is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cross_attention = Attention(MRTE_CHANNELS, MRTE_HEADS)
        self.c_pre = nn.Conv1d(channels, MRTE_CHANNELS, 1)
        self.text_pre = nn.Conv1d(channels, MRTE_CHANNELS, 1)
        self.c_post = nn.Conv1d(MRTE_CHANNELS, channels, 1)

    def forward(self, x: Tensor, mask: Tensor, text: Tensor, text_mask: Tensor, style: Tensor) -> Tensor:
        """Return (b, c, n); `style` is (b, MRTE_CHANNELS, 1)."""
        x, text = self.c_pre(x * mask), self.text_pre(text * text_mask)
        pairs = (mask.mT @ text_mask)[:, None]  # (b, 1, n, m)
        x = self.cross_attention(x * mask, text * text_mask, pairs) + x + style
        mixed: Tensor = self.c_post(x * mask)
        return mixed
