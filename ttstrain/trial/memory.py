"""The most memory that was taken since the last look: of the GPU, or of this machine by this process."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

from ttstrain.errors import RecipeError
from ttstrain.plan.render import GPU_SHARE, shown_bytes
from ttstrain.runs.measured import peak_memory

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", re.IGNORECASE)


def read_size(text: str) -> int:
    """Read a size such as `12GB` or `800MB`. Raises RecipeError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    size = 0 if found is None else round(float(found[1]) * UNITS[found[2].upper()])
    if size <= 0:
        raise RecipeError(f"`--fit {text}` is no size of memory", hint="write `--fit 12GB` or `--fit 800MB`")
    return size


def room_within(limit: int, device: torch.device, *, wanted: str) -> int:
    """Return the bytes of a limit that a run may take on the device.

    A GPU's driver and fragmentation take the rest. Raises RecipeError where the device has less than the limit, and
    where the recipe leaves the device open and there is no GPU: a net on the CPU does not tell what a GPU would take.
    """
    if device.type != "cuda" and wanted == "auto":
        raise RecipeError(
            f"what fits {shown_bytes(limit)} is measured on the device that trains, and there is no GPU here",
            hint="run it where the GPU is; to fit this machine's memory, add `train.device=cpu`",
        )
    whole = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else _of_machine()
    if limit > whole:
        whose = "the GPU" if device.type == "cuda" else "this machine"
        raise RecipeError(
            f"{shown_bytes(limit)} cannot be fitted: {whose} has {shown_bytes(whole)}",
            hint=f"give at most that: `--fit {int(whole / 10**9)}GB`",
        )
    return int(GPU_SHARE * limit) if device.type == "cuda" else limit


def begin_peak(device: torch.device) -> None:
    """Forget the most that was taken so far, where the system can; elsewhere it counts on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> int:
    """Return the most bytes that were taken since `begin_peak`."""
    return peak_memory(device)


def _of_machine() -> int:
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text(encoding="ascii").splitlines() if meminfo.is_file() else ():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 1 << 62  # not known
