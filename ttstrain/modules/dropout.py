"""Dropout as a layer."""

from __future__ import annotations

from torch import Tensor, nn

from ttstrain.modules.cpu.dropout import dropout
from ttstrain.modules.padding import zero_padding


class Dropout(nn.Module):
    """Dropout from torch's global generator. `inplace` lets its input be overwritten, where that saves memory."""

    def __init__(self, p: float, *, inplace: bool = False) -> None:
        super().__init__()
        self.p = p
        self.inplace = inplace

    def forward(self, x: Tensor, *, kept: Tensor | None = None) -> Tensor:
        """Drop values of x (..., d), and all of those rows where `kept` (...) is false."""
        if not self.training or self.p == 0.0:
            return x if kept is None else zero_padding(x, kept)
        return dropout(x, self.p, inplace=self.inplace, kept=kept)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
