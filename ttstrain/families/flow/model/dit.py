"""The diffusion transformer of F5-TTS, versions 0 and 1.

Legend: b clips, n frames, d width, m mel bins, t text width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model.attention import Attention, FeedForward, RotaryEmbedding
from ttstrain.families.flow.model.embedding import InputEmbedding, TextEmbedding, TimeEmbedding


def modulate(x: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize (b, n, d) over its width, then multiply it by 1 + `scale` and add `shift`, both (b, d)."""
    gain = 1 + scale
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=1e-6), gain[:, None])


class AdaptiveNorm(nn.Module):
    """Vectors that modulate a block, from the time embedding; zero at first, so that a fresh block does nothing."""

    def __init__(self, dim: int, *, num_vectors: int) -> None:
        super().__init__()
        self.num_vectors = num_vectors
        self.linear = nn.Linear(dim, num_vectors * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """Return `num_vectors` vectors (b, d) for an activated time embedding (b, d)."""
        vectors: Tensor = self.linear(time)
        return vectors.chunk(self.num_vectors, dim=-1)


class DiTBlock(nn.Module):
    """Attention and feed-forward, both modulated and gated by the flow time."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.attn_norm = AdaptiveNorm(config.dim, num_vectors=6)
        self.attn = Attention(
            config.dim,
            heads=config.heads,
            dim_head=config.dim_head,
            dropout=config.dropout,
            qk_norm=config.qk_norm,
            rotary_heads=config.pe_attn_head,
            hide_padding=config.attn_mask_enabled,
        )
        self.ff = FeedForward(config.dim, mult=config.ff_mult, dropout=config.dropout)

    def forward(self, x: Tensor, time: Tensor, rotations: Tensor, mask: Tensor | None) -> Tensor:
        # Order of the six vectors as in upstream's weights.
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self.attn_norm(time)
        attended = self.attn(modulate(x, shift=shift_attn, scale=scale_attn), rotations=rotations, mask=mask)
        x = torch.addcmul(x, gate_attn[:, None], attended)
        return torch.addcmul(x, gate_ff[:, None], self.ff(modulate(x, shift=shift_ff, scale=scale_ff)))


class OutputNorm(AdaptiveNorm):
    """The last modulation, whose vectors come as scale, then shift."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, num_vectors=2)


class DiT(nn.Module):
    """Predict the flow's velocity at every frame."""

    def __init__(self, config: FlowConfig, *, num_tokens: int) -> None:
        super().__init__()
        self.checkpoint_activations = config.checkpoint_activations
        self.time_embed = TimeEmbedding(config.dim)
        self.text_embed = TextEmbedding(
            num_tokens,
            config.text_dim,
            conv_layers=config.conv_layers,
            mask_padding=config.text_mask_padding,
            fill="clip",
            average_upsampling=config.text_embedding_average_upsampling,
        )
        self.input_embed = InputEmbedding(config.n_mels, config.text_dim, config.dim)
        self.rotary_embed = RotaryEmbedding(config.dim_head)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.long_skip_connection = (
            nn.Linear(2 * config.dim, config.dim, bias=False) if config.long_skip_connection else None
        )
        self.norm_out = OutputNorm(config.dim)
        self.proj_out = nn.Linear(config.dim, config.n_mels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in their order."""
        return list(self.transformer_blocks)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, time: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the velocity (b, n, m) at noised mels `x` and times (b,), given `cond` (b, n, m).

        `text` (b, w, t) comes from `text_embed`, which depends on neither `x` nor time; `mask` (b, n) is false at
        padded frames.
        """
        activated = F.silu(self.time_embed(time))  # (b, d), the same for every block
        x = self.input_embed(x, cond, text, mask=mask)
        first = x
        rotations = self.rotary_embed(x.shape[1])
        for block in self.transformer_blocks:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, activated, rotations, mask, use_reentrant=False)
            else:
                x = block(x, activated, rotations, mask)
        if self.long_skip_connection is not None:
            x = self.long_skip_connection(torch.cat([x, first], dim=-1))
        scale, shift = self.norm_out(activated)
        out: Tensor = self.proj_out(modulate(x, shift=shift, scale=scale))
        return out
