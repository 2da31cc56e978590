"""The flat U-Net transformer of E2-TTS.

Legend: b clips, n frames, d width, m mel bins, t text width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model.attention import Attention, FeedForward, RotaryEmbedding
from ttstrain.families.flow.model.embedding import InputEmbedding, TextEmbedding, TimeEmbedding


class UnitNorm(nn.Module):
    """Scale each frame to length sqrt(d), times a gain per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        unit: Tensor = F.normalize(x, dim=-1)
        return unit * (self.scale * self.g)


class UNetBlock(nn.ModuleList):
    """Skip projection, norm, attention, norm, feed-forward; a list, because upstream's keys are its numbers."""

    def __init__(self, config: FlowConfig, *, joins: bool) -> None:
        skip = nn.Linear(2 * config.dim, config.dim, bias=False) if joins else nn.Identity()
        attention = Attention(
            config.dim,
            heads=config.heads,
            dim_head=config.dim_head,
            dropout=config.dropout,
            qk_norm=config.qk_norm,
            rotary_heads=config.pe_attn_head,
            hide_padding=config.attn_mask_enabled,
        )
        feed_forward = FeedForward(config.dim, mult=config.ff_mult, dropout=config.dropout)
        super().__init__([skip, UnitNorm(config.dim), attention, UnitNorm(config.dim), feed_forward])

    def forward(self, x: Tensor, rotations: Tensor, mask: Tensor | None) -> Tensor:
        skip, attention_norm, attention, feed_forward_norm, feed_forward = self
        x = skip(x)
        x = attention(attention_norm(x), rotations=rotations, mask=mask) + x
        out: Tensor = feed_forward(feed_forward_norm(x)) + x
        return out


class UNetT(nn.Module):
    """Predict the flow's velocity; the second half of the blocks sees what entered the first, last in first out."""

    def __init__(self, config: FlowConfig, *, num_tokens: int) -> None:
        super().__init__()
        self.checkpoint_activations = config.checkpoint_activations
        self.skip_connect_type = config.skip_connect_type
        self.time_embed = TimeEmbedding(config.dim)
        self.text_embed = TextEmbedding(
            num_tokens,
            config.text_dim,
            conv_layers=config.conv_layers,
            mask_padding=config.text_mask_padding,
            fill="batch",
        )
        self.input_embed = InputEmbedding(config.n_mels, config.text_dim, config.dim)
        self.rotary_embed = RotaryEmbedding(config.dim_head)
        concat = config.skip_connect_type == "concat"
        self.layers = nn.ModuleList(
            UNetBlock(config, joins=concat and layer >= config.depth // 2) for layer in range(config.depth)
        )
        self.norm_out = UnitNorm(config.dim)
        self.proj_out = nn.Linear(config.dim, config.n_mels)

    @property
    def blocks(self) -> list[nn.Module]:
        """The attentions and feed-forwards of all layers: a layer is a list, and FSDP2 takes none."""
        return [block for layer in self.layers for block in list(layer.children())[2::2]]

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, time: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the velocity (b, n, m); arguments as those of `DiT.forward`."""
        # Upstream gives the position convolution no mask here.
        x = self.input_embed(x, cond, text)
        x = torch.cat([self.time_embed(time)[:, None].type_as(x), x], dim=1)  # (b, 1 + n, d)
        if mask is not None:
            mask = F.pad(mask, (1, 0), value=True)
        rotations = self.rotary_embed(x.shape[1])
        skips: list[Tensor] = []
        for number, block in enumerate(self.layers):
            if number < len(self.layers) // 2:
                skips.append(x)
            else:
                x = self._join(x, skips.pop())
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, rotations, mask, use_reentrant=False)
            else:
                x = block(x, rotations, mask)
        out: Tensor = self.proj_out(self.norm_out(x)[:, 1:])
        return out

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.skip_connect_type == "concat":
            return torch.cat([x, skip], dim=-1)
        return x + skip if self.skip_connect_type == "add" else x
