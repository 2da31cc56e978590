"""Dropout, with the CPU's kernel and without: its share, its mean, its seed, in place and with rows cleared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ttstrain.modules.cpu.switch import VARIABLE
from ttstrain.modules.dropout import Dropout


@pytest.fixture(params=["1", "0"], ids=["own", "torch's"], autouse=True)
def switch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds of the kernel holds of torch's own dropout too."""
    monkeypatch.setenv(VARIABLE, request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    x = torch.ones(500, 1003, dtype=dtype)
    dropped = Dropout(0.1).train()(x)
    assert dropped.dtype == dtype
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(dropped.float().mean()) == pytest.approx(1.0, abs=0.005)
    # No position is favoured, although four share one random number.
    assert (dropped == 0).float().mean(0)[:1000].view(250, 4).mean(0).tolist() == pytest.approx([0.1] * 4, abs=0.005)
    assert torch.equal(Dropout(0.1).eval()(x), x)


def test_dropout_follows_torchs_seed() -> None:
    layer, x = Dropout(0.3).train(), torch.ones(99)
    torch.manual_seed(5)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def seeded(layer: Dropout, x: Tensor, *, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what comes out with one seed, and x's gradient."""
    given = x.clone().requires_grad_()
    torch.manual_seed(11)
    out = layer(given * 1.0, kept=kept)  # a product, whose result nothing else needs
    [gradient] = torch.autograd.grad((out * torch.arange(float(out.numel())).view_as(out)).sum(), [given])
    return out, gradient


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("inplace", [True, False])
def test_rows_that_are_not_kept_are_cleared_and_get_no_gradient(p: float, *, inplace: bool) -> None:
    x, kept = torch.randn(3, 7, 10), torch.rand(3, 7) < 0.6
    out, gradient = seeded(Dropout(p, inplace=inplace).train(), x, kept=kept)
    plain, plain_gradient = seeded(Dropout(p).train(), x)
    assert torch.equal(out, plain * kept.unsqueeze(-1))
    assert torch.equal(gradient, plain_gradient * kept.unsqueeze(-1))


def test_rows_are_cleared_where_nothing_is_dropped_too() -> None:
    x, kept = torch.randn(2, 5, 4), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert torch.equal(Dropout(0.3).eval()(x, kept=kept), x * kept.unsqueeze(-1))


def test_in_place_gives_the_same_numbers_in_the_same_memory() -> None:
    x = torch.randn(40, 9)
    out, gradient = seeded(Dropout(0.3, inplace=True).train(), x)
    plain, plain_gradient = seeded(Dropout(0.3).train(), x)
    assert torch.equal(out, plain)
    assert torch.equal(gradient, plain_gradient)
    written = x.clone()
    assert Dropout(0.3, inplace=True).train()(written).data_ptr() == written.data_ptr()


def test_in_place_refuses_what_a_gradient_still_needs() -> None:
    activated = nn.ReLU()(torch.randn(40, 9, requires_grad=True))  # its gradient is made from its result
    out = Dropout(0.3, inplace=True).train()(activated)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
