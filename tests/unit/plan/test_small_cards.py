"""What spares memory, `lora.base: nf4` and `optim.offload`: what a plan counts for it, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest

from ttstrain import registry
from ttstrain.contract.model import NF4_BYTES
from ttstrain.errors import RecipeError
from ttstrain.modules import lora
from ttstrain.plan.parameters import shapes_of
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import notes, plan_lines, shown_bytes
from ttstrain.plan.resolve import parse
from ttstrain.plan.small_cards import check_small_cards
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import LoraConfig

MakePlan = Callable[..., Plan]
NF4 = ("lora={rank: 4, base: nf4}", "base=net.safetensors")


def test_frozen_matrices_of_the_blocks_take_half_a_byte(make_plan: MakePlan) -> None:
    whole, held = make_plan(*NF4, "lora.base=full"), make_plan(*NF4)
    shapes = shapes_of(held.recipe)
    matrices = {
        name: shape[0] * shape[1]
        for name, shape in shapes.items()
        if fnmatchcase(name, "transformer.transformer_blocks.*.weight") and len(shape) == 2 and ".lora_" not in name
    }
    assert any(".attn_norm." in name for name in matrices)  # not only those that have adapters
    size = sum(matrices.values())
    assert held.parameters.in_4_bits == size and whole.parameters.in_4_bits == 0
    assert whole.memory["weights"] - held.memory["weights"] == pytest.approx((4 - NF4_BYTES) * size, abs=1)
    assert held.parameters.total == whole.parameters.total
    assert held.memory["gradients"] == whole.memory["gradients"]
    assert held.disk_bytes == whole.disk_bytes
    assert any("exported over the base's own weights" in note for note in notes(held))
    assert not any("4 bits" in note for note in notes(whole))


def test_what_is_trained_whole_is_not_held_in_4_bits(make_plan: MakePlan) -> None:
    every, some = make_plan(*NF4), make_plan(*NF4, "lora.unfrozen=['*transformer_blocks.0.ff.*']")
    trained = some.parameters.trained - every.parameters.trained
    assert 0 < every.parameters.in_4_bits - some.parameters.in_4_bits < trained  # biases never were


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("lora.dora=true",), "`lora.dora` scales rows"),
        (("train.parallel.shard=2",), "`train.parallel.shard` would cut them"),
        (("train.compile=true",), "`train.compile` and `lora.base=nf4`"),
        (("base=null",), "`lora` needs a base"),
    ],
)
def test_what_it_is_not_made_for_is_refused(make_plan: MakePlan, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make_plan(*NF4, *overrides, world_size=2)
    assert caught.value.hint


def test_a_task_without_blocks_is_refused() -> None:
    shapes = registry.planner_of(parse(compose("smoke/gpt_sovits_vae"))).parameter_shapes()
    layer = next(name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight"))
    adapted = f"lora={{targets: ['{layer.removesuffix('.weight')}'], base: nf4}}"
    with pytest.raises(RecipeError, match="finds nothing to hold in 4 bits"):
        check_small_cards(parse(compose("smoke/gpt_sovits_vae", [adapted, "base=x"])))


def test_shards_that_are_chosen_leave_it_whole(make_plan: MakePlan) -> None:
    found = make_plan(*NF4, "train.parallel.shard=auto", "train.device=cuda", world_size=2, gpu_memory=1)
    assert found.sharding.degree == 1 and "lora.base=nf4" in found.sharding.why


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else sys)
    lora.check_installed(LoraConfig())
    with pytest.raises(RecipeError, match="needs bitsandbytes") as caught:
        lora.check_installed(LoraConfig(base="nf4"))
    assert caught.value.hint == "pip install 'ttstrain[nf4]'"


def test_offloaded_state_is_counted_on_the_host(make_plan: MakePlan) -> None:
    plain, offloaded = make_plan(), make_plan("optim.offload=true")
    assert "offloaded" not in plain.memory
    assert offloaded.memory["offloaded"] == plain.memory["moments"] == 8 * plain.parameters.trained
    assert offloaded.memory_bytes == plain.memory_bytes - plain.memory["moments"]
    assert offloaded.disk_bytes == plain.disk_bytes
    (told,) = [line for line in plan_lines(offloaded) if "of host memory for optimizer state" in line]
    assert shown_bytes(plain.memory["moments"]) in told


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optim.kind=lion",), "`optim.kind` is `lion`"),
        (("train.parallel.shard=2",), "`train.parallel.shard` divides it"),
    ],
)
def test_state_that_cannot_be_offloaded_is_refused(
    make_plan: MakePlan, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make_plan("optim.offload=true", *overrides, world_size=2)
    assert caught.value.hint


def test_shards_that_are_chosen_leave_offloaded_state_whole(make_plan: MakePlan) -> None:
    found = make_plan(
        "optim.offload=true", "train.parallel.shard=auto", "train.device=cuda", world_size=2, gpu_memory=1
    )
    assert found.sharding.degree == 1 and "optim.offload" in (found.sharding.why or "")
