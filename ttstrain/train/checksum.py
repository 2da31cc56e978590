"""Checksums of tensors' bits, by which ranks compare their tensors without sending them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 1 << 20  # values summed at a time: a checksum needs memory for the keys and for one product
_OF_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BETWEEN_CHUNKS = 0x2545F4914F6CDD1D  # odd, as are the keys: a single bit that differs always shows


@torch.no_grad()
def checksums(tensors: Iterable[Tensor]) -> Tensor:
    """Return one checksum per tensor, (tensors,) int64 on the CPU: equal for equal bits, almost never for others.

    Each value is multiplied by a key of its position and summed modulo 2 ** 64, so that changes of opposite sign do not
    cancel and swapped values show. Waits for each device once.
    """
    keys: dict[torch.device, Tensor] = {}
    sums: dict[torch.device, list[Tensor]] = {}
    places = []
    for tensor in tensors:
        device = tensor.device
        if device not in keys:
            keys[device], sums[device] = _keys().to(device), []
        places.append((device, len(sums[device])))
        sums[device].append(_checksum(tensor, keys[device]))
    known = {device: torch.stack(own).tolist() for device, own in sums.items()}
    return torch.tensor([known[device][place] for device, place in places], dtype=torch.int64)


def _checksum(tensor: Tensor, keys: Tensor) -> Tensor:
    bits = tensor.detach().contiguous().view(-1).view(_OF_BYTES[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in torch.split(bits, CHUNK):
        total = total * _BETWEEN_CHUNKS + (chunk * keys[: len(chunk)]).sum()
    return total


def _keys() -> Tensor:
    """Draw odd keys (CHUNK,), the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.iinfo(torch.int64)
    return torch.randint(ends.min, ends.max, (CHUNK,), generator=generator) | 1
