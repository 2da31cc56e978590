"""The one switch of the kernels in this folder: the environment variable TTSTRAIN_CPU_KERNELS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ttstrain.errors import RecipeError

if TYPE_CHECKING:
    import torch

VARIABLE: Final = "TTSTRAIN_CPU_KERNELS"


def kernels_on(device: torch.device) -> bool:
    """Tell whether the kernels of this folder are used on this device. On a GPU they never are, nor in compiled code.

    Raises RecipeError where the variable is neither 0 nor 1.
    """
    import torch

    return device.type == "cpu" and not torch.compiler.is_compiling() and wanted()


def wanted() -> bool:
    """Return the variable's value, whatever the device; 1 if it is not set.

    Raises RecipeError where it is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise RecipeError(f"the environment variable {VARIABLE} is `{value}`", hint=f"set {VARIABLE} to 0 or 1")
    return value == "1"
