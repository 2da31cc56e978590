"""Rows of tokens: `SOH BOS text EOT EOH SOA SOS codes EOS EOA`, and questions with their answers.

t tokens of a row, n frames of speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttstrain.families.orpheus.batch import EOS_SLOT, IGNORED, NO_SLOT, SPEECH, TEXT, OrpheusBatch
from ttstrain.families.orpheus.codes import to_ids
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, TokenIds

Labels = Literal["speech", "all"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One document."""

    id: str
    tokens: Tensor  # (t,) int64
    labels: Tensor  # (t,) int64, IGNORED if a token is not a target
    slots: Tensor  # (t,) int8, as `OrpheusBatch.is_audio_slot`
    modality: int = SPEECH


def prompt_ids(text: Sequence[int], ids: TokenIds, *, speech: bool = True) -> list[int]:
    """Return the prompt before generation; with `speech` including the two tokens that begin the model's turn."""
    prompt = [ids.soh, ids.bos, *text, ids.eot, ids.eoh]
    return [*prompt, ids.soa, ids.sos] if speech else prompt


def speech_row(id_: str, text: Sequence[int], frames: Tensor, ids: TokenIds, *, labels: Labels = "speech") -> TokenRow:
    """Make the row of a text's tokens and its frames (n, 7).

    With `labels="speech"` the targets are the model's turn, from SOA on; with `all` also the prompt, except its first
    token, which nothing predicts.
    """
    prompt = prompt_ids(text, ids, speech=False)
    turn = torch.cat([torch.tensor([ids.soa, ids.sos]), to_ids(frames, ids), torch.tensor([ids.eos, ids.eoa])])
    return row_of(id_, torch.cat([torch.tensor(prompt), turn]), ids, masked=len(prompt) if labels == "speech" else 1)


def answer_row(id_: str, question: Sequence[int], answer: Sequence[int], ids: TokenIds, *, labels: Labels) -> TokenRow:
    """Make the row of a question and its answer, both as tokens: `SOH BOS question EOT EOH SOA answer EOT EOA`."""
    prompt = prompt_ids(question, ids, speech=False)
    tokens = torch.tensor([*prompt, ids.soa, *answer, ids.eot, ids.eoa])
    return row_of(id_, tokens, ids, masked=len(prompt) if labels == "speech" else 1)


def row_of(id_: str, tokens: Tensor, ids: TokenIds, *, masked: int = 1) -> TokenRow:
    """Make a row of tokens (t,) as they are; the first `masked` of them are not targets."""
    labels = tokens.clone()
    labels[: max(masked, 1)] = IGNORED
    slots = slots_of(tokens, ids)
    return TokenRow(
        id=id_, tokens=tokens, labels=labels, slots=slots, modality=SPEECH if bool((slots >= 0).any()) else TEXT
    )


def slots_of(tokens: Tensor, ids: TokenIds) -> Tensor:
    """Return the slot (t,) int8 of each token by its id: 0 to 6, EOS_SLOT for EOS, else NO_SLOT."""
    slots = torch.div(tokens - ids.first_audio, CODEBOOK_SIZE, rounding_mode="floor")
    slots = torch.where((tokens >= ids.first_audio) & (tokens < ids.end_audio), slots, NO_SLOT)
    return torch.where(tokens == ids.eos, EOS_SLOT, slots).to(torch.int8)


def pack(rows: Sequence[TokenRow]) -> OrpheusBatch:
    """Pack rows end to end."""
    lengths = torch.tensor([len(row.tokens) for row in rows])
    total = int(lengths.sum())
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    documents = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    labels = torch.cat([row.labels for row in rows])
    return OrpheusBatch(
        ids=[row.id for row in rows],
        input_ids=torch.cat([row.tokens for row in rows])[None],
        labels=labels[None],
        position_ids=(torch.arange(total) - starts[documents])[None],
        documents=documents.to(torch.int32)[None],
        cu_seqlens=starts.to(torch.int32),
        is_audio_slot=torch.cat([row.slots for row in rows])[None],
        modality=torch.tensor([row.modality for row in rows], dtype=torch.int8),
        weight=float((labels != IGNORED).sum()),
        num_frames=total,
        num_padded=total,
    )
