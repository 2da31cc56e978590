"""Batches without content, to rehearse a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ttstrain.contract.data import Clip
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.ids import NUM_SLOTS
from ttstrain.families.orpheus.layout import num_frames, said
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.tokenizer import load_tokenizer


def blank_batch(config: OrpheusConfig, clips: Sequence[Clip]) -> OrpheusBatch:
    """Return a packed row of these clips: their texts, and as many codes as they have."""
    tokenizer = load_tokenizer(config.rows.tokenizer)
    rows = []
    for clip in clips:
        text = tokenizer.encode(said(clip.text, clip.speaker, config.rows.voice))
        frames = torch.zeros(num_frames(clip), NUM_SLOTS, dtype=torch.int16)
        rows.append(speech_row(clip.id, text, frames, config.ids, labels=config.rows.labels))
    return pack(rows)
