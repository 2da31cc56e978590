"""A step in FP8 on a GPU that is not there: torch's product takes the shapes and types that it is given."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pretended_cuda import needs_cuda_build
from processes import Processes
from rehearsed import learn_in_fp8_on_gpu

pytestmark = needs_cuda_build
LAYERS, MATRICES, PASSES = (
    2,
    7,
    2,
)  # forward, and back to the inputs; the isolation of documents takes two more forwards
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16


@pytest.fixture
def fresh() -> Processes:
    pytest.importorskip("torchao")
    return Processes(1, timeout_s=120)


def test_a_step_in_fp8_takes_any_number_of_tokens(fresh: Processes) -> None:
    (found,) = fresh(learn_in_fp8_on_gpu, 96)
    fresh.close()
    assert not isinstance(found, BaseException), found
    assert found["tokens"] % 16
    assert Counter(found["products"]) == {(E4M3, E4M3, BF16): LAYERS * MATRICES * (PASSES + 2)}


def test_a_side_that_is_no_multiple_of_16_is_what_torch_refuses(fresh: Processes) -> None:
    (found,) = fresh(learn_in_fp8_on_gpu, 88)
    fresh.close()
    assert isinstance(found, RuntimeError) and "divisible by 16" in str(found)
