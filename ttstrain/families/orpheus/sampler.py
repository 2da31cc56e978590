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


@torch.no_grad()
def write(
    net: Any, prompt: Sequence[int], *, settings: SamplingConfig, ids: TokenIds, generator: torch.Generator
) -> list[int]:
    """Continue a prompt until the end of speech, which is the last token then, or up to `settings.max_tokens`.

    `generator` is a CPU generator.
    """
    from transformers import DynamicCache

    device = net.lm_head.weight.device
    cache = DynamicCache(config=net.config)
    seen = torch.zeros(net.config.vocab_size, dtype=torch.bool)
    seen[list(prompt)] = True
    new = torch.tensor([list(prompt)], device=device)
    written: list[int] = []
    while len(written) < settings.max_tokens:
        place = len(prompt) + len(written) - new.shape[1]
        positions = torch.arange(place, place + new.shape[1], device=device)[None]
        states = net.model(input_ids=new, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = net.lm_head(states.last_hidden_state[0, -1]).float().cpu()
        if settings.grammar == "masked":
            logits = _legal_only(logits, len(written) % NUM_SLOTS, ids)
        token = choose(logits, seen, settings=settings, generator=generator)
        seen[token] = True
        written.append(token)
        if token == ids.eos:
            break
        new = torch.tensor([[token]], device=device)
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


def _legal_only(logits: Tensor, slot: int, ids: TokenIds) -> Tensor:
    legal = ids.slot_ids(slot)
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
