"""Linear layers in 4 bits against the same layers with the rounded weights, and NF4 against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("bitsandbytes")
from ttstrain.modules.nf4 import Nf4Linear, bits_of, hold_in_4_bits, outlines

LEVELS = torch.tensor(  # QLoRA (Dettmers et al. 2023), appendix E
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
OUT, IN = 48, 96


def make(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Nf4Linear, nn.Linear]:
    """Make a layer in 4 bits, and a plain one with its rounded weight."""
    torch.manual_seed(seed)
    plain = nn.Linear(IN, OUT, dtype=dtype)
    plain.weight.requires_grad_(False)
    held = Nf4Linear(plain)
    held.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.weight.copy_(held.rounded())
    return held, plain


def by_definition(weight: Tensor) -> Tensor:
    """Round to the nearest level of each 64 values' largest, whose size is not rounded."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks[..., None] / largest[..., None] - LEVELS).abs().argmin(dim=-1)
    return (LEVELS[nearest] * largest).reshape(weight.shape)


def test_a_weight_is_rounded_as_nf4_is_defined() -> None:
    torch.manual_seed(1)
    weight = 0.02 * torch.randn(OUT, IN)
    held, _ = make()
    held.hold(weight)
    expected = by_definition(weight)
    torch.testing.assert_close(held.rounded(), expected, rtol=0.02, atol=1e-6)  # the largest themselves have 8 bits
    assert 0.05 < float((held.rounded() - weight).norm() / weight.norm()) < 0.12
    size = sum(buffer.nbytes for buffer in held.buffers()) - held.values.nbytes
    assert size / weight.numel() == pytest.approx(0.5 + 1 / 64, rel=0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_and_gradients_are_those_of_the_rounded_weight(autocast: bool) -> None:
    held, plain = make()
    inputs = torch.randn(2, 5, IN)
    found = []
    for layer in (held, plain):
        x = inputs.clone().requires_grad_()
        assert layer.bias is not None
        layer.bias = nn.Parameter(layer.bias.detach().clone())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x)
        y.float().square().sum().backward()
        found.append((y, x.grad, layer.bias.grad))
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    for mine, other in zip(*found, strict=True):
        assert mine is not None and other is not None and mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, **tolerance)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)


def test_no_weight_is_kept_for_the_backward_pass() -> None:
    held, _ = make()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        held(torch.randn(3, IN, requires_grad=True))
    assert kept == []


def test_an_outline_changes_nothing_and_a_wrong_shape_is_named() -> None:
    held, _ = make()
    before = held.rounded()
    held.load_state_dict(held.state_dict())
    assert held.state_dict()["weight"].is_meta
    assert torch.equal(held.rounded(), before)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        held.load_state_dict({**held.state_dict(), "weight": torch.zeros(OUT, IN + 1)})
    assert torch.equal(held.rounded(), before)


def test_it_is_moved_and_converted_as_other_layers_are() -> None:
    held, _ = make()
    before = held.rounded()
    outline = held.weight
    held.to("cpu")
    assert held.weight is outline and held.weight.is_meta
    held.to(torch.bfloat16)
    assert held.weight.dtype == held.state_dict()["weight"].dtype == torch.bfloat16
    assert held.bias is not None and held.bias.dtype == torch.bfloat16
    torch.testing.assert_close(held.rounded(torch.float32), before, rtol=0, atol=0)


def test_bits_that_differ_are_seen_without_the_weights() -> None:
    (one, _), (other, _) = make(), make()
    assert all(torch.equal(a, b) for a, b in zip(bits_of(one).values(), bits_of(other).values(), strict=True))
    other.codes[7] ^= 1
    differing = [name for name, bits in bits_of(one).items() if not torch.equal(bits, bits_of(other)[name])]
    assert differing == ["weight/codes"]


def test_frozen_linear_layers_of_blocks_are_held_and_nothing_else() -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4), nn.LayerNorm(4))
    net = nn.Sequential(nn.Linear(8, 8), block).requires_grad_(False)
    block[1].weight.requires_grad_(True)
    hold_in_4_bits([block])
    assert list(outlines(net)) == ["1.0.weight"]
