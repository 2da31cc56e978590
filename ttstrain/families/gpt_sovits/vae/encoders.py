"""The encoders: the prior from tokens and text, the posterior from the recording.

Legend: b clips, c channels, n frames (50 a second), s semantic tokens (25 a second), p phonemes, g style channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import (
    FLOW_LAYERS,
    FLOWS,
    POSTERIOR_LAYERS,
    SPEC_CHANNELS,
    SSL_CHANNELS,
    SYMBOLS,
    WAVENET_KERNEL,
)
from ttstrain.families.gpt_sovits.vae.attention import Encoder, Mrte
from ttstrain.families.gpt_sovits.vae.layers import NormedConv1d

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import VaeNetConfig, Version


class TextEncoder(nn.Module):
    """Mean and log deviation of the prior, from semantic tokens, phonemes and the speaker's style."""

    def __init__(self, config: VaeNetConfig, version: Version) -> None:
        super().__init__()
        hidden = config.hidden_channels
        self.ssl_proj = nn.Conv1d(SSL_CHANNELS, hidden, 1)
        self.encoder_ssl = _encoder(config, config.n_layers // 2)
        self.encoder_text = _encoder(config, config.n_layers)
        self.text_embedding = nn.Embedding(SYMBOLS[version], hidden)
        nn.init.normal_(self.text_embedding.weight, std=hidden**-0.5)
        self.mrte = Mrte(hidden)
        self.encoder2 = _encoder(config, config.n_layers // 2)
        self.proj = nn.Conv1d(hidden, 2 * config.inter_channels, 1)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        phones: Tensor,
        phone_mask: Tensor,
        style: Tensor,
        *,
        speed: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and log deviation (b, c, n), and the mask (b, 1, n) after a change of speed.

        `tokens` (b, 768, s) are vectors of the codebook; each stands for two frames. `mask` is (b, 1, 2 s).
        """
        # A token's projection is computed once, not for each of its two frames.
        x = self.ssl_proj(tokens).repeat_interleave(2, dim=2) * mask  # (b, c, n)
        x = self.encoder_ssl(x, mask)
        text = self.encoder_text(self.text_embedding(phones).mT, phone_mask)
        x = self.mrte(x, mask, text, phone_mask, style)
        x = self.encoder2(x * mask, mask)
        if speed != 1.0:
            x = F.interpolate(x, size=int(x.shape[2] / speed) + 1, mode="linear")
            mask = F.interpolate(mask, size=x.shape[2], mode="nearest")
        mean, log_std = (self.proj(x) * mask).chunk(2, dim=1)
        return mean, log_std, mask


def _encoder(config: VaeNetConfig, layers: int) -> Encoder:
    return Encoder(
        config.hidden_channels,
        config.filter_channels,
        heads=config.n_heads,
        layers=layers,
        kernel=config.kernel_size,
        dropout=config.p_dropout,
    )


class WaveNet(nn.Module):
    """Gated convolutions with skip connections, each conditioned on the style."""

    def __init__(self, hidden: int, *, layers: int, style: int) -> None:
        super().__init__()
        self.hidden = hidden
        last = layers - 1
        self.in_layers = nn.ModuleList(NormedConv1d(hidden, 2 * hidden, WAVENET_KERNEL) for _ in range(layers))
        self.res_skip_layers = nn.ModuleList(
            NormedConv1d(hidden, hidden if i == last else 2 * hidden, 1) for i in range(layers)
        )
        self.cond_layer = NormedConv1d(style, 2 * hidden * layers, 1)

    def forward(self, x: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Return (b, c, n); `style` is (b, g, 1)."""
        skipped: Tensor | None = None
        conditions = self.cond_layer(style).chunk(len(self.in_layers), dim=1)
        for i, (inner, outer) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            filtered, gate = (inner(x) + conditions[i]).chunk(2, dim=1)
            output = outer(filtered.tanh() * gate.sigmoid())
            if i < len(self.in_layers) - 1:
                residual, output = output.split(self.hidden, dim=1)
                x = (x + residual) * mask
            skipped = output if skipped is None else skipped + output
        assert skipped is not None
        return skipped * mask


class PosteriorEncoder(nn.Module):
    """The latent of a recording: mean and log deviation from its linear spectrogram."""

    def __init__(self, config: VaeNetConfig) -> None:
        super().__init__()
        hidden = config.hidden_channels
        self.pre = nn.Conv1d(SPEC_CHANNELS, hidden, 1)
        self.enc = WaveNet(hidden, layers=POSTERIOR_LAYERS, style=config.gin_channels)
        self.proj = nn.Conv1d(hidden, 2 * config.inter_channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log deviation (b, c, n) of spec (b, 1025, n); the style learns nothing here, as upstream."""
        x = self.enc(self.pre(spec) * mask, mask, style.detach())
        mean, log_std = (self.proj(x) * mask).chunk(2, dim=1)
        return mean, log_std


class Coupling(nn.Module):
    """Shift one half of the channels by a function of the other half."""

    def __init__(self, config: VaeNetConfig) -> None:
        super().__init__()
        half = config.inter_channels // 2
        self.pre = nn.Conv1d(half, config.hidden_channels, 1)
        self.enc = WaveNet(config.hidden_channels, layers=FLOW_LAYERS, style=config.gin_channels)
        self.post = nn.Conv1d(config.hidden_channels, half, 1)
        for parameter in self.post.parameters():
            nn.init.zeros_(parameter)

    def shift(self, half: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        shift: Tensor = self.post(self.enc(self.pre(half) * mask, mask, style)) * mask
        return shift


class Flow(nn.Module):
    """Couplings with a flip of the channels after each: volume is preserved, so no determinant is needed."""

    def __init__(self, config: VaeNetConfig) -> None:
        super().__init__()
        # Upstream numbers the flips as well: couplings have the even numbers.
        self.flows = nn.ModuleDict({str(number): Coupling(config) for number in FLOWS})

    def _couplings(self) -> list[Coupling]:
        return [coupling for coupling in self.flows.values() if isinstance(coupling, Coupling)]

    def forward(self, z: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Take the posterior's latent (b, c, n) to the prior's."""
        for coupling in self._couplings():
            kept, moved = z.chunk(2, dim=1)
            z = torch.cat([kept, moved * mask + coupling.shift(kept, mask, style)], dim=1).flip(1)
        return z

    def inverse(self, z: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Take the prior's latent (b, c, n) to the posterior's."""
        for coupling in reversed(self._couplings()):
            kept, moved = z.flip(1).chunk(2, dim=1)
            z = torch.cat([kept, (moved - coupling.shift(kept, mask, style)) * mask], dim=1)
        return z
