"""The nets of F5-TTS and E2-TTS, their loss and their sampler. Attribute names give upstream's state-dict keys."""

from __future__ import annotations

from typing import TypeAlias

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model.dit import DiT
from ttstrain.families.flow.model.unett import UNetT

FlowNet: TypeAlias = DiT | UNetT


def build_net(config: FlowConfig, *, num_tokens: int) -> FlowNet:
    """Build the backbone that a config names, for a vocab of `num_tokens`."""
    return (DiT if config.backbone == "dit" else UNetT)(config, num_tokens=num_tokens)
