"""DPO: prefers recorded tokens over rejected samples, with a span repeated or left out. Upstream's `if_dpo`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.families.gpt_sovits.batch import Edit

BETA = 0.2  # as upstream


def draw_edits(lengths: Sequence[int]) -> tuple[Edit, ...]:
    """Choose for each clip of so many tokens a span to repeat or to leave out, from torch's global CPU generator.

    The span is never empty, and never the whole clip if left out.
    """
    edits = []
    for length in lengths:
        repeats = length < 2 or int(torch.randint(2, ())) == 0
        begin, end = sorted(torch.randperm(length + 1)[:2].tolist())
        edits.append(Edit("repeat" if repeats or end - begin == length else "delete", begin, end))
    return tuple(edits)


def draw_edits_as_upstream(num_clips: int, width: int) -> tuple[Edit, ...]:
    """Choose spans of the padded row: they may be empty, and may hold padding (repeat or delete since 2026-04)."""
    edits = []
    for _ in range(num_clips):
        repeats = int(torch.randint(0, 2, (1,))) == 0
        begin, end = sorted(torch.randint(0, width, (2,)).tolist())
        edits.append(Edit("repeat" if repeats else "delete", begin, end))
    return tuple(edits)


def edited(places: Tensor, edit: Edit) -> Tensor:
    """Apply an edit to a sequence (s,) of anything, such as the places of tokens."""
    before, span, after = places[: edit.begin], places[edit.begin : edit.end], places[edit.end :]
    return torch.cat([before, span, span, after] if edit.kind == "repeat" else [before, after])


def preference(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return the loss (b,) of log-probabilities (b,) of whole sequences, without a reference model."""
    return -F.logsigmoid(BETA * (chosen - rejected))
