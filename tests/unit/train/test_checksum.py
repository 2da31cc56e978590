"""A checksum tells bits apart that a norm does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttstrain.train.checksum import CHUNK, checksums


def of(tensor: Tensor) -> int:
    return int(checksums([tensor]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_one_value_that_differs_shows_whatever_the_dtype(dtype: torch.dtype) -> None:
    for place in (0, 99):
        tensor = torch.zeros(100, dtype=dtype)
        same = of(tensor)
        assert of(tensor.clone()) == same
        tensor[place] = 1
        assert of(tensor) != same


def test_values_that_changed_places_and_changes_that_cancel_show() -> None:
    for size in (4, CHUNK + 4, 2 * CHUNK):
        values = torch.linspace(1, 2, size)
        assert of(values.flip(0)) != of(values)
        assert of(values.roll(1)) != of(values)
        up_and_down = values.view(torch.int32).clone()
        up_and_down[0] += 1
        up_and_down[-1] -= 1
        assert of(up_and_down.view(torch.float32)) != of(values)


def test_it_is_of_bits_and_not_of_the_layout_in_memory() -> None:
    values = torch.randn(2, 3, 4, 5)
    assert of(values.to(memory_format=torch.channels_last)) == of(values)
    assert of(torch.tensor(torch.nan)) == of(torch.tensor(torch.nan))
    assert of(torch.tensor(0.0)) != of(torch.tensor(-0.0))
    assert of(torch.zeros(0)) == 0


def test_many_tensors_come_in_order() -> None:
    tensors = [torch.ones(3), torch.zeros(2, dtype=torch.bool), torch.tensor(2.0)]
    assert checksums(tensors).tolist() == [of(tensor) for tensor in tensors]
