"""Dynamic time warping: the cost of the cheapest alignment of one sequence with each of several others.

Legend: n frames of the sequence, m frames of another, k others, d coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

AT_ONCE = 64  # others: their distances are in memory together


def alignment_costs(sequence: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the cost of aligning `sequence` (n, d) with each of `others` (m, d), as (k,).

    Steps (1,1), (1,0), (0,1) over Euclidean distances; a diagonal step counts twice and the cost is divided by n + m
    (the symmetric form of Sakoe and Chiba, 1978), so that others of any length compare. Many are aligned at once, one
    anti-diagonal after the other.
    """
    some = [others[first : first + AT_ONCE] for first in range(0, len(others), AT_ONCE)]
    return torch.cat([_costs(sequence, part) for part in some])


def _costs(sequence: Tensor, others: Sequence[Tensor]) -> Tensor:
    n, lengths = len(sequence), torch.tensor([len(other) for other in others])
    longest = int(lengths.max())
    padded = pad_sequence(list(others), batch_first=True)  # (k, longest, d)
    distances = torch.cdist(sequence.expand(len(others), -1, -1), padded)  # (k, n, longest)
    distances.masked_fill_(torch.arange(longest) >= lengths[:, None, None], torch.inf)
    diagonals = skew(distances)  # (n + longest - 1, k, n)
    ends = diagonals.new_full((len(diagonals), len(others)), torch.inf)  # cost at the last row, by diagonal
    edge = diagonals.new_full((len(others), 1), torch.inf)
    previous = before = torch.cat([edge, diagonals.new_full((len(others), n), torch.inf)], dim=1)  # (k, 1 + n)
    for number, local in enumerate(diagonals):
        best = torch.minimum(torch.minimum(previous[:, 1:], previous[:, :-1]) + local, before[:, :-1] + 2 * local)
        if number == 0:
            best[:, 0] = 2 * local[:, 0]
        before, previous = previous, torch.cat([edge, best], dim=1)
        ends[number] = best[:, -1]
    return ends[n - 1 + lengths - 1, torch.arange(len(others))] / (n + lengths)


def skew(matrices: Tensor) -> Tensor:
    """Turn matrices (k, n, m) into their anti-diagonals (n + m - 1, k, n), by row; infinite outside."""
    k, n, m = matrices.shape
    wide = torch.nn.functional.pad(matrices, (0, n), value=torch.inf)  # (k, n, m + n)
    sheared = wide.reshape(k, n * (m + n))[:, : n * (m + n - 1)].reshape(k, n, m + n - 1)
    return sheared.permute(2, 0, 1).contiguous()


def cheapest_path(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frames of `a` (n, d) and `b` (m, d) along their cheapest alignment, each (steps,).

    Steps (1,1), (1,0), (0,1) over Euclidean distances, each counting once.
    """
    n, m = len(a), len(b)
    diagonals = skew(torch.cdist(a, b)[None])[:, 0].numpy()  # (n + m - 1, n)
    total = np.full((n + m + 1, n + 1), np.inf)  # by diagonal and row, both shifted by one
    total[0, 0] = 0
    for number, local in enumerate(diagonals):
        stay, up = total[number + 1, 1:], total[number + 1, :-1]  # from (0,1) and (1,0)
        total[number + 2, 1:] = np.minimum(np.minimum(stay, up), total[number, :-1]) + local
    row, column = n - 1, m - 1
    path = [(row, column)]
    while row or column:
        number = row + column
        options = {
            (row - 1, column - 1): total[number, row],
            (row - 1, column): total[number + 1, row],
            (row, column - 1): total[number + 1, row + 1],
        }
        row, column = min(options, key=lambda step: float(options[step]))
        path.append((row, column))
    rows, columns = torch.tensor(path[::-1]).T
    return rows, columns
