"""What is to be trained and gets no gradient is named; an adapter without one is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import Regression, ToyBatch, make_batch, make_run

from ttstrain.contract.task import Loss, Task
from ttstrain.errors import RecipeError
from ttstrain.modules import lora
from ttstrain.recipe.schema import LoraConfig, OptimConfig
from ttstrain.train.step import train_step
from ttstrain.train.untrained import FIRST_STEPS, tell_of_untrained


class Bypassed(Task):
    """Reads the weights of a layer, which it does not call, leaves a second one alone and needs a third at times."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.left, self.rare, self.out = (nn.Linear(4, 4) for _ in range(4))

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        hidden = F.linear(batch.x, self.read.weight, self.read.bias)
        if len(batch.ids) > 4:
            hidden = self.rare(hidden)
        yield Loss(F.mse_loss(self.out(hidden)[:, :3], batch.y))

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {}


def told(run: Any, sizes: list[int]) -> list[str]:
    notes: list[str] = []
    run.trackers = SimpleNamespace(note=notes.append)
    for size in sizes:
        train_step(run, [make_batch(size)])
        tell_of_untrained(run)
    return notes


def test_a_parameter_without_gradient_in_the_first_steps_is_named_once() -> None:
    (note,) = told(make_run(Bypassed()), [4] * (FIRST_STEPS - 1) + [5] + [4] * FIRST_STEPS)
    assert note.startswith("no gradient in the first 10 steps: `left.weight`, `left.bias`. No loss")


def test_it_is_not_named_before_nor_where_all_have_one() -> None:
    assert told(make_run(Bypassed()), [4] * (FIRST_STEPS - 1)) == []
    assert told(make_run(Regression()), [4] * 2 * FIRST_STEPS) == []


def test_a_run_that_is_shorter_names_it_at_its_end() -> None:
    (note,) = told(make_run(Bypassed(), total_steps=3), [4, 4, 4])
    assert note.startswith("no gradient in the first 3 steps: `left.weight`, `rare.weight`, `left.bias` and 1 more.")


def test_steps_that_leave_a_group_frozen_do_not_count() -> None:
    rule = {"name": "late", "match": ["left.*", "out.*"], "frozen": [0, 5]}
    run = make_run(Bypassed(), optim=OptimConfig.model_validate({"lr": 1e-2, "groups": [rule]}))
    assert told(run, [5] * (FIRST_STEPS + 4)) == []
    (note,) = told(run, [5])
    assert "`left.weight`, `left.bias`" in note


@pytest.mark.parametrize(("layers", "named"), [(["read", "out"], "read"), (["left", "out"], "left")])
def test_an_adapter_without_gradient_is_an_error(layers: list[str], named: str) -> None:
    pytest.importorskip("peft")
    task = Bypassed()
    lora.add_lora(task, LoraConfig(rank=2, targets=layers))
    with pytest.raises(RecipeError, match=f"the adapter of `{named}` had no gradient in the first 10 steps$"):
        told(make_run(task), [5] * FIRST_STEPS)


def test_adapters_that_are_used_pass() -> None:
    pytest.importorskip("peft")
    task = Bypassed()
    lora.add_lora(task, LoraConfig(rank=2, targets=["out"]))
    assert told(make_run(task), [5] * FIRST_STEPS) == []
