"""Alignment of one sequence with many at once, against the textbook's two loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttstrain.judge import alignment
from ttstrain.judge.alignment import alignment_costs


def by_loops(a: torch.Tensor, b: torch.Tensor) -> float:
    local = torch.cdist(a, b).numpy().astype(np.float64)
    n, m = local.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost = local[i - 1, j - 1]
            total[i, j] = min(total[i - 1, j - 1] + 2 * cost, total[i - 1, j] + cost, total[i, j - 1] + cost)
    return float(total[n, m] / (n + m))


def test_all_costs_are_those_of_two_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    sequence, *others = (torch.randn(length, 5, generator=generator) for length in (17, 30, 1, 17, 9, 41))
    expected = [by_loops(sequence, other) for other in others]
    assert alignment_costs(sequence, others).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_sequence_costs_nothing_against_itself_slowed_down() -> None:
    sequence = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    slowed = sequence.repeat_interleave(2, dim=0)
    assert alignment_costs(sequence, [slowed]).tolist() == pytest.approx([0.0], abs=1e-2)


def test_many_others_are_aligned_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    sequence = torch.randn(20, 4, generator=generator)
    others = [torch.randn(10 + i, 4, generator=generator) for i in range(7)]
    whole = alignment_costs(sequence, others)
    monkeypatch.setattr(alignment, "AT_ONCE", 3)
    torch.testing.assert_close(alignment_costs(sequence, others), whole)
