"""The quantizer: which of 1024 vectors a frame of HuBERT's features is nearest to.

Frozen, it is a table. Trained, as SoundStream (arXiv 2107.03312), its vectors are moving averages of the features
assigned to them, with upstream's constants. They are updated once a step, from all micro-batches and processes.

Upstream also puts features in the place of vectors that are met less than twice a batch, and overwrites them from the
averages before they are used: it has no effect there, and there is none of it here. With effect it would take most of a
published codebook away, for a batch of a few clips has fewer tokens than two for each of the codes.

Legend: b clips, s semantic tokens, d = 768 channels, k = 1024 codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import SSL_CHANNELS

NUM_CODES = 1024
DECAY = 0.99  # of the moving averages
SMOOTHING = 1e-5


@dataclass(frozen=True, slots=True)
class Met:
    """Count and feature sum of each code; adds up over batches."""

    counts: Tensor  # (k,)
    sums: Tensor  # (k, d) of the features


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors of the codebook and how far the features are from them."""

    vectors: Tensor  # (b, d, s); the gradient passes to the features as if nothing had been rounded
    commit: Tensor  # () mean squared distance
    met: Met | None  # in training mode


class Codebook(nn.Module):
    """The vectors, and the averages they are made of. All buffers: no optimizer moves them."""

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(self) -> None:
        super().__init__()
        embed = nn.init.kaiming_uniform_(torch.empty(NUM_CODES, SSL_CHANNELS))
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(NUM_CODES))
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", embed.clone())

    def nearest(self, features: Tensor) -> Tensor:
        """Return codes (n,) of features (n, d)."""
        distance = features.square().sum(1, keepdim=True) - 2 * features @ self.embed.T + self.embed.square().sum(1)
        return distance.argmin(dim=1)

    @torch.no_grad()
    def learn(self, met: Met) -> None:
        """Update the moving averages from a step's statistics."""
        self.cluster_size.mul_(DECAY).add_(met.counts, alpha=1 - DECAY)
        self.embed_avg.mul_(DECAY).add_(met.sums, alpha=1 - DECAY)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + SMOOTHING) / (total + NUM_CODES * SMOOTHING) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])


def _met(features: Tensor, codes: Tensor) -> Met:
    """Count and sum features (n, d) by their codes (n,)."""
    met = F.one_hot(codes, NUM_CODES).to(features)  # (n, k)
    return Met(met.sum(0), met.T @ features)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._codebook = Codebook()


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer()])


class Quantizer(nn.Module):
    """One codebook, under the names of a stack of them."""

    def __init__(self) -> None:
        super().__init__()
        self.vq = _Residual()

    @property
    def codebook(self) -> Codebook:
        layer = self.vq.layers[0]
        assert isinstance(layer, _Layer)
        return layer._codebook

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Return codes (b, s) of features (b, d, s)."""
        rows = features.float().mT
        return self.codebook.nearest(rows.flatten(0, 1)).view(rows.shape[:2])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors (b, d, s) of codes (b, s)."""
        return F.embedding(codes, self.codebook.embed).mT

    def forward(self, features: Tensor) -> Quantized:
        """Round features (b, d, s) and, in training mode, collect the codebook's statistics."""
        rows = features.mT  # (b, s, d)
        flat = rows.detach().flatten(0, 1)
        codes = self.codebook.nearest(flat)
        nearest = F.embedding(codes, self.codebook.embed).view(rows.shape)
        through = rows + (nearest - rows).detach()
        met = _met(flat, codes) if self.training else None
        return Quantized(through.mT, F.mse_loss(through.detach(), rows), met)
