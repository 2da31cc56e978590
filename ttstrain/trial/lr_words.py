"""What a range test of learning rates showed, in words."""

from __future__ import annotations

from ttstrain.trial.lr import Curve, Together


def in_words(curve: Curve) -> str:
    """Say which LR a group gets, and how it was found."""
    choice, stays = curve.choice, f"the recipe's {curve.planned:.1e} stays"
    if choice.how == "rises":
        lowest = f"{curve.lrs[0]:.1e}"
        return f"{stays}, but the loss rises already at {lowest}: set the LR to {lowest}, and tune again"
    if choice.how == "flat":
        return f"{stays}: at no LR does the loss fall clearly"
    if choice.lr is None:
        return f"{stays}: {_why_none(curve)}"
    if curve.found is None:
        return f"{stays}: {choice.lr:.1e} was measured, which is near; {_how(curve)}"
    return f"{curve.found:.1e} (recipe: {curve.planned:.1e}); {_how(curve)}"


def _why_none(curve: Curve) -> str:
    if curve.choice.how == "follows":
        return f"it follows {curve.choice.leader}, for which none was found"
    return "no LR that was tried for all groups together held"


def _how(curve: Curve) -> str:
    choice = curve.choice
    at = "" if choice.at is None else f"{choice.at:.1e}"
    if choice.how == "follows":
        return f"what it trains is not exported, so it keeps its share of the LR of {choice.leader}"
    if choice.how == "limit":
        return f"the highest that a plan accepts, far below {at}"
    if choice.how == "lowest":
        return f"a tenth of {at}, where the loss falls most; no LR up to {curve.lrs[-1]:.1e} made it worse"
    return f"a tenth of {at}, where the loss becomes worse than without training"


def held_in_words(together: Together) -> str:
    """Say what all groups did together at the LRs that were found."""
    if not together.held:
        return f"all groups together for {together.steps} steps: the loss became worse at every LR that was tried"
    said = f"all groups together for {together.steps} steps: the loss falls by {100 * together.gain:.1f} %"
    if not together.halvings:
        return said
    return f"{said}; at {2**together.halvings} times these LRs it became worse, so they were halved"
