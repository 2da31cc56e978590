"""Lets torch's autograd run on pretended CUDA where there is no driver."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from ttstrain.errors import RecipeError

HOOKS = 256  # entries of the table of virtual functions that are copied; more than there are


def check_build() -> None:
    """Raise RecipeError where torch was built without CUDA: it has no kernels whose shapes could be followed."""
    if torch.version.cuda is None:
        raise RecipeError(
            "a GPU can be rehearsed only with a torch that was built for CUDA; this one was not",
            hint="install torch from its index for CUDA; no GPU and no driver are needed",
        )


def forget_the_driver() -> None:
    """Let autograd ask nobody whether a CUDA context exists.

    Its engine calls `CUDAHooks::hasPrimaryContext`, which fails without a driver. The hooks' table of virtual functions
    is copied, and that entry answers as `isAvailable` does: false. Order as in ATen/detail/AcceleratorHooksInterface.h
    of torch 2.11: two destructors, isBuilt, isAvailable, hasPrimaryContext. Does nothing where there is a driver.
    """
    if torch.cuda.device_count():
        return
    torch._C._ensureCUDADeviceGuardSet()
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    get_hooks = library["_ZN2at6detail12getCUDAHooksEv"]
    get_hooks.restype = ctypes.c_void_p
    table = ctypes.c_void_p.from_address(get_hooks())
    word = ctypes.sizeof(ctypes.c_void_p)
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    copy = malloc((HOOKS + 2) * word)  # never freed: destructors look into it at exit
    assert table.value is not None
    ctypes.memmove(copy, table.value - 2 * word, (HOOKS + 2) * word)  # two words lie before a table's first function
    entries = (ctypes.c_void_p * HOOKS).from_address(copy + 2 * word)
    entries[4] = entries[3]
    table.value = copy + 2 * word
