"""What `train.parallel.shard: auto` chooses for GPUs of made-up sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ttstrain.errors import RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import GPU_SHARE, notes, plan_lines, recipe_yaml
from ttstrain.plan.sharding import Room, choose_sharding

MakePlan = Callable[..., Plan]
AUTO = "train.parallel.shard=auto"
LARGE = 10**15  # bytes


def gpu_for(plan: Plan, *, spare: int = 2) -> int:
    """Return a GPU's bytes that just hold a process of this plan, `spare` above or below."""
    return int(plan.memory_bytes / GPU_SHARE) + spare


def said(plan: Plan) -> str:
    return " ".join(" ".join(plan_lines(plan)).split())


def too_large(plan: Plan) -> list[str]:
    return [note for note in notes(plan) if "does not fit" in note]


@pytest.fixture
def by_degree(make_plan: MakePlan) -> dict[int, Plan]:
    return {degree: make_plan(f"train.parallel.shard={degree}", world_size=6) for degree in (1, 2, 3, 6)}


def test_each_degree_takes_less_than_the_one_before(by_degree: dict[int, Plan]) -> None:
    sizes = [plan.memory_bytes for plan in by_degree.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_the_smallest_degree_that_fits_is_chosen(make_plan: MakePlan, by_degree: dict[int, Plan], degree: int) -> None:
    plan = make_plan(AUTO, world_size=6, gpu_memory=gpu_for(by_degree[degree]))
    assert (plan.sharding.degree, plan.sharding.fits) == (degree, True)
    assert plan.memory == by_degree[degree].memory
    assert plan.sample_every == by_degree[degree].sample_every
    assert too_large(plan) == []


def test_a_byte_less_takes_the_next_degree(make_plan: MakePlan, by_degree: dict[int, Plan]) -> None:
    plan = make_plan(AUTO, world_size=6, gpu_memory=gpu_for(by_degree[2], spare=-2))
    assert plan.sharding.degree == 3


def test_only_numbers_that_divide_the_processes_are_chosen(make_plan: MakePlan) -> None:
    three = make_plan("train.parallel.shard=3", world_size=3)
    assert make_plan(AUTO, world_size=4, gpu_memory=gpu_for(three)).sharding.degree == 4


def test_where_no_degree_fits_the_largest_is_taken_and_told(make_plan: MakePlan, by_degree: dict[int, Plan]) -> None:
    plan = make_plan(AUTO, world_size=6, gpu_memory=gpu_for(by_degree[6], spare=-2))
    assert (plan.sharding.degree, plan.sharding.fits) == (6, False)
    (note,) = too_large(plan)
    assert "6 processes" in note


@pytest.mark.parametrize(
    ("more", "world_size", "gpu_memory", "why"),
    [
        ([], 1, 1, "the run has one process"),
        (["train.device=cpu"], 4, 1, "the run is on a CPU"),
        (["optim.kind=muon"], 4, 1, "`optim.kind=muon` looks at whole tensors"),
        (["optim.optimizers.model.kind=prodigy"], 4, 1, "`optim.optimizers.model.kind=prodigy` looks at whole tensors"),
        ([], 4, None, "there is no GPU here whose memory is known"),
    ],
)
def test_what_cannot_be_divided_is_whole_and_says_why(
    make_plan: MakePlan, more: list[str], world_size: int, gpu_memory: int | None, why: str
) -> None:
    plan = make_plan(AUTO, *more, world_size=world_size, gpu_memory=gpu_memory)
    assert (plan.sharding.degree, plan.sharding.why) == (1, why)
    assert f"auto: 1, as {why}" in said(plan)


def test_a_model_whose_activations_are_not_counted_says_so(make_plan: MakePlan) -> None:
    recipe = make_plan(AUTO).recipe
    memory = {"weights": 400, "gradients": 400, "moments": 800, "snapshot": LARGE}
    sharding = choose_sharding(recipe, memory, world_size=2, weight_bytes=4, room=Room(2000))
    assert sharding.why == (
        "whole copies take 1,600 bytes before activations, and a GPU of 2,000 bytes gives 1,840 bytes"
    )


def test_a_resume_keeps_what_was_chosen(make_plan: MakePlan) -> None:
    plan = make_plan(AUTO, world_size=4, gpu_memory=LARGE, kept_shard=2)
    assert (plan.sharding.degree, plan.sharding.fits) == (2, True)
    assert "auto: 2, as at the run's last start, which had 4 processes" in said(plan)
    assert make_plan(AUTO, world_size=4, gpu_memory=1, kept_shard=2).sharding.fits is False
    assert make_plan(AUTO, world_size=4, kept_shard=2).sharding.degree == 1  # on a CPU


def test_a_set_degree_is_used_whatever_the_gpu(make_plan: MakePlan) -> None:
    plan = make_plan("train.parallel.shard=2", world_size=4, gpu_memory=LARGE, kept_shard=4)
    assert (plan.sharding.degree, plan.sharding.why, plan.sharding.fits) == (2, None, None)
    assert "auto:" not in said(plan)


def test_the_choice_stands_in_the_plan_and_the_recipe_stays_auto(
    make_plan: MakePlan, by_degree: dict[int, Plan]
) -> None:
    plan = make_plan(AUTO, world_size=6, gpu_memory=gpu_for(by_degree[2]))
    assert plan.to_json()["sharding"] == {"degree": 2, "why": plan.sharding.why, "fits": True}
    assert plan.to_json()["recipe"]["train"]["parallel"]["shard"] == "auto"
    assert f"auto: 2, as {plan.sharding.why}" in said(plan)
    (line,) = [line for line in recipe_yaml(plan).splitlines() if line.strip().startswith("shard:")]
    assert line.split() == ["shard:", "auto", "#", "command", "line:", "2"]


def test_auto_is_not_for_a_set_number_of_groups(make_plan: MakePlan) -> None:
    with pytest.raises(RecipeError, match="decides `replicate` too"):
        make_plan("train.parallel={shard: auto, replicate: 2}", world_size=4)
