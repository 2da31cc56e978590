"""How far one utterance's log-mel spectrogram is from another's, whatever their timing."""

from __future__ import annotations

import torch
from torch import Tensor


def mel_distance(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of two log-mels, (n, n_mels) and (m, n_mels), along their best alignment.

    Dynamic time warping with steps (1,1), (1,0), (0,1); the cost of the cheapest path is divided by n + m, diagonal
    steps counting twice (the symmetric form of Sakoe and Chiba, 1978), so that clips of any length compare. In nepers
    per bin.
    """
    cost = torch.cdist(a.double(), b.double(), p=1) / a.shape[1]  # (n, m)
    n, m = cost.shape
    infinity = torch.full((n + 1,), torch.inf, dtype=cost.dtype)
    # skewed[k, i] = cost[i, k - i]: every anti-diagonal k is one vector, indexed by row
    rows = torch.arange(n)
    previous, before = infinity.clone(), infinity.clone()  # diagonals k - 1 and k - 2, shifted by one row
    for k in range(n + m - 1):
        columns = k - rows
        inside = (columns >= 0) & (columns < m)
        local = torch.where(inside, cost[rows, columns.clamp(0, m - 1)], torch.inf)
        best = torch.minimum(torch.minimum(previous[1:], previous[:-1]) + local, before[:-1] + 2 * local)
        if k == 0:
            best[0] = 2 * local[0]
        before, previous = previous, torch.cat([infinity[:1], best])
    return float(previous[n] / (n + m))
