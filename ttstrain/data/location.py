"""Where ttstrain keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from ttstrain.places import expanded


def cache_root(cache_dir: str | None = None) -> Path:
    """Return the cache folder: the recipe's `data.cache_dir`, else `$TTSTRAIN_CACHE`, else `~/.cache/ttstrain`."""
    named = cache_dir or os.environ.get("TTSTRAIN_CACHE")
    return expanded(named) if named else Path.home() / ".cache" / "ttstrain"


CACHE_HINT = "the cache lies where `data.cache_dir` or $TTSTRAIN_CACHE says: point it to a folder with free space"


def usable_cores() -> int:
    """Count the processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
