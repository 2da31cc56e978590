"""SynthesizerTrn: from tokens, text and a reference to sound, through a latent.

Legend: b clips, c latent channels, n frames (50 a second), s semantic tokens (25 a second), p phonemes, g style
channels, t samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.config import HOP_LENGTH
from ttstrain.families.gpt_sovits.shapes import (
    MRTE_CHANNELS,
    REFERENCE_CHANNELS,
    SPEAKER_CHANNELS,
    SPEC_CHANNELS,
    SSL_CHANNELS,
    SSL_STRIDE,
)
from ttstrain.families.gpt_sovits.vae.decoder import Decoder
from ttstrain.families.gpt_sovits.vae.discriminator import Discriminator
from ttstrain.families.gpt_sovits.vae.encoders import Flow, PosteriorEncoder, TextEncoder
from ttstrain.families.gpt_sovits.vae.layers import length_mask
from ttstrain.families.gpt_sovits.vae.quantizer import Quantized, Quantizer
from ttstrain.families.gpt_sovits.vae.reference import StyleEncoder

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import VaeNetConfig, Version


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditioning of some clips. Lengths are on the host."""

    tokens: Tensor  # (b, 768, s) vectors of the codebook
    phones: Tensor  # (b, p) int64
    phone_lengths: Sequence[int]
    frame_lengths: Sequence[int]
    speaker: Tensor | None  # (b, 20480), only Pro


@dataclass(frozen=True, slots=True)
class Styles:
    """A speaker's style, as wide as its readers want it."""

    own: Tensor  # (b, g, 1) for posterior encoder, flow and decoder
    text: Tensor  # (b, MRTE_CHANNELS, 1) for the text encoder


@dataclass(frozen=True, slots=True)
class Latents:
    """The latent of each clip, from posterior and prior."""

    mask: Tensor  # (b, 1, n)
    style: Tensor  # (b, g, 1)
    z: Tensor  # (b, c, n) drawn from the posterior
    z_p: Tensor  # (b, c, n) the same, taken to the prior by the flow
    m_p: Tensor
    logs_p: Tensor  # log deviations
    m_q: Tensor
    logs_q: Tensor


