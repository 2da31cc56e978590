"""Two GPUs: gradients travel over NCCL, everything else over gloo."""

from __future__ import annotations

import pytest
import ranked
import torch
from processes import Processes

pytestmark = pytest.mark.gpu


def test_gradients_are_summed_between_gpus_and_objects_between_hosts() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    two = Processes(2)
    try:
        results = two(ranked.exchange_on_gpus)
    finally:
        two.close()
    for rank, found in enumerate(results):
        assert found == {
            "device": rank,
            "gradients": [3.0, 3.0, 2.0],
            "host": [2.0],
            "gathered": [{"rank": 0}, {"rank": 1}],
            "differ": [],
        }
