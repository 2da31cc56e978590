"""How gradients are added up over processes."""

from __future__ import annotations

import pytest
import torch

from ttstrain.train import distributed
from ttstrain.train.distributed import Ranks


@pytest.mark.parametrize("size", [10, 3 * distributed.LARGE_BYTES])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_added_up_in_fp32(monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype) -> None:
    """In bf16, 256 + 0.75 + 0.75 would stay 256; a rank of the others holds 1.5 where this one holds 256."""
    added: list[torch.dtype] = []

    def add_others(values: torch.Tensor) -> None:
        added.append(values.dtype)
        if values.is_floating_point():
            values.add_(0.75).add_(0.75)

    monkeypatch.setattr(distributed, "BUCKET_BYTES", distributed.LARGE_BYTES)  # several pieces
    monkeypatch.setattr(distributed.dist, "all_reduce", add_others)
    parameters = [torch.zeros(size, dtype=dtype, requires_grad=True) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.full((size,), 256.0, dtype=dtype)
    Ranks(rank=0, world_size=3).sum_gradients(parameters)
    assert set(added) == {torch.int32, torch.float32}
    for parameter in parameters:
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full((size,), 257.5).to(dtype))
