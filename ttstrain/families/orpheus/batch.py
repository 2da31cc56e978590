"""Batches for the model: rows packed into one sequence, without padding.

n tokens, d documents (rows) in this micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

IGNORED: Final = -100  # label of a token that is not a target, as in torch's cross entropy

SPEECH: Final = 0  # modality of a row with codes
TEXT: Final = 1  # modality of a question and its answer

NO_SLOT: Final = -1  # in `is_audio_slot`: text and special tokens
EOS_SLOT: Final = 7  # in `is_audio_slot`: the end of speech, which stands where slot 0 of the next frame would


@dataclass(frozen=True, slots=True)
class OrpheusBatch:
    """Documents packed end to end, each with positions from 0; attention stays within a document.

    `labels[i]` is `input_ids[i]` if that token is a target, not shifted: position i - 1 predicts it. A document's first
    token is never a target, so that no document predicts the next one's start.
    """

    ids: Sequence[str]  # one per document
    input_ids: Tensor  # (1, n) int64
    labels: Tensor  # (1, n) int64, IGNORED if a token is not a target
    position_ids: Tensor  # (1, n) int64, from 0 in each document
    documents: Tensor  # (1, n) int32, index of the document, from 0 and never falling
    cu_seqlens: Tensor  # (d + 1,) int32, where documents begin, and n; always on the CPU
    is_audio_slot: Tensor  # (1, n) int8 of input_ids[i]: its slot 0..6, EOS_SLOT for the end of speech, else NO_SLOT
    modality: Tensor  # (d,) int8, SPEECH or TEXT
    weight: float  # tokens that are targets
    num_frames: int  # tokens
    num_padded: int  # the same: nothing is padded

    @property
    def max_length(self) -> int:
        """The longest document, in tokens; known on the host."""
        return int(self.cu_seqlens.diff().max())

    def to(self, device: torch.device) -> OrpheusBatch:
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            documents=self.documents.to(device, non_blocking=True),
            is_audio_slot=self.is_audio_slot.to(device, non_blocking=True),
            modality=self.modality.to(device, non_blocking=True),
        )
