"""Detect trainable parameters without a gradient in the first steps."""

from __future__ import annotations

from collections.abc import Sequence

from ttstrain.errors import RecipeError
from ttstrain.modules import lora
from ttstrain.train.run import Run

FIRST_STEPS = 10  # several: a parameter may be used for few clips only
SHOWN = 3


def tell_of_untrained(run: Run) -> None:
    """Report once the trainable parameters that had no gradient in the first steps that train them.

    Raises RecipeError, on every process, if one is a LoRA adapter: `lora.targets` asked to train it. Does not
    synchronise with the device.
    """
    after = min(FIRST_STEPS, run.optimizers.curriculum.total_steps)
    names = run.optimizers.take_without_gradient(after=after)
    if adapters := [name for name in names if lora.is_up(name)]:
        raise RecipeError(
            f"`lora.targets`: the adapter of `{lora.layer_of(adapters[0])}` had no gradient in the first {after} "
            f"steps{_others(adapters[1:])}",
            hint="no loss depends on it: the model does not call this layer, or not for this data. Leave it out of "
            "`lora.targets`",
        )
    if names and run.ranks.main:
        run.trackers.note(
            f"no gradient in the first {after} steps: {_quoted(names)}. No loss has used them so far; a parameter "
            "without a gradient is not trained"
        )


def _others(names: Sequence[str]) -> str:
    return f", nor had those of {len(names)} other layers" if names else ""


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(f'`{name}`' for name in names[:SHOWN])}{more}"
