"""How much memory this machine's GPU has, asked without torch."""

from __future__ import annotations

import functools
import subprocess

QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
PATIENCE_S = 10.0


@functools.cache
def gpu_memory() -> int | None:
    """Return the bytes of the smallest GPU; None where there is none, or nobody to ask."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) for line in done.stdout.split() if line.isdigit()]  # MiB
    return min(sizes) * 2**20 if sizes else None
