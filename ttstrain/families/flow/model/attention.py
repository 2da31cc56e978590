"""Self-attention with rotary positions: the one place where attention is computed.

Legend: b clips, n frames, d width, h heads, k width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.modules.dropout import Dropout


class RotaryEmbedding(nn.Module):
    """Make the rotation of every position, once per forward pass.

    `inv_freq` is in upstream's state dict, so it is a persistent buffer here.
    """

    inv_freq: Tensor

    def __init__(self, dim_head: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10_000 ** (torch.arange(0, dim_head, 2).float() / dim_head))

    def forward(self, num_positions: int) -> Tensor:
        """Return the rotations (n, 1, k/2, 2): cosine and sine, in float32 whatever the precision."""
        positions = torch.arange(num_positions, device=self.inv_freq.device, dtype=torch.float32)
        angles = positions[:, None, None] * self.inv_freq.float()
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))


def rotate(x: Tensor, rotations: Tensor, *, num_heads: int | None = None) -> Tensor:
    """Turn the pairs (x0, x1), (x2, x3), ... of each head (b, n, h, k); with `num_heads`, of the first heads only."""
    if num_heads is not None and num_heads < x.shape[2]:
        return torch.cat([rotate(x[:, :, :num_heads], rotations), x[:, :, num_heads:]], dim=2)
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)  # (b, n, h, k/2, 2)
    if torch.compiler.is_compiling():  # the compiler has no complex numbers
        (first, second), (cosine, sine) = pairs.unbind(-1), rotations.unbind(-1)
        turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotations))
    return turned.flatten(-2).type_as(x)


def attend(query: Tensor, key: Tensor, value: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """Attend from every frame to every frame, each (b, n, h, k); `key_mask` (b, n) hides keys where false."""
    mask = None if key_mask is None else key_mask[:, None, None, :]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


class HeadNorm(nn.Module):
    """RMS norm over one head's width, eps as upstream's."""

    def __init__(self, dim_head: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim_head))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.type_as(x), 1e-6)


class Attention(nn.Module):
    """Multi-head self-attention over frames."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        dim_head: int,
        dropout: float,
        qk_norm: str | None,
        rotary_heads: int | None,
        hide_padding: bool,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.rotary_heads = rotary_heads
        self.hide_padding = hide_padding
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(dim, inner)
        self.to_v = nn.Linear(dim, inner)
        if qk_norm is not None:
            self.q_norm: nn.Module = HeadNorm(dim_head)
            self.k_norm: nn.Module = HeadNorm(dim_head)
        else:
            self.q_norm = nn.Identity()
            self.k_norm = nn.Identity()
        self.to_out = nn.Sequential(nn.Linear(inner, dim), Dropout(dropout, inplace=True))

    def forward(self, x: Tensor, *, rotations: Tensor, mask: Tensor | None) -> Tensor:
        """Attend over x (b, n, d); `mask` (b, n) is false at padded frames, whose rows come out as zeros."""
        query = self.q_norm(self.to_q(x).unflatten(-1, (self.heads, -1)))  # (b, n, h, k)
        key = self.k_norm(self.to_k(x).unflatten(-1, (self.heads, -1)))
        value = self.to_v(x).unflatten(-1, (self.heads, -1))
        query = rotate(query, rotations, num_heads=self.rotary_heads)
        key = rotate(key, rotations, num_heads=self.rotary_heads)
        # Upstream's default lets frames attend to padding and only clears the padded rows of the result.
        out = attend(query, key, value, key_mask=mask if self.hide_padding else None)
        project, drop = self.to_out
        cleared: Tensor = drop(project(out.flatten(2)), kept=mask)
        return cleared


class FeedForward(nn.Module):
    """Linear, tanh GELU, dropout, linear."""

    def __init__(self, dim: int, *, mult: int, dropout: float) -> None:
        super().__init__()
        self.ff = nn.Sequential(
            nn.Sequential(nn.Linear(dim, dim * mult), nn.GELU(approximate="tanh")),
            Dropout(dropout, inplace=True),
            nn.Linear(dim * mult, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ff(x)
        return out
