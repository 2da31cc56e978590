"""How much memory the GPU has that a run would use, asked without torch."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine, as nvidia-smi lists it."""

    index: int
    uuid: str
    memory: int  # bytes


@functools.cache
def gpu_memory() -> int | None:
    """Return the bytes of the smallest GPU that CUDA may use; None where there is none, or its size is unknown."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    every = [gpu for line in done.stdout.splitlines() if (gpu := _parse_gpu(line)) is not None]
    allowed = visible(every, os.environ.get("CUDA_VISIBLE_DEVICES"), order=os.environ.get("CUDA_DEVICE_ORDER"))
    return min((gpu.memory for gpu in allowed), default=None)


def visible(every: Sequence[Gpu], named: str | None, *, order: str | None = None) -> list[Gpu]:
    """Return the GPUs that $CUDA_VISIBLE_DEVICES names: by number or UUID, up to the first name that CUDA would refuse.

    Numbers are nvidia-smi's where $CUDA_DEVICE_ORDER says so. Otherwise CUDA counts the fastest first, and a number may
    mean any GPU. A part of a GPU (`MIG-...`) has a size that is not listed.
    """
    if named is None:
        return list(every)
    found: list[Gpu] = []
    for name in map(str.strip, named.split(",")):
        if name.isdecimal() and int(name) < len(every):
            found += [gpu for gpu in every if order != "PCI_BUS_ID" or gpu.index == int(name)]
            continue
        matching = [gpu for gpu in every if name.startswith("GPU-") and gpu.uuid.startswith(name)]
        if len(matching) != 1:
            break
        found += matching
    return found


def _parse_gpu(line: str) -> Gpu | None:
    index, uuid, memory = [*(part.strip() for part in line.split(",")), "", "", ""][:3]
    if not (index.isdecimal() and memory.isdecimal()):  # `[N/A]` where a GPU shares the machine's memory
        return None
    return Gpu(int(index), uuid, int(memory) * 2**20)
