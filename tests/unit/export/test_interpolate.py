"""Weights between a base and its fine-tune: the ends are exact, and what has no counterpart is the fine-tune's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.export.interpolate import check_share, interpolate


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def pair(base: torch.dtype, tuned: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 33, generator=generator)
    start[0, :2] = torch.tensor([-0.0, 0.0])  # a sum gives 0.0 for -0.0
    moved = start + 1e-3 * torch.randn(64, 33, generator=generator)
    moved[1, 0] = -0.0
    return {"a.weight": start.to(base)}, {"a.weight": moved.to(tuned)}


FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("base_type", FLOATS)
@pytest.mark.parametrize("tuned_type", FLOATS)
def test_the_ends_are_base_and_fine_tune_bit_for_bit(base_type: torch.dtype, tuned_type: torch.dtype) -> None:
    base, tuned = pair(base_type, tuned_type)
    at_start, at_end = (interpolate(base, tuned, share).weights["a.weight"] for share in (0.0, 1.0))
    assert torch.equal(bits(at_start.to(base_type)), bits(base["a.weight"]))
    assert torch.equal(bits(at_end.to(tuned_type)), bits(tuned["a.weight"]))
    assert torch.equal(at_start.double(), base["a.weight"].double())  # no type in between loses anything


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 1.3, 1.5])
def test_between_and_beyond_lies_the_line(share: float) -> None:
    base, tuned = pair(torch.float32, torch.float32)
    found = interpolate(base, tuned, share).weights["a.weight"]
    start, end = base["a.weight"].double(), tuned["a.weight"].double()
    torch.testing.assert_close(found.double(), start + share * (end - start), rtol=0, atol=5e-7)


def test_half_precision_is_computed_in_float32_and_rounded_once() -> None:
    base = {"w": torch.tensor([60_000.0, 1.0]).half()}
    tuned = {"w": torch.tensor([-60_000.0, 1.0009765625]).half()}  # their difference overflows; it is one step at 1
    found = interpolate(base, tuned, 0.25).weights["w"]
    assert found.dtype == torch.float16
    assert found.tolist() == [30_000.0, 1.0]
    assert interpolate(base, {"w": tuned["w"].bfloat16()}, 0.25).weights["w"].dtype == torch.float32


def test_what_the_base_lacks_is_the_fine_tunes_and_is_said() -> None:
    base = {"table": torch.zeros(4, 2), "other": torch.zeros(3), "step": torch.tensor(5), "unused": torch.zeros(1)}
    tuned = {"table": torch.ones(4, 2), "other": torch.ones(2), "new": torch.ones(1), "step": torch.tensor(7)}
    found = interpolate(base, tuned, 0.5, new_rows={"table": (1, 3)})
    assert found.weights.keys() == tuned.keys()
    assert found.weights["table"][:, 0].tolist() == [0.5, 1.0, 0.5, 1.0]
    assert (found.weights["other"].tolist(), found.weights["new"].tolist()) == ([1.0, 1.0], [1.0])
    assert found.weights["step"].item() == 7
    assert found.whole == ("other", "new")
    assert found.notes() == [
        "2 rows of `table` are the fine-tune's: the base lacks them",
        "2 tensors are the fine-tune's, the base has none of this shape: `other`, `new`",
    ]


def test_the_tensors_that_were_given_stay_as_they_are() -> None:
    base, tuned = pair(torch.float32, torch.float32)
    before = base["a.weight"].clone(), tuned["a.weight"].clone()
    for share in (0.0, 0.5, 1.0):
        interpolate(base, tuned, share, new_rows={"a.weight": (2,)}).weights["a.weight"].zero_()
    assert torch.equal(base["a.weight"], before[0])
    assert torch.equal(tuned["a.weight"], before[1])


@pytest.mark.parametrize("share", [-0.1, 1.51, float("nan"), float("inf")])
def test_a_share_off_the_line_is_refused(share: float) -> None:
    with pytest.raises(RecipeError, match="not between 0 and"):
        check_share(share)
