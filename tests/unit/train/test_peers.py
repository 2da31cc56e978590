"""What a failed exchange between processes is taken for."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from ttstrain.errors import OutOfMemoryError, PeerError
from ttstrain.train.distributed import peers


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "NCCL error: unhandled cuda error\nLast error: Cuda failure 2 'out of memory'",
            OutOfMemoryError,
            "memory ran",
        ),
        ("NCCL error: remote process exited or there was a network error", PeerError, "lost the other processes"),
    ],
)
def test_memory_that_nccl_lacks_is_no_lost_process(said: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), peers():
        raise dist.DistBackendError(said)


def test_an_error_of_ours_passes() -> None:
    with pytest.raises(RuntimeError, match="shapes"), peers():
        raise RuntimeError("shapes differ")
