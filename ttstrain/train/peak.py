"""Peak FLOP/s of devices, for the model FLOPs utilization (MFU)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from ttstrain.train.precision import NumberFormat

# TFLOP/s of dense matrix products in half precision, and in fp32 with TF32 allowed, from NVIDIA's data sheets (which
# often give the sparse rate, twice as much). If several names are part of the device's name, the longest counts.
PEAKS: Final[Mapping[str, tuple[float, float]]] = {
    "B200": (2250.0, 1125.0),
    "H200": (989.5, 494.7),
    "GH200": (989.5, 494.7),
    "H100": (989.5, 494.7),
    "H100 NVL": (835.5, 417.5),
    "H100 PCIe": (756.5, 378.0),
    "A100": (312.0, 156.0),
    "A40": (149.7, 74.8),
    "A10": (125.0, 62.5),
    "A10G": (70.0, 35.0),
    "L40": (181.0, 90.5),
    "L40S": (362.0, 183.0),
    "L4": (121.0, 60.0),
    "RTX A6000": (154.8, 77.4),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
    "Tesla V100": (125.0, 15.7),
    "Tesla T4": (65.0, 8.1),
}


def peak_flops(device: torch.device, kind: NumberFormat, tf32: bool) -> float | None:
    """Return a device's peak FLOP/s.

    None for a CPU, a device that is not in the table, and fp32 without TF32, which the table does not have.
    """
    if device.type != "cuda" or (kind == "fp32" and not tf32):
        return None
    return peak_of(torch.cuda.get_device_name(device), kind)


def peak_of(name: str, kind: NumberFormat) -> float | None:
    """Return the peak FLOP/s of a device by its CUDA name; None if it is not in the table."""
    words = f" {name.replace('-', ' ')} "
    fitting = [known for known in PEAKS if f" {known} " in words]
    if not fitting:
        return None
    half, single = PEAKS[max(fitting, key=len)]
    return 1e12 * (single if kind == "fp32" else half)
