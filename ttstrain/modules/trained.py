"""The trained share of a module."""

from __future__ import annotations

from torch import nn


def trained_share(module: nn.Module) -> float:
    """Return the share of a module's weights that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trained in sizes if trained) / max(sum(size for size, _ in sizes), 1)
