"""Keeps host memory that a step frees in the process: two settings of glibc's malloc."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import torch

from ttstrain.modules.cpu.switch import kernels_on

# Numbers of <malloc.h>.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
LARGEST: Final = (1 << 30, 1 << 25)  # bytes; glibc before 2.35 accepts 32 MiB and no more


def keep_freed_memory(device: torch.device) -> bool:
    """Let the next step of a run on the CPU reuse memory that the last one freed; return whether glibc accepted it.

    glibc hands large blocks back to the system, which clears every page again before the next step may write to it.
    The process keeps the most memory that it ever needed, as torch's own allocator does on a GPU.
    """
    if not kernels_on(device) or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    never = ctypes.c_int(-1)
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST) and bool(mallopt(M_TRIM_THRESHOLD, never))
