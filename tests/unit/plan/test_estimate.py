"""What a step takes at its peak, from what lies on the device at some moments of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.plan.estimate import ACTIVATIONS, memory_bytes
from ttstrain.plan.parameters import count_parameters
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

FRAMES = [400] * 60


def recipe_of(name: str, *overrides: str) -> ResolvedRecipe:
    return parse(compose(name, overrides))


def memory(recipe: ResolvedRecipe, *, lengths: Sequence[int] = FRAMES, accumulate: int = 1) -> dict[str, int]:
    return memory_bytes(recipe, count_parameters(recipe), lengths=lengths, accumulate=accumulate)


def test_gradients_are_there_in_the_forward_pass_only_after_another_micro_batch() -> None:
    recipe = recipe_of("f5_v1_new_voice")
    one, two, many = (memory(recipe, accumulate=number) for number in (1, 2, 8))
    assert two[ACTIVATIONS] - one[ACTIVATIONS] == one["gradients"]
    assert two == many


def test_where_gradients_outweigh_activations_nothing_is_added_to_them() -> None:
    assert memory(recipe_of("f5_v1_new_voice"), lengths=[20])[ACTIVATIONS] == 0


def test_the_gpts_gradients_lie_there_while_the_vae_is_trained() -> None:
    recipe = recipe_of("gpt_sovits_new_voice")
    both, alone = memory(recipe), memory(recipe_of("gpt_sovits_vae"))
    peaks = [one[ACTIVATIONS] + one["gradients"] for one in (both, alone)]
    assert peaks[0] - peaks[1] > 4 * 77_000_000  # bytes of the GPT's


@pytest.mark.parametrize("name", ["f5_v1_new_voice", "gpt_sovits_vae", "gpt_sovits_gpt"])
def test_a_large_set_takes_what_a_part_of_it_takes(name: str) -> None:
    lengths = [random.randint(100, 1500) for _ in range(100_000)]
    recipe = recipe_of(name)
    part = memory(recipe, lengths=lengths[:9_000], accumulate=2)
    assert memory(recipe, lengths=lengths, accumulate=2)[ACTIVATIONS] == pytest.approx(part[ACTIVATIONS], rel=0.02)
