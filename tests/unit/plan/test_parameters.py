"""What a plan says is trained, counted without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ttstrain.contract.model import ParameterCounts
from ttstrain.errors import RecipeError
from ttstrain.plan.parameters import count_parameters
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

V1 = 337_096_804
BLOCK = 4 * 16 * (1024 + 1024) + 2 * 16 * (1024 + 2048)  # rank 16: q, k, v, out, and the two of the feed-forward
MODULATION_OF_A_BLOCK = 6 * 1024 * 1024 + 6 * 1024
ATTENTION_AND_FEED_FORWARD = 4 * (1024 * 1024 + 1024) + (1024 * 2048 + 2048) + (2048 * 1024 + 1024)
MODULATION = 22 * MODULATION_OF_A_BLOCK + 2 * 1024 * 1024 + 2 * 1024


def counts(recipe: str, *overrides: str) -> ParameterCounts:
    return count_parameters(parse(compose(recipe, overrides)))


def test_a_full_fine_tuning_trains_everything() -> None:
    found = counts("f5_v1_new_voice")
    assert (found.total, found.trained, found.frozen, found.adapters) == (V1, V1, 0, 0)


@pytest.mark.parametrize("recipe", ["gpt_sovits_vae", "gpt_sovits_new_voice"])
def test_a_discriminator_is_trained_and_not_averaged(recipe: str) -> None:
    judged, alone = counts(recipe), counts(recipe, "model.vae.discriminator=false")
    assert judged.trained == judged.total > alone.total
    assert judged.averaged == judged.exported == alone.total


def test_adapters_are_added_to_a_frozen_net() -> None:
    found = counts("f5_lora")
    assert (found.adapters, found.adapted_layers) == (22 * BLOCK, 22 * 6)
    assert (found.trained, found.frozen) == (22 * BLOCK, V1)


def test_frozen_modulation_is_41_percent() -> None:
    found = counts("f5_one_minute")
    assert found.frozen == MODULATION
    assert found.frozen / found.total == pytest.approx(0.417, abs=0.001)


def test_the_first_matching_rule_decides() -> None:
    groups = "optim.groups=[{name: own, match: ['*transformer_blocks.0.*']}, {name: rest, match: ['*'], frozen: true}]"
    found = counts("f5_v1_new_voice", groups)
    assert found.trained == MODULATION_OF_A_BLOCK + ATTENTION_AND_FEED_FORWARD
    later = counts("f5_v1_new_voice", "optim.groups=[{name: rest, match: ['*'], frozen: [0, 5]}]")
    assert later.frozen == 0  # frozen for some steps only


def test_whole_parameters_beside_adapters_and_lengths_of_rows_count() -> None:
    plain = counts("f5_lora")
    dora = counts("f5_lora", "lora.dora=true")
    assert dora.trained - plain.trained == 22 * (4 * 1024 + 2048 + 1024)
    unfrozen = counts("f5_lora", "lora.unfrozen=['*text_embed.text_embed.weight']")
    assert unfrozen.trained - plain.trained == 2546 * 512


@pytest.mark.parametrize("setting", ["lora.targets=['*.attn.q']", "lora.unfrozen=['*.nothing']"])
def test_a_pattern_that_matches_nothing_is_refused_with_names(setting: str) -> None:
    with pytest.raises(RecipeError, match="matches nothing") as caught:
        counts("f5_lora", setting)
    assert "`transformer." in str(caught.value.hint)


def test_counting_imports_neither_torch_nor_peft() -> None:
    code = (
        "import sys\n"
        "from ttstrain.recipe.compose import compose\n"
        "from ttstrain.plan.parameters import count_parameters\n"
        "from ttstrain.plan.resolve import parse\n"
        "count_parameters(parse(compose('f5_lora')))\n"
        "assert not {'torch', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
