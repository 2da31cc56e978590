"""What the trained forward may depend on, and whether it is the forward that speaks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.prove.finding import Finding

# Of the mean size of the outputs. Where nothing leaks, the same kernel runs on the same shapes: sums may only be
# ordered differently. What leaks moves outputs by about their own size.
LEAK = 1e-3
SAME = 1e-3  # of the largest output: another order of sums, or another kernel
SAME_HALF = 5e-2  # where weights are kept in half precision
DECIDED = 1.01  # times the lower of two losses: the other is above it, or nothing is decided between them


def check_changes(changes: Iterable[Change | Omitted]) -> Finding:
    """Judge whether the future, the target, padding or another clip leaks into what the net is trained to say."""
    held: list[str] = []
    omitted: list[str] = []
    numbers: dict[str, float] = {}
    for change in changes:
        if isinstance(change, Omitted):
            omitted.append(f"{change.what}: {change.why}")
            continue
        still, moving = _moved(change)
        numbers[f"{change.changed}: {change.unmoved}"] = still
        if still > LEAK:
            return Finding(
                "leaks",
                "FAULT",
                f"changing {change.changed} moves {change.unmoved} by {still:.2g} of their size: it leaks",
                numbers,
            )
        if moving is not None and moving <= LEAK * LEAK:
            return Finding(
                "leaks",
                "FAULT",
                f"changing {change.changed} moves nothing at all: the net does not use it",
                numbers,
            )
        held.append(_told(change))
    said = "; ".join([*held, *(f"not tried: {one}" for one in omitted)])
    return Finding("leaks", "ok" if held else "skipped", said or "the family states no limits of its forward", numbers)


def _told(change: Change) -> str:
    if not bool(change.still.any()):
        return f"{change.changed}: used"
    return f"{change.changed}: {change.unmoved} unmoved"


def _moved(change: Change) -> tuple[float, float | None]:
    """Return how far outputs moved where they must not, and where one must, relative to their mean size."""
    before, after = change.before.detach().float(), change.after.detach().float()
    size = max(float(before.abs().mean()), 1e-12)
    moved = (after - before).abs().reshape(len(before), -1).amax(dim=1) / size  # (u,)
    still = float(moved[change.still].max()) if bool(change.still.any()) else 0.0
    if change.moving is None:
        return still, None
    return still, float(moved[change.moving].max())


def check_twins(twins: Iterable[Twin | Omitted], *, half: bool) -> Finding:
    """Judge whether training and speaking compute the same numbers."""
    limit = SAME_HALF if half else SAME
    held: list[str] = []
    omitted: list[str] = []
    numbers: dict[str, float] = {}
    for twin in twins:
        if isinstance(twin, Omitted):
            omitted.append(f"{twin.what}: {twin.why}")
            continue
        off = _difference(twin.trained, twin.spoken)
        numbers[twin.what] = off
        if not off <= limit:
            return Finding(
                "same net",
                "FAULT",
                f"{twin.what}: the forward that speaks differs from the one that is trained by {off:.2g} of the "
                "largest value",
                numbers,
            )
        held.append(f"{twin.what} (within {off:.1g})")
    said = "; ".join([*held, *(f"not tried: {one}" for one in omitted)])
    return Finding("same net", "ok" if held else "skipped", said or "the family offers no comparison", numbers)


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    one, other = one.detach().float().cpu(), other.detach().float().cpu()
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        return math.inf
    return float((one - other).abs().max()) / max(float(one.abs().max()), 1e-12)


def check_alignments(found: Iterable[Alignment | Omitted], *, steps: int) -> Finding:
    """Judge whether what is said fits the clip best without a shift."""
    told: list[str] = []
    omitted: list[str] = []
    numbers: dict[str, dict[str, float]] = {}
    for scan in found:
        if isinstance(scan, Omitted):
            omitted.append(f"{scan.what}: {scan.why}")
            continue
        numbers[scan.what] = {str(shift): round(loss, 6) for shift, loss in scan.losses.items()}
        best = min(scan.losses, key=lambda shift: scan.losses[shift])
        zero = scan.losses[0]
        nearest = min(loss for shift, loss in scan.losses.items() if shift)
        listed = ", ".join(f"{shift:+d}: {loss:.3g}" if shift else f"0: {loss:.3g}" for shift, loss in _ordered(scan))
        if best != 0 and zero > DECIDED * scan.losses[best]:
            return Finding(
                "shifts",
                "FAULT",
                f"{scan.what}: a shift of {best:+d} {scan.unit} fits better than none ({listed}): targets are shifted",
                numbers,
            )
        if nearest < DECIDED * zero:
            omitted.append(f"{scan.what}: no shift is told apart after {steps} steps ({listed})")
        else:
            told.append(f"{scan.what}: no shift fits best ({listed} {scan.unit})")
    said = "; ".join([*told, *(f"undecided: {one}" for one in omitted)])
    return Finding("shifts", "ok" if told else "skipped", said or "the family offers no scan", numbers)


def _ordered(scan: Alignment) -> Sequence[tuple[int, float]]:
    return sorted(scan.losses.items())
