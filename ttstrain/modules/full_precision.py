"""fp32 that is fp32: encoders whose outputs are rounded to codes must not see fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Leave autocast and TF32 off, and let cuDNN choose kernels that repeat themselves."""
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
