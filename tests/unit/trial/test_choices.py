"""What is chosen from what was measured: a budget, loader processes, learning rates; and how it is written down."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttstrain.errors import RecipeError
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.trial import overrides, picture
from ttstrain.trial.fit import Fit, Tried, search
from ttstrain.trial.lr import Curve, Together
from ttstrain.trial.lr_choice import Choice
from ttstrain.trial.memory import read_size, room_within
from ttstrain.trial.tune import Tuned
from ttstrain.trial.workers import Waited, best_of


def taking(per_frame: float, *, fixed: float = 1e9, fails_from: float = math.inf) -> Callable[[int], Tried]:
    def take(budget: int) -> Tried:
        return Tried(budget, round(fixed + per_frame * budget), failed=budget >= fails_from)

    return take


def best(tried: list[Tried], room: int) -> int:
    return max(one.budget for one in tried if not one.failed and one.memory <= room)


def test_the_room_is_nearly_filled_in_a_few_trials() -> None:
    room = 12 * 10**9
    tried = search(taking(2e6), smallest=400, largest=10**6, room=room)
    assert len(tried) <= 6
    assert 0.9 * room < 1e9 + 2e6 * best(tried, room) <= room
    assert [one.budget for one in tried] == sorted(one.budget for one in tried)


def test_attention_that_grows_faster_than_the_line_is_stepped_back_from() -> None:
    room = 12 * 10**9

    def take(budget: int) -> Tried:
        return Tried(budget, round(1e9 + 400 * budget**2))

    tried = search(take, smallest=400, largest=10**6, room=room)
    assert any(one.memory > room for one in tried)  # the line led too far once
    assert take(best(tried, room)).memory <= room


def test_nothing_larger_is_tried_than_the_data_can_fill() -> None:
    tried = search(taking(1.0), smallest=400, largest=1234, room=10**12)
    assert tried[-1].budget == 1234


def test_a_budget_that_fails_is_not_chosen() -> None:
    tried = search(taking(1e6, fails_from=700), smallest=400, largest=10**6, room=10**12)
    assert tried[1].failed and best(tried, 10**12) < 700


def test_where_the_smallest_is_too_large_nothing_else_is_tried() -> None:
    assert len(search(taking(1e9), smallest=400, largest=10**6, room=10**9)) == 1


@pytest.mark.parametrize(("text", "size"), [("12GB", 12e9), ("800 mb", 8e8), ("1.5GiB", 1.5 * 2**30)])
def test_sizes_are_read(text: str, size: float) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["12XB", "0GB", "twelve", "12", "-3GB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_size(text)
    assert caught.value.exit_code == 2 and "--fit 12GB" in str(caught.value.hint)


def test_memory_that_is_not_there_is_refused() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(RecipeError, match="there is no GPU here") as no_gpu:
        room_within(12 * 10**9, cpu, wanted="auto")
    assert "train.device=cpu" in str(no_gpu.value.hint)
    with pytest.raises(RecipeError, match="cannot be fitted: this machine has"):
        room_within(10**15, cpu, wanted="cpu")
    assert room_within(10**8, cpu, wanted="cpu") == 10**8


def test_the_fewest_processes_with_a_short_wait_are_chosen() -> None:
    assert best_of([Waited(0, 0.5, 1.0), Waited(1, 0.1, 0.6), Waited(2, 0.01, 0.51)]).workers == 2
    assert best_of([Waited(0, 0.001, 1.0), Waited(1, 0.0, 0.9)]).workers == 0
    assert best_of([Waited(0, 0.5, 1.0), Waited(1, 0.4, 0.9), Waited(2, 0.5, 1.1)]).workers == 1


# ---------------------------------------------------------------- learning rates


def curve(rule: str, planned: float, found: float | None, optimizer: str = "model") -> Curve:
    choice = Choice("flat") if found is None else Choice("worse", found, 10 * found)
    return Curve(optimizer, rule, planned, choice, (planned / 10, planned), (0.0, 0.1))


RECIPE = """
task: flow
extends: [models/f5_tiny]
optim:
  lr: 1e-4
  groups:
    - {name: text, match: ['*text_embed*'], lr_scale: 0.5}
    - {name: out, match: ['*proj_out*'], lr: 3e-5}
    - {name: input, match: ['*input_embed*']}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_lrs_become_overrides_that_leave_the_other_groups_alone(recipe: Path) -> None:
    kept = [curve("out", 3e-5, None), curve("input", 1e-4, None)]
    curves = [curve("text", 5e-5, 2e-4), *kept, curve("default", 1e-4, 4e-4)]
    found = overrides.of_lrs(parse(compose(recipe)), curves)
    assert found == {"optim.lr": 4e-4, "optim.groups.2.lr": 1e-4}  # half of the new LR is what was found for `text`
    tuned = parse(compose(recipe, overrides.as_arguments(found)))
    rules = tuned.optim.groups
    assert tuned.optim.lr * (rules[0].lr_scale or 0) == pytest.approx(2e-4)
    assert rules[1].lr == 3e-5
    assert rules[2].lr == 1e-4


