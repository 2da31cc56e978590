"""Weights between a base and its fine-tune: base + share x (fine-tuned - base), tensor by tensor.

The line between the two was described for fine-tunes by Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttstrain.errors import RecipeError

MOST = 1.5  # largest share; above 1 the weights lie beyond the fine-tune
_SHOWN = 3  # names in a note


@dataclass(frozen=True, slots=True)
class Interpolated:
    """Weights on the line from a base to its fine-tune."""

    weights: Mapping[str, Tensor]
    whole: tuple[str, ...] = ()  # floating-point tensors that are the fine-tune's own: the base has none of this shape
    rows: Mapping[str, int] = field(default_factory=dict)  # table -> rows that are the fine-tune's own

    def notes(self) -> list[str]:
        """Say what is not blended."""
        said = [
            f"{count:,} rows of `{name}` are the fine-tune's: the base lacks them" for name, count in self.rows.items()
        ]
        if self.whole:
            more = f" and {len(self.whole) - _SHOWN} more" if len(self.whole) > _SHOWN else ""
            named = ", ".join(f"`{name}`" for name in self.whole[:_SHOWN])
            said.append(
                f"{len(self.whole)} tensors are the fine-tune's, the base has none of this shape: {named}{more}"
            )
        return said


def check_share(share: float) -> None:
    """Raise RecipeError for a share that is not between 0 and `MOST`."""
    if not (math.isfinite(share) and 0 <= share <= MOST):
        raise RecipeError(
            f"`--blend {share:g}` is not between 0 and {MOST:g}",
            hint="0 is the base, 1 the fine-tune, 0.7 lies between",
        )


def interpolate(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    share: float,
    *,
    new_rows: Mapping[str, Sequence[int]] | None = None,
) -> Interpolated:
    """Return `base + share (tuned - base)` under the keys of `tuned`, on the CPU.

    Each floating-point tensor is computed in float32 at least and returned in the wider of its two types: share 0 gives
    the base's values and share 1 the fine-tune's, bit for bit. The fine-tune's own are tensors that are not
    floating-point, those that the base lacks or has in another shape, and the rows `new_rows` (table -> numbers).
    """
    weights: dict[str, Tensor] = {}
    whole: list[str] = []
    rows: dict[str, int] = {}
    for name, own in tuned.items():
        other = base.get(name)
        if not own.is_floating_point():
            weights[name] = own
        elif other is None or other.shape != own.shape or not other.is_floating_point():
            weights[name] = own
            whole.append(name)
        else:
            weights[name] = _between(other.cpu(), own.cpu(), share)
            if numbers := list((new_rows or {}).get(name, ())):
                weights[name][numbers] = own.cpu()[numbers].to(weights[name].dtype)
                rows[name] = len(numbers)
    return Interpolated(weights, tuple(whole), rows)


def _between(base: Tensor, tuned: Tensor, share: float) -> Tensor:
    wider = torch.promote_types(base.dtype, tuned.dtype)
    if share in (0, 1):  # a sum would turn -0.0 into 0.0
        return (tuned if share == 1 else base).detach().to(wider, copy=True)
    exact = torch.promote_types(wider, torch.float32)
    return torch.lerp(base.detach().to(exact), tuned.detach().to(exact), share).to(wider)
