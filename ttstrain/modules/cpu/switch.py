"""The one switch of the kernels in this folder: the environment variable TTSTRAIN_CPU_KERNELS."""

from __future__ import annotations

import os
from typing import Final

import torch

from ttstrain.errors import RecipeError

VARIABLE: Final = "TTSTRAIN_CPU_KERNELS"


def kernels_on(device: torch.device) -> bool:
    """Say whether tensors on this device go through the kernels of this folder. On a GPU they never do.

    Raises RecipeError where the variable is neither 0 nor 1.
    """
    return device.type == "cpu" and _wanted()


def _wanted() -> bool:
    value = os.environ.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise RecipeError(f"the environment variable {VARIABLE} is `{value}`", hint=f"set {VARIABLE} to 0 or 1")
    return value == "1"