def test_a_recipe_can_extend_what_was_written(recipe: Path) -> None:
    found = {"data.batch_frames": 5200, "data.workers": 2, "optim.groups.1.lr": 2e-4}
    whole = compose(recipe, overrides.as_arguments(found))
    written = overrides.as_config(found, whole, title="What was measured.")
    (recipe.parent / "tuned.yaml").write_text(written, encoding="utf-8")
    user = recipe.parent / "user.yaml"
    user.write_text("task: flow\nextends: [models/f5_tiny, ./tuned.yaml]\n", encoding="utf-8")
    read = parse(compose(user))
    assert read.data.batch_frames == 5200 and read.data.workers == 2
    assert [rule.lr for rule in read.optim.groups] == [None, 2e-4, None]
    assert "data.batch_frames=5200 data.workers=2" in written.splitlines()[2]


def test_the_picture_is_one_svg_with_everything_in_it() -> None:
    found = Fit(800, 900, 1000, (Tried(400, 500), Tried(800, 900), Tried(900, 1100)), "memory")
    curves = [curve("default", 1e-4, 4e-5), curve("<text>", 1e-4, None)]
    waits = [Waited(0, 0.1, 1.0), Waited(1, 0.0, 1.0)]
    tuned = Tuned("r & d", "cpu", found, waits, 1, curves, Together(40, 0.1, 0), {}, "{}\n")
    root = ET.fromstring(picture.draw(tuned))
    drawn = "".join(root.itertext())
    assert "model/<text>" in drawn and "r & d" in drawn and "800" in drawn and "4.0e-05" in drawn
    assert "worse from 4.0e-04" in drawn and "1 loader process" in drawn and "1 loader processes" not in drawn
    assert len(root.findall("{http://www.w3.org/2000/svg}g")) == 4
    one_wait = Tuned("r & d", "cpu", None, waits[:1], 0, curves, Together(40, 0.1, 0), {}, "{}\n")
    assert len(ET.fromstring(picture.draw(one_wait)).findall("{http://www.w3.org/2000/svg}g")) == 2
    assert "http" not in picture.draw(tuned).replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("accumulate", "budget", "found"),
    [
        (1, 300, {}),
        (1, 900, {"data.batch_frames": 900}),
        (6, 900, {"data.batch_frames": 900, "train.accumulate": 2}),
        (2, 5000, {"data.batch_frames": 5000, "train.accumulate": 1}),
        (2, 200, {"data.batch_frames": 200}),
    ],
)
def test_a_larger_budget_keeps_the_frames_of_a_step(accumulate: int, budget: int, found: dict[str, int]) -> None:
    recipe = SimpleNamespace(data=SimpleNamespace(batch_frames=300), train=SimpleNamespace(step_frames=None))
    plan: Any = SimpleNamespace(recipe=recipe, accumulate=accumulate)
    assert overrides.of_budget(plan, budget) == found
