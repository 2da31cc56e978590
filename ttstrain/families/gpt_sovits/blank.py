"""Batches without content, to rehearse a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ttstrain.contract.data import Clip
from ttstrain.families.gpt_sovits.batch import SovitsBatch, num_tokens
from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SovitsConfig, VaeNetConfig, is_packed
from ttstrain.families.gpt_sovits.data import SovitsExample, pad
from ttstrain.families.gpt_sovits.features import bert, hubert, speaker
from ttstrain.families.gpt_sovits.phonemes import WITH_BERT, read_clip
from ttstrain.families.gpt_sovits.review import num_frames


def blank_batch(config: SovitsConfig, clips: Sequence[Clip]) -> SovitsBatch:
    """Return a batch of these clips: their phonemes, and silence, tokens and encoders' features as long as theirs."""
    return pad([_blank(config, clip) for clip in clips], packed=is_packed(config))


def _blank(config: SovitsConfig, clip: Clip) -> SovitsExample:
    text = config.text
    said = read_clip(clip, default_language=text.language, version=config.version, dictionary=text.dictionary)
    n = num_frames(clip)
    vae = getattr(config, "vae", None)
    trains_quantizer = isinstance(vae, VaeNetConfig) and not vae.freeze_quantizer
    has_bert = config.reads_gpt and said.language == WITH_BERT
    return SovitsExample(
        id=clip.id,
        num_frames=n,
        phones=torch.tensor(said.ids, dtype=torch.long),
        bert=torch.zeros(len(said.ids), bert.WIDTH) if has_bert else None,
        codes=torch.zeros(num_tokens(n), dtype=torch.long),
        wav=torch.zeros(n * HOP_LENGTH) if config.reads_vae else None,
        ssl=torch.zeros(2 * num_tokens(n), hubert.WIDTH) if trains_quantizer else None,
        speaker=torch.zeros(speaker.WIDTH) if config.reads_vae and config.is_pro else None,
    )
