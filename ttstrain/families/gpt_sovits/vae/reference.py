"""The reference encoder: a recording's style as one vector (Meta-StyleSpeech, arXiv 2106.03153).

Legend: b clips, f spectrogram bins, n frames, g style channels, d hidden channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import STYLE_HIDDEN, STYLE_KERNEL
from ttstrain.modules.dropout import Dropout

HEADS = 2
DROPOUT = 0.1  # upstream's, whatever the model's


class _Linear(nn.Module):
    """A linear layer under the name that upstream's wrapper gives it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


class _Conv(nn.Module):
    """A convolution under the name that upstream's wrapper gives it."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _GatedConv(nn.Module):
    """A gated convolution whose input is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Conv(STYLE_HIDDEN, 2 * STYLE_HIDDEN, STYLE_KERNEL)
        self.dropout = Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.dropout(F.glu(self.conv1(x), dim=1))
        return x + gated


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_qs = nn.Linear(STYLE_HIDDEN, STYLE_HIDDEN)
        self.w_ks = nn.Linear(STYLE_HIDDEN, STYLE_HIDDEN)
        self.w_vs = nn.Linear(STYLE_HIDDEN, STYLE_HIDDEN)
        self.fc = nn.Linear(STYLE_HIDDEN, STYLE_HIDDEN)
        self.drop = Dropout(DROPOUT)
        self.dropout = Dropout(DROPOUT)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return (b, n, d); `valid` (b, n) is false on padding."""
        query, key, value = (
            part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.w_qs, self.w_ks, self.w_vs)
        )  # (b, h, n, d / h)
        # Over the root of d, not of a head's width, as upstream.
        scores = query @ key.mT / STYLE_HIDDEN**0.5  # (b, h, n, n)
        weights = scores.float().masked_fill(~valid[:, None, None], -torch.inf).softmax(dim=-1)
        heard = self.drop(weights).to(value.dtype) @ value
        attended: Tensor = self.dropout(self.fc(heard.transpose(1, 2).flatten(2)))
        return attended + x


class StyleEncoder(nn.Module):
    """Turn the lowest bins of a linear spectrogram into a style."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.spectral = nn.Sequential(
            _Linear(inputs, STYLE_HIDDEN),
            nn.Mish(),
            Dropout(DROPOUT),
            _Linear(STYLE_HIDDEN, STYLE_HIDDEN),
            nn.Mish(),
            Dropout(DROPOUT),
        )
        self.temporal = nn.Sequential(_GatedConv(), _GatedConv())
        self.slf_attn = _SelfAttention()
        self.fc = _Linear(STYLE_HIDDEN, outputs)

    def forward(self, spec: Tensor, mask: Tensor) -> Tensor:
        """Return the style (b, g, 1) of spec (b, f, n), 0 where `mask` (b, 1, n) is 0.

        The convolutions look over a clip's end: what is padded, and how far, is part of the style, as upstream.
        """
        valid = mask[:, 0] > 0  # (b, n)
        x = self.temporal(self.spectral(spec.mT).mT).mT  # (b, n, d)
        x = self.fc(self.slf_attn(x.masked_fill(~valid[..., None], 0.0), valid))  # (b, n, g)
        lengths = valid.sum(dim=1)[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            mean: Tensor = (x.float().masked_fill(~valid[..., None], 0.0) / lengths).sum(dim=1)
        return mean.to(x.dtype)[..., None]
