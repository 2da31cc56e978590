"""`train.compile`: compiled blocks give the numbers of blocks as they are written, in a bounded number of forms."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from toys import Regression

from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.task import FlowTask
from ttstrain.modules.lora import add_lora
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import LoraConfig
from ttstrain.train.compiled import as_written, compile_blocks, num_forms

CPU = torch.device("cpu")
TRACED = "eager"  # the graphs that the compiler is given, run as they are: cheap
TINY: dict[str, Any] = {"dim": 16, "depth": 3, "heads": 2, "dim_head": 8, "ff_mult": 2, "text_dim": 8, "n_mels": 8}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(**changes: Any) -> FlowTask:
    torch.manual_seed(0)
    task = FlowTask(FlowConfig(**{**TINY, "conv_layers": 0, "dropout": 0.0, **changes}))
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return task


def batch_of(lengths: list[int]) -> FlowBatch:
    generator = torch.Generator().manual_seed(sum(lengths))
    longest = max(lengths)
    return FlowBatch(
        ids=[str(i) for i in range(len(lengths))],
        mel=torch.randn(len(lengths), longest, TINY["n_mels"], generator=generator),
        mel_lengths=torch.tensor(lengths),
        lengths=torch.tensor(lengths),
        text=torch.randint(0, 20, (len(lengths), 5), generator=generator),
        weight=float(sum(lengths)),
        num_frames=sum(lengths),
        num_padded=len(lengths) * longest,
    )


def learn(task: FlowTask, batch: FlowBatch, *, half: bool = False) -> list[torch.Tensor]:
    """Return the loss and all gradients."""
    torch.manual_seed(1)
    task.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        (loss,) = task.losses(task.draw(batch))
    loss.value.backward()
    gradients = [own.grad for own in task.parameters() if own.grad is not None]
    return [loss.value.detach(), *gradients]


def farthest(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Return the largest distance of two tensors, relative to the second's largest value."""
    pairs = zip(left, right, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)


KINDS: dict[str, dict[str, Any]] = {
    "dit": {},
    "recomputed": {"checkpoint_activations": True},
    "e2": {"backbone": "unett", "depth": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_the_blocks_as_written(kind: str) -> None:
    task = make(**KINDS[kind])
    compiled = copy.deepcopy(task)
    compile_blocks(compiled, CPU, backend=TRACED)
    assert list(compiled.state_dict()) == list(task.state_dict())
    for lengths in ([9, 7], [12, 12, 5], [30, 20, 11, 8]):
        batch = batch_of(lengths)
        assert farthest(learn(compiled, batch), learn(task, batch)) < 1e-5
    assert num_forms() == (1 if kind != "e2" else 2), "one for all blocks of a class and all sizes"


def test_adapters_and_evaluation_are_those_as_written_in_a_bounded_number_of_forms() -> None:
    task = make(depth=2)
    add_lora(task, LoraConfig(rank=2, targets=["*.to_q", "*.to_v"]))
    for name, parameter in task.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    compiled = copy.deepcopy(task)
    compile_blocks(compiled, CPU, backend=TRACED)
    batches = [batch_of(lengths) for lengths in ([9, 7], [9], [6, 5, 4])]
    for batch in batches:
        assert farthest(learn(compiled, batch), learn(task, batch)) < 1e-5
    held_out = [task.eval().evaluate(batch, torch.Generator().manual_seed(0)) for batch in batches]
    again = [compiled.eval().evaluate(batch, torch.Generator().manual_seed(0)) for batch in batches]
    for left, right in zip(again, held_out, strict=True):
        assert farthest(list(left.values()), list(right.values())) < 1e-5
    assert num_forms() == 6, "one clip or several: evaluated, of the first block, and of those behind adapters"


def test_half_precision_is_that_as_written() -> None:
    task = make(depth=1)
    compiled = copy.deepcopy(task)
    compile_blocks(compiled, CPU, backend=TRACED)
    batch = batch_of([9, 7])
    assert farthest(learn(compiled, batch, half=True), learn(task, batch, half=True)) < 1e-2


def test_new_weights_and_hooks_inside_blocks_are_used() -> None:
    task = make(depth=1)
    compile_blocks(task, CPU, backend=TRACED)
    batch, other = batch_of([9, 7]), make(depth=1)
    first = learn(task, batch)
    with torch.no_grad():
        for own, new in zip(task.parameters(), other.parameters(), strict=True):
            own.copy_(new.mul_(2))  # as EMA weights are put in, and as an optimizer steps
    assert farthest(learn(task, batch), learn(other, batch)) < 1e-5 < farthest(learn(task, batch), first)
    seen: list[str] = []
    (block,) = task.repeated_blocks()
    block.get_submodule("attn.to_q").register_forward_hook(lambda *_: seen.append("to_q"))
    with as_written(task):
        learn(task, batch)
    assert seen == ["to_q"]


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(RecipeError, match="Regression names no blocks"):
        compile_blocks(Regression(), CPU, backend=TRACED)

    def broken(graph: Any, examples: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    with pytest.raises(RecipeError, match=r"does not work on this machine: .*no C\+\+ compiler found") as caught:
        compile_blocks(make(depth=1), CPU, backend=broken)
    assert "or leave `train.compile` out" in str(caught.value.hint)
    for name, override, said in (
        ("smoke/orpheus", [], "`train.compile` is not for `orpheus`"),
        ("smoke/flow", ["train.parallel.shard=2"], "`train.compile` and `train.parallel.shard` do not go together"),
        ("smoke/flow", ["train.parallel.shard=auto"], "`train.compile` and `train.parallel.shard` do not go together"),
    ):
        with pytest.raises(RecipeError, match=said):
            parse(compose(name, ["train.compile=true", *override]))


@pytest.mark.slow
@pytest.mark.skipif("TTSTRAIN_TEST_COMPILER" not in os.environ, reason="needs $TTSTRAIN_TEST_COMPILER: takes a minute")
def test_code_that_the_compiler_writes_gives_the_same_numbers() -> None:
    task = make(depth=2)
    compiled = copy.deepcopy(task)
    compile_blocks(compiled, CPU)
    for lengths in ([9, 7], [12, 12, 5], [30, 20, 11, 8], [17, 3]):
        batch = batch_of(lengths)
        assert farthest(learn(compiled, batch), learn(task, batch)) < 1e-5
    assert num_forms() == 1
