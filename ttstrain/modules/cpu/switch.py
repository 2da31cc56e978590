"""The one switch of the kernels in this folder: the environment variable TTSTRAIN_CPU_KERNELS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ttstrain.errors import RecipeError

if TYPE_CHECKING:
    import torch

VARIABLE: Final = "TTSTRAIN_CPU_KERNELS"


def kernels_on(device: torch.device) -> bool:
    """Say whether tensors on this device go through the kernels of this folder. On a GPU they never do.

    Raises RecipeError where the variable is neither 0 nor 1.
    """
    return device.type == "cpu" and wanted()


def wanted() -> bool:
    """Say what the variable says, whatever the device; 1 where it is not set.

    Raises RecipeError where it is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise RecipeError(f"the environment variable {VARIABLE} is `{value}`", hint=f"set {VARIABLE} to 0 or 1")
    return value == "1"
