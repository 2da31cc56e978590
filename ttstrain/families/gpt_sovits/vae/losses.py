"""Losses of a VAE-GAN, in fp32 whatever the net computed in.

Legend: b clips, c channels, n frames, m mel bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ttstrain.families.gpt_sovits.vae.discriminator import Judgement

FEATURE_WEIGHT = 2.0  # of the feature distance, as in HiFi-GAN (arXiv 2010.05646)


def scores_of(judgements: Sequence[Judgement]) -> list[Tensor]:
    """Return the scores (b, n) of each part."""
    return [judgement.score for judgement in judgements]


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return how far scores of real sound are from 1 and of generated sound from 0 (LSGAN, arXiv 1611.04076)."""
    pairs = zip(real, fake, strict=True)
    return _sum((1 - r.float()).square().mean() + f.float().square().mean() for r, f in pairs)


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """Return how far scores of generated sound are from 1."""
    return _sum((1 - score.float()).square().mean() for score in fake)


def feature_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Return the feature-matching distance; features of real sound are constants."""
    maps = ((a, b) for r, f in zip(real, fake, strict=True) for a, b in zip(r.maps, f.maps, strict=True))
    return FEATURE_WEIGHT * _sum((a.detach().float() - b.float()).abs().mean() for a, b in maps)


def mel_distance(target: Tensor, generated: Tensor) -> Tensor:
    """Return the mean absolute difference of log-mels (b, m, n)."""
    return (target.float() - generated.float()).abs().mean()


def kl_per_frame(z_p: Tensor, logs_q: Tensor, m_p: Tensor, logs_p: Tensor, mask: Tensor) -> Tensor:
    """Return the divergence of posterior from prior (b, n), estimated at z_p; in nats, summed over channels.

    Inputs are (b, c, n), `mask` (b, 1, n); padding is 0.
    """
    with torch.autocast(z_p.device.type, enabled=False):
        z_p, logs_q, m_p, logs_p = z_p.float(), logs_q.float(), m_p.float(), logs_p.float()
        divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p).square() * torch.exp(-2 * logs_p)
        return (divergence * mask.float()).sum(dim=1)


def mean_score(scores: Sequence[Tensor]) -> Tensor:
    """Return the mean over the parts of the discriminator, detached: 1 says real, 0 generated."""
    return torch.stack([score.detach().float().mean() for score in scores]).mean()


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
