"""Full fp32 precision, for encoders whose outputs are quantized to codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Turn autocast and TF32 off, and let cuDNN use deterministic kernels only."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled,  # by default `flags` leaves cuDNN off altogether
                benchmark=False,
                deterministic=True,
                allow_tf32=False,
            ),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
