"""The CPU's kernels compute what plain torch does, values and gradients, and the switch turns every one of them off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.families.gpt_sovits.gpt.attention import Packed
from ttstrain.families.gpt_sovits.gpt.documents import lay_out, whole
from ttstrain.modules.cpu.attention import attend
from ttstrain.modules.cpu.dropout import dropout, survival_factors
from ttstrain.modules.cpu.frame_convolution import WIDEST_GROUP, FrameConv1d
from ttstrain.modules.cpu.heap import keep_freed_memory
from ttstrain.modules.cpu.switch import VARIABLE, kernels_on

CPU = torch.device("cpu")


def random(*shape: int, learns: bool = True) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=learns)


def assert_the_same_without(
    monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor], learning: Sequence[Tensor]
) -> None:
    """Compute once with the kernels and once as plain torch; compare the values and the gradients."""
    found = []
    for value in ("1", "0"):
        monkeypatch.setenv(VARIABLE, value)
        out = compute()
        weights = torch.arange(float(out.numel()), dtype=out.dtype).view_as(out).sin()
        found.append((out, torch.autograd.grad((out * weights).sum(), learning)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("input_learns", [True, False])
def test_convolution_over_frames_is_torchs(frames: int, input_learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FrameConv1d(24, 7, groups=4).double()
    x = random(3, frames, 24, learns=input_learns)
    learning = [*layer.parameters(), *([x] if input_learns else [])]
    assert_the_same_without(monkeypatch, lambda: layer(x), learning)
    monkeypatch.setenv(VARIABLE, "1")
    expected = F.conv1d(x.mT, layer.weight, layer.bias, padding=3, groups=4).mT
    torch.testing.assert_close(layer(x), expected)


def test_convolution_over_frames_follows_autocast() -> None:
    layer = FrameConv1d(24, 7, groups=4)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 9, 24, requires_grad=True))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("masked", ["nothing", "bools", "numbers"])
@pytest.mark.parametrize("leading", [(), (2,)])
def test_attention_is_torchs_but_for_which_weights_it_drops(
    masked: str, leading: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where dropping is taken out, by survivors that all stay, values and gradients are those of plain torch."""
    query, key, value = random(*leading, 3, 5, 8), random(*leading, 3, 6, 8), random(*leading, 3, 6, 8)
    allowed = torch.ones(5, 6, dtype=torch.bool).tril(1)
    added = torch.zeros(5, 6, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    mask = {"nothing": None, "bools": allowed, "numbers": added}[masked]

    def compute() -> Tensor:
        p = 0.5 if kernels_on(CPU) else 0.0
        return attend(query, key, value, mask=mask, dropout=p)

    monkeypatch.setattr(
        "ttstrain.modules.cpu.attention.survival_factors", lambda shape, p, *, dtype: torch.ones(shape, dtype=dtype)
    )
    assert_the_same_without(monkeypatch, compute, [query, key, value])


@pytest.mark.parametrize("switch", ["1", "0"])
def test_attention_drops_its_share_and_follows_torchs_seed(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, switch)
    rows = 400
    alike, marks = torch.zeros(1, 1, rows, 8), torch.eye(rows)[None, None]  # equal weights, each seen at its own place

    def weights() -> Tensor:
        torch.manual_seed(3)
        return attend(alike, alike, marks, mask=None, dropout=0.25) * rows

    found = weights()
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 1 / 0.75))
    assert torch.equal(found, weights())


def test_a_mask_drops_and_scales_as_its_chance_says() -> None:
    torch.manual_seed(0)
    factors = survival_factors(torch.Size((1000, 1003)), 0.25, dtype=torch.float64)
    assert set(factors.unique().tolist()) == {0.0, 1 / 0.75}  # 0.25 is a multiple of 2**-16
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.002)


# ---------------------------------------------------------------- the switch


def seeded(compute: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(5)
    return compute()


def test_without_kernels_dropout_draws_what_torch_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 2, 30, 8)
    for compute, plain in (
        (lambda: dropout(x, 0.5), lambda: F.dropout(x, 0.5)),
        (
            lambda: attend(x, x, x, mask=None, dropout=0.5),
            lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        ),
    ):
        monkeypatch.setenv(VARIABLE, "0")
        assert torch.equal(seeded(compute), seeded(plain))
        monkeypatch.setenv(VARIABLE, "1")
        assert not torch.equal(seeded(compute), seeded(plain))


def made_by(out: Tensor) -> str:
    return type(out.grad_fn).__name__


def test_without_kernels_a_convolution_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = FrameConv1d(8, 3, groups=2), torch.randn(2, 5, 8, requires_grad=True)
    monkeypatch.setenv(VARIABLE, "1")
    assert made_by(layer(x)) == "_FrameConvolutionBackward"
    monkeypatch.setenv(VARIABLE, "0")
    assert made_by(layer(x)) == "TransposeBackward0"


def test_a_convolution_of_wide_groups_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    for width, expected in ((WIDEST_GROUP, "_FrameConvolutionBackward"), (WIDEST_GROUP + 1, "TransposeBackward0")):
        layer = FrameConv1d(2 * width, 3, groups=2)
        assert made_by(layer(torch.randn(1, 4, 2 * width, requires_grad=True))) == expected


def test_without_kernels_the_heap_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.setattr("ttstrain.modules.cpu.heap.ctypes.CDLL", lambda _: pytest.fail("the heap was set"))
    assert not keep_freed_memory(CPU)


def test_documents_are_padded_as_on_a_gpu_where_the_switch_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = lay_out(whole((3, 2), 3), whole((4, 6), 6), device=CPU)
    query = random(len(documents.slots), 2, 4)
    learning = [query]
    assert_the_same_without(monkeypatch, lambda: Packed(documents)(query, query, query, layer=0, dropout=0.0), learning)
    assert Packed(documents)._padded
    monkeypatch.delenv(VARIABLE)
    assert not Packed(documents)._padded


def test_a_gpu_never_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("1", "0", "nonsense"):
        monkeypatch.setenv(VARIABLE, value)
        assert not kernels_on(torch.device("cuda"))


@pytest.mark.parametrize("value", ["", "off", "2"])
def test_another_value_of_the_switch_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(RecipeError, match=VARIABLE):
        keep_freed_memory(CPU)
    monkeypatch.delenv(VARIABLE)
    assert kernels_on(CPU)
