"""The operations of a step are those that torch counts while it is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.cost import activation_bytes
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


# ---------------------------------------------------------------- memory


def saved_bytes(config: FlowConfig, *, half: bool) -> float:
    """Return the bytes a frame that torch keeps for the backward pass, weights and their casts aside."""
    task = FlowTask(config)
    examples = [
        FlowExample(id=str(i), mel=torch.randn(FRAMES, config.n_mels), text=torch.arange(1, 30)) for i in range(2)
    ]
    batch = task.draw(FlowData(config).collate(examples))
    weights = {tuple(parameter.shape) for parameter in task.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not weights & {tuple(tensor.shape), tuple(tensor.shape[::-1])}:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        next(task.losses(batch))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / (2 * FRAMES)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dit", {}),
        ("dit", {"qk_norm": "rms_norm", "ff_mult": 4}),
        ("dit", {"dropout": 0.0, "heads": 8}),
        ("unett", {}),
    ],
)
def test_a_forward_pass_leaves_about_what_torch_keeps(name: str, settings: dict[str, Any], half: bool) -> None:
    config = FlowConfig(
        **{"dim": 256, "depth": 6, "heads": 4, "dim_head": 64, "tokenizer": "char", **NETS[name], **settings}
    )
    found = saved_bytes(config, half=half)
    assert activation_bytes(config, size=2 if half else 4) == pytest.approx(found, rel=0.15)


def test_layers_that_are_computed_again_leave_their_inputs() -> None:
    nets = [
        FlowConfig(dim=128, depth=depth, heads=2, tokenizer="char", checkpoint_activations=True) for depth in (2, 6)
    ]
    shallow, deep = (saved_bytes(net, half=False) for net in nets)
    counted = [activation_bytes(net, size=4) for net in nets]
    assert counted[1] - counted[0] == pytest.approx(deep - shallow, rel=0.01)
