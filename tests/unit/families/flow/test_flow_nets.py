"""Properties of the nets that hold whatever their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model import FlowNet, build_net
from ttstrain.families.flow.model.attention import RotaryEmbedding, rotate
from ttstrain.families.flow.model.embedding import TextEmbedding

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "text_dim": 16, "conv_layers": 2}
UNETT: dict[str, Any] = {"backbone": "unett", "text_dim": 100, "conv_layers": 0}


def randomized(module: nn.Module) -> nn.Module:
    """Give every parameter a value: what starts at zero would hide what depends on it."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def small_net(**options: Any) -> FlowNet:
    net = build_net(FlowConfig(**{**SMALL, **options}), num_tokens=20)
    randomized(net)
    return net


def velocity(net: FlowNet, *, frames: int = 21, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, cond = torch.randn(2, 2, frames, 100, generator=generator)
    lengths = torch.tensor([frames, frames - 6])
    text = net.text_embed(torch.tensor([[1, 2, 3], [4, 5, -1]]), num_frames=frames, lengths=lengths)
    out: Tensor = net(x, cond, text, torch.tensor([0.2, 0.8]), mask=torch.arange(frames) < lengths[:, None])
    return out


def test_fresh_dit_says_nothing() -> None:
    # Its gates and its output start at zero, as upstream's.
    assert velocity(build_net(FlowConfig(**SMALL), num_tokens=20)).abs().max() == 0


@pytest.mark.parametrize("widest", [9, 40])
@pytest.mark.parametrize("drop", [False, True])
def test_leaving_out_the_filler_changes_no_text_embedding_and_no_gradient(widest: int, drop: bool) -> None:
    frames = 40
    embed = TextEmbedding(20, 16, conv_layers=4, mask_padding=True, fill="clip").double()
    randomized(embed)
    text = torch.randint(0, 20, (3, widest))
    text[1, 5:] = -1
    text[2, 1:] = -1
    options = {
        "num_frames": frames,
        "lengths": torch.tensor([40, 31, 3]),
        "drop": torch.tensor([drop, False, True]),
    }
    weights = torch.randn(3, frames, 16, dtype=torch.float64)

    def run(text: Tensor) -> tuple[Tensor, list[Tensor]]:
        embed.zero_grad()
        out = embed(text, **options)
        out = nn.functional.pad(out, (0, 0, 0, frames - out.shape[1]))
        (out * weights).sum().backward()
        return out.detach(), [parameter.grad.clone() for parameter in embed.parameters() if parameter.grad is not None]

    short, short_gradients = run(text)
    # With -1 up to the last frame every position is computed, as upstream does.
    full, full_gradients = run(nn.functional.pad(text, (0, frames - widest), value=-1))
    torch.testing.assert_close(short, full, atol=1e-12, rtol=1e-12)
    for one, other in zip(short_gradients, full_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, UNETT])
def test_checkpointed_activations_change_no_gradient(options: dict[str, Any]) -> None:
    gradients = []
    for saving in (False, True):
        torch.manual_seed(1)
        net = small_net(checkpoint_activations=saving, dropout=0.1, **options)
        torch.manual_seed(2)
        velocity(net).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, {"text_mask_padding": False}, UNETT])
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    net = small_net(dropout=0.0, **options)
    velocity(net).square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", ["add", "none"])
def test_other_joins_of_a_unett_have_no_projection(kind: str) -> None:
    net = small_net(**UNETT, skip_connect_type=kind)
    assert not [name for name, _ in net.named_parameters() if ".0.weight" in name and name.startswith("layers.1.0")]
    assert velocity(net).isfinite().all()


def test_rotation_turns_neighbouring_pairs_by_position() -> None:
    x = torch.randn(1, 5, 2, 8)
    angles = torch.outer(torch.arange(5.0), 10_000 ** (-torch.arange(0, 8, 2) / 8))[:, None]  # (n, 1, k/2)
    even = x[..., ::2] * angles.cos() - x[..., 1::2] * angles.sin()
    odd = x[..., 1::2] * angles.cos() + x[..., ::2] * angles.sin()
    expected = torch.stack([even, odd], dim=-1).flatten(-2)
    rotations = RotaryEmbedding(8)(5)
    torch.testing.assert_close(rotate(x, rotations), expected)
    first = rotate(x, rotations, num_heads=1)
    torch.testing.assert_close(first[:, :, 0], expected[:, :, 0])
    assert torch.equal(first[:, :, 1], x[:, :, 1])
