"""Batches without content, to rehearse a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ttstrain.contract.data import Clip
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowBatch, FlowData


def blank_batch(config: FlowConfig, clips: Sequence[Clip]) -> FlowBatch:
    """Return a batch of these clips: their texts, and mels of silence as long as theirs."""
    data = FlowData(config)
    return data.collate([data.example(clip, {"mel": torch.zeros(data.length(clip), config.n_mels)}) for clip in clips])
