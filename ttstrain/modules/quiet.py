"""What other packages say on import and no user can act on."""

from __future__ import annotations

import logging


def quiet_bitsandbytes() -> None:
    """Let bitsandbytes, which peft imports, not tell of a kernel that it cannot load on some CPUs: nothing calls it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quiet_liger() -> None:
    """Let Liger not tell of kernels for other makers' processors, which it tries to import on any."""
    logging.getLogger("liger_kernel.backends.registry").setLevel(logging.ERROR)
