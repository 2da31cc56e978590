"""What a run runs on: versions, devices, threads. For `ttstrain env` and a run's env.json."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import ttstrain

PACKAGES = (
    "torch",
    "torchaudio",
    "numpy",
    "soundfile",
    "safetensors",
    "pydantic",
    "wandb",
    "pypinyin",
    "rjieba",
    "huggingface_hub",
    "pyarrow",
    "tensorboard",
    "bitsandbytes",
)
GIT_S = 10.0  # to wait for git, which may look at every file


def describe_environment() -> dict[str, Any]:
    """Return JSON values; a package that is not installed is null."""
    import torch

    return {
        "ttstrain": ttstrain.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of ttstrain's own checkout, with `-dirty` where files differ; None for an installed one."""
    root = Path(ttstrain.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_S,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # look, and write nothing
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or it does not trust the folder
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "bf16": properties.major >= 8,  # older cards only emulate it
    }
