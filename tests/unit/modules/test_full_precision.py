"""What `full_precision` leaves on and off, and that everything is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ttstrain.modules.full_precision import full_precision


def flags() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "cudnn": cudnn.enabled,
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "cudnn tf32": cudnn.allow_tf32,
        "matmul tf32": torch.backends.cuda.matmul.allow_tf32,
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@pytest.mark.parametrize("enabled", [True, False])
def test_cudnn_stays_as_it_is_and_only_exact_kernels_are_left(enabled: bool) -> None:
    with torch.backends.cudnn.flags(enabled=enabled, benchmark=True, allow_tf32=True):
        before = flags()
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision():
            assert flags() == {
                "cudnn": enabled,
                "benchmark": False,
                "deterministic": True,
                "cudnn tf32": False,
                "matmul tf32": False,
                "autocast": False,
            }
        assert flags() == before
