"""The operations of a step are those that torch counts while it is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowData, FlowExample
from ttstrain.families.flow.task import FlowTask

NETS: dict[str, dict[str, Any]] = {
    "dit": {"backbone": "dit", "conv_layers": 1, "text_dim": 32},
    "dit with a long skip": {"backbone": "dit", "conv_layers": 1, "text_dim": 32, "long_skip_connection": True},
    "unett": {"backbone": "unett", "conv_layers": 0, "text_dim": 100, "text_mask_padding": False},
}
FRAMES = 400  # without padding, a few times the width: attention counts


def task_and_batch(name: str) -> tuple[FlowTask, Any]:
    config = FlowConfig(dim=128, depth=4, heads=2, dim_head=64, tokenizer="char", **NETS[name])
    examples = [
        FlowExample(id=str(i), mel=torch.randn(FRAMES, config.n_mels), text=torch.tensor([1, 2, 3])) for i in range(2)
    ]
    task = FlowTask(config)
    return task, task.draw(FlowData(config).collate(examples))


def counted(task: FlowTask, batch: Any) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no kernel of the CPU
        for loss in task.losses(batch):
            loss.value.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NETS)
def test_a_step_takes_what_torch_counts(name: str) -> None:
    task, batch = task_and_batch(name)
    assert task.flops(batch) == pytest.approx(counted(task, batch), rel=0.03)


def test_weights_that_are_not_trained_take_no_gradient() -> None:
    task, batch = task_and_batch("dit")
    for name, parameter in task.named_parameters():
        parameter.requires_grad_("input_embed" in name)
    assert task.flops(batch) == pytest.approx(counted(task, batch), rel=0.03)


def test_padding_takes_nothing() -> None:
    task, _ = task_and_batch("dit")
    config = task.config
    longer = FlowExample(id="long", mel=torch.randn(3 * FRAMES, config.n_mels), text=torch.tensor([1]))
    short = FlowExample(id="short", mel=torch.randn(FRAMES, config.n_mels), text=torch.tensor([1]))
    data = FlowData(config)
    alone = [task.flops(data.collate([example])) for example in (longer, short)]
    assert task.flops(data.collate([longer, short])) == pytest.approx(sum(alone))
