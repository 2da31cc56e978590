"""What a run runs on: versions, devices, threads. For `ttstrain env` and a run's env.json."""

from __future__ import annotations

import os
import platform
from importlib import metadata
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


def describe_environment() -> dict[str, Any]:
    """Return JSON values; a package that is not installed is null."""
    import torch

    return {
        "ttstrain": ttstrain.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
    }


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
