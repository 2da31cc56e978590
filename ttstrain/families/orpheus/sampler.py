"""Samples tokens one by one, and extracts the frames.

v ids of the vocabulary, s tokens so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttstrain.families.orpheus.config import SamplingConfig
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, NUM_SLOTS, TokenIds


@dataclass(frozen=True, slots=True)
class Written:
    """The generated frames, and how well the tokens kept the order of slots."""

    frames: Tensor  # (n, 7) codes of the complete frames, in order
    num_tokens: int  # without the end of speech
    num_misplaced: int  # tokens out of slot order; they are dropped
    stopped: bool  # by the end of speech, not by the limit


class Continuation:
    """One row that grows by a token at a time; keys and values of what was seen are kept."""

    def __init__(self, net: Any, prompt: Sequence[int]) -> None:
        from transformers import DynamicCache

        self._net = net
        self._device = net.lm_head.weight.device
        self._cache = DynamicCache(config=net.config)
        self._new = torch.tensor([list(prompt)], device=self._device)
        self._length = len(prompt)

    def logits(self) -> Tensor:
        """Return what is expected next, (v,) float32 on the CPU; call it once after each token."""
        place = self._length - self._new.shape[1]
        positions = torch.arange(place, self._length, device=self._device)[None]
        states = self._net.model(
            input_ids=self._new, position_ids=positions, past_key_values=self._cache, use_cache=True
        )
        logits: Tensor = self._net.lm_head(states.last_hidden_state[0, -1])
        return logits.float().cpu()

    def append(self, token: int) -> None:
        self._new = torch.tensor([[token]], device=self._device)
        self._length += 1


@torch.no_grad()
def write(
    net: Any,
    prompt: Sequence[int],
    *,
    settings: SamplingConfig,
    ids: TokenIds,
    generator: torch.Generator,
    num_codes: int = CODEBOOK_SIZE,
) -> list[int]:
    """Continue a prompt until the end of speech, which is the last token then, or up to `settings.max_tokens`.

    `generator` is a CPU generator; `num_codes` are those that the codec has in a slot.
    """
    row = Continuation(net, prompt)
    seen = torch.zeros(net.config.vocab_size, dtype=torch.bool)
    seen[list(prompt)] = True
    written: list[int] = []
    while len(written) < settings.max_tokens:
        logits = row.logits()
        if settings.grammar == "masked":
            logits = _legal_only(logits, len(written) % NUM_SLOTS, ids, num_codes=num_codes)
        token = choose(logits, seen, settings=settings, generator=generator)
        seen[token] = True
        written.append(token)
        if token == ids.eos:
            break
        row.append(token)
    return written


def choose(logits: Tensor, seen: Tensor, *, settings: SamplingConfig, generator: torch.Generator) -> int:
    """Draw a token from logits (v,): repetition penalty, temperature, then top-p, in transformers' order."""
    penalised = torch.where(logits < 0, logits * settings.repetition_penalty, logits / settings.repetition_penalty)
    logits = torch.where(seen, penalised, logits) / settings.temperature
    ordered, places = logits.sort(descending=True)
    p = ordered.softmax(dim=0)
    before = p.cumsum(dim=0) - p  # the smallest set that reaches top_p: what the larger ones leave open
    kept = torch.where(before < settings.top_p, p, 0.0)
    return int(places[torch.multinomial(kept, 1, generator=generator)])


def _legal_only(logits: Tensor, slot: int, ids: TokenIds, *, num_codes: int) -> Tensor:
    legal = ids.slot_ids(slot)[:num_codes]
    masked = torch.full_like(logits, -torch.inf)
    masked[legal.start : legal.stop] = logits[legal.start : legal.stop]
    if slot == 0:
        masked[ids.eos] = logits[ids.eos]
    return masked


def read(written: Sequence[int], ids: TokenIds) -> Written:
    """Extract the frames from generated tokens; tokens out of slot order are counted and dropped, never changed."""
    frames: list[list[int]] = []
    frame: list[int] = []
    misplaced = 0
    stopped = ids.eos in written
    spoken = list(written[: written.index(ids.eos)] if stopped else written)
    for token in spoken:
        slot, code = divmod(token - ids.first_audio, CODEBOOK_SIZE) if ids.is_audio(token) else (-1, 0)
        if slot != len(frame):
            misplaced += 1 + len(frame)
            frame = []
            if slot != 0:
                continue
            misplaced -= 1  # it begins a frame of its own
        frame.append(code)
        if len(frame) == NUM_SLOTS:
            frames.append(frame)
            frame = []
    return Written(torch.tensor(frames, dtype=torch.int64).reshape(-1, NUM_SLOTS), len(spoken), misplaced, stopped)