class Synthesizer(nn.Module):
    """Encoders, flow and decoder; each child has the name that upstream's files give it."""

    def __init__(self, config: VaeNetConfig, version: Version) -> None:
        super().__init__()
        self.version = version
        self.is_pro = version in ("v2Pro", "v2ProPlus")
        self.reference_channels = SPEC_CHANNELS if version == "v1" else REFERENCE_CHANNELS
        self.enc_p = TextEncoder(config, version)
        self.dec = Decoder(config)
        self.enc_q = PosteriorEncoder(config)
        self.flow = Flow(config)
        self.ref_enc = StyleEncoder(self.reference_channels, config.gin_channels)
        self.ssl_proj = nn.Conv1d(SSL_CHANNELS, SSL_CHANNELS, SSL_STRIDE, stride=SSL_STRIDE)
        self.quantizer = Quantizer()
        if self.is_pro:
            self.sv_emb = nn.Linear(SPEAKER_CHANNELS, config.gin_channels)
            self.ge_to512 = nn.Linear(config.gin_channels, MRTE_CHANNELS)
            self.prelu = nn.PReLU(config.gin_channels)
        if config.freeze_quantizer:
            self.ssl_proj.requires_grad_(False)

    # ---------------------------------------------------------------- semantic tokens

    def quantize(self, ssl: Tensor) -> Quantized:
        """Round HuBERT's features (b, 768, 2 s) to the codebook."""
        with torch.autocast(ssl.device.type, enabled=False):
            quantized: Quantized = self.quantizer(self.ssl_proj(ssl.float()))
        return quantized

    @torch.no_grad()
    def encode(self, ssl: Tensor) -> Tensor:
        """Return the semantic tokens (b, s) of HuBERT's features (b, 768, 2 s)."""
        with torch.autocast(ssl.device.type, enabled=False):
            return self.quantizer.encode(self.ssl_proj(ssl.float()))

    # ---------------------------------------------------------------- training

    def styles(self, spec: Tensor, mask: Tensor, speaker: Tensor | None) -> Styles:
        """Return the style of recordings: spec (b, 1025, n), mask (b, 1, n)."""
        style: Tensor = self.ref_enc(spec[:, : self.reference_channels] * mask, mask)  # (b, g, 1)
        if not self.is_pro:
            return Styles(own=style, text=style)
        if speaker is None:
            raise ValueError(f"{self.version} needs a speaker embedding")
        style = self.prelu(style + self.sv_emb(speaker.to(style.dtype))[..., None])
        return Styles(own=style, text=self.ge_to512(style.mT).mT)

    def forward(self, spec: Tensor, given: Conditions, *, noise: Tensor | None = None) -> Latents:
        """Compute prior and posterior of recordings' spectrograms (b, 1025, n), n = 2 s.

        `noise` (b, c, n) is drawn when not given.
        """
        mask = length_mask(given.frame_lengths, width=spec.shape[2], device=spec.device, dtype=spec.dtype)
        styles = self.styles(spec, mask, given.speaker)
        m_p, logs_p, _ = self._prior(given, mask, styles)
        m_q, logs_q = self.enc_q(spec, mask, styles.own)
        noise = torch.randn_like(m_q) if noise is None else noise
        z = (m_q + noise * logs_q.exp()) * mask
        z_p = self.flow(z, mask, styles.own)
        return Latents(mask=mask, style=styles.own, z=z, z_p=z_p, m_p=m_p, logs_p=logs_p, m_q=m_q, logs_q=logs_q)

    def _prior(
        self, given: Conditions, mask: Tensor, styles: Styles, *, speed: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        phone_mask = length_mask(given.phone_lengths, width=given.phones.shape[1], device=mask.device, dtype=mask.dtype)
        prior: tuple[Tensor, Tensor, Tensor] = self.enc_p(
            given.tokens, mask, given.phones, phone_mask, styles.text, speed=speed
        )
        return prior

    # ---------------------------------------------------------------- speaking

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        phones: Tensor,
        reference: Tensor | Sequence[Tensor],
        *,
        speaker: Tensor | Sequence[Tensor] | None = None,
        noise_scale: float = 0.5,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Generate sound (1, 1, t) from codes (1, s) and phones (1, p) in the style of the reference.

        `reference` is a spectrogram (1, 1025, n), or several whose styles are averaged, each with a `speaker`
        (1, 20480) in Pro versions. `generator` is a CPU generator; `noise` (1, c, 2 s) is drawn when not given.
        """
        references = [reference] if isinstance(reference, Tensor) else list(reference)
        speakers = [speaker] * len(references) if speaker is None or isinstance(speaker, Tensor) else list(speaker)
        styles = self._mean_style(references, speakers)
        num_frames = 2 * codes.shape[1]
        mask = torch.ones(1, 1, num_frames, device=styles.own.device, dtype=styles.own.dtype)
        given = Conditions(self.quantizer.decode(codes), phones, (phones.shape[1],), (num_frames,), None)
        m_p, logs_p, mask = self._prior(given, mask, styles, speed=speed)
        if noise is None:
            noise = torch.randn(m_p.shape, generator=generator).to(m_p)
        z = self.flow.inverse(m_p + noise * logs_p.exp() * noise_scale, mask, styles.own)
        wav: Tensor = self.dec(z * mask, styles.own)
        return wav

    def _mean_style(self, references: Sequence[Tensor], speakers: Sequence[Tensor | None]) -> Styles:
        found = [
            self.styles(spec, torch.ones_like(spec[:, :1]), speaker)
            for spec, speaker in zip(references, speakers, strict=True)
        ]
        own = torch.stack([styles.own for styles in found]).mean(dim=0)
        return Styles(own=own, text=self.ge_to512(own.mT).mT if self.is_pro else own)


def cut(x: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Return a piece (b, c, length) of each row of x (b, c, n), from its own start."""
    return torch.stack([row[:, start : start + length] for row, start in zip(x, starts, strict=True)])


def cut_wav(wav: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Return a piece (b, 1, 640 * length) of each wav (b, t), given in frames."""
    return cut(wav[:, None], [start * HOP_LENGTH for start in starts], length * HOP_LENGTH)


def build_vae(config: VaeNetConfig, version: Version) -> Synthesizer:
    """Build the VAE with fresh weights."""
    return Synthesizer(config, version)


def build_discriminator(config: VaeNetConfig, version: Version) -> Discriminator:
    """Build the discriminator with fresh weights."""
    return Discriminator(config, version)
