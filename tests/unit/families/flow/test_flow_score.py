"""The score of a transcript, on a net whose hearing is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.score import text_gain


class Oracle:
    """Knows the mel of every text, as `table[token]` held for the whole clip; without a text it hears silence."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def text_embed(self, text: Tensor, *, num_frames: int, lengths: Tensor, drop: Tensor) -> Tensor:
        return self.table[text[:, 0]][:, None].expand(-1, num_frames, -1) * ~drop[:, None, None]

    def __call__(self, x: Tensor, cond: Tensor, text: Tensor, time: Tensor, *, mask: Tensor | None) -> Tensor:
        assert not cond.any(), "the recording itself must not be shown"
        noise = (x - time[:, None, None] * text) / (1 - time[:, None, None])
        return text - noise


def batch(table: Tensor, *, said: list[int], heard: list[int], lengths: list[int]) -> FlowBatch:
    mel = torch.zeros(len(heard), max(lengths), table.shape[1])
    for i, (token, length) in enumerate(zip(heard, lengths, strict=True)):
        mel[i, :length] = table[token]
    size = torch.tensor(lengths)
    return FlowBatch(
        ids=[str(i) for i in range(len(heard))],
        mel=mel,
        mel_lengths=size,
        lengths=size,
        text=torch.tensor(said)[:, None],
        weight=1.0,
        num_frames=sum(lengths),
        num_padded=mel.shape[0] * mel.shape[1],
    )


def gain(net: Any, batch: FlowBatch, seed: int = 0) -> list[float]:
    scores: list[float] = text_gain(net, batch, generator=torch.Generator().manual_seed(seed)).tolist()
    return scores


def test_the_right_text_explains_all_and_a_wrong_one_less_than_none() -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = gain(Oracle(table), batch(table, said=[0, 1, 1], heard=[0, 0, 1], lengths=[7, 5, 3]))
    assert scores[0] == pytest.approx(1, abs=1e-4)
    # Twice the distance of silence, since a wrong mel is as far from silence as from the right one, squared.
    assert scores[1] == pytest.approx(-1, abs=1e-4)
    assert scores[2] == pytest.approx(1, abs=1e-4)


def test_a_score_depends_on_the_seed_alone() -> None:
    table = torch.rand(2, 4)

    class Vague(Oracle):
        def __call__(self, x: Tensor, cond: Tensor, text: Tensor, time: Tensor, *, mask: Tensor | None) -> Tensor:
            return 0.3 * text - 0.5 * x

    mixed = batch(table, said=[0, 1], heard=[0, 0], lengths=[9, 6])
    net = Vague(table)
    assert gain(net, mixed) == gain(net, mixed)
    assert gain(net, mixed) != gain(net, mixed, seed=1)
