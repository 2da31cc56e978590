"""A GPU that is not there: shapes, devices, types, host waits and memory of CUDA, without numbers.

Tensors on the CPU stay real, so what is decided on the host is decided as always. Tensors on `cuda` are torch's fake
ones: shape, type, device and storage, no content. Reading a value of theirs is noted as a wait and answered with
false, 0.0 or 1. An operation whose result's shape depends on values raises torch's own error.

Not seen: numbers, kernels that refuse a shape, waits inside kernels, fragmentation, workspaces.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
ROUND = 512  # bytes: the caching allocator rounds up to it
STAGED_BYTES = 1 << 16  # pageable memory up to this is copied without waiting, by way of the driver's own buffer
OWN = "ttstrain.rehearsal"


class PretendedCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends what concerns `cuda` to fake tensors, computes the rest, and counts live bytes and host waits."""

    def __init__(self, *, limit: float = math.inf, traced: bool = False) -> None:
        """Make a GPU whose memory runs out beyond `limit` bytes; one that is `traced` knows what holds its memory."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.limit = limit
        self.traced = traced
        self.live = 0  # bytes
        self.peak = 0
        self.waits: list[str] = []  # "<what> in <module>.<function>"
        self.attention: Counter[str] = Counter()  # kernel -> calls
        self.locked: dict[int, int] = {}  # address -> bytes, of memory on the host that is page-locked
        self.held_at_peak: dict[str, int] = {}  # place -> bytes, where it is traced
        self._sizes: dict[int, int] = {}
        self._places: dict[int, str] = {}
        self._noted = 0  # bytes, when `held_at_peak` was noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name.startswith("prim::"):
            with self.fake:
                return func(*args, **kwargs)
        fakes = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        device = kwargs.get("device")
        to_gpu = device is not None and torch.device(device).type == "cuda"
        if not fakes and not to_gpu:
            return func(*args, **kwargs)
        if name == "aten::to":  # of tensors made in inference mode, which come here whole
            with self:
                return func.decompose(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            self.note_wait("reads a value")
            return answer(fakes[0].dtype)
        if name in ("aten::_to_copy", "aten::copy_") and (brought := self._copied(name, args, kwargs)) is not None:
            return brought
        with self.fake:
            out = func(*args, **kwargs)
        self._count(out)
        return out

    def reset_peak(self) -> None:
        self.peak, self._noted = self.live, 0

    def note_wait(self, what: str) -> None:
        """Note that the host waits for the device, in the function of ttstrain that is running."""
        self.waits.append(f"{what} in {_place()}")

    def _copied(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Note waits of a copy between host and device; answer one to the host with a real tensor."""
        into, source = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
        device = kwargs.get("device") or source.device
        target = torch.device(device).type if into is None else into.device.type
        if source.device.type == target:
            return None
        unwaited = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if target == "cuda":
            if not unwaited:
                self.note_wait("copies to the device")
            elif source.numel() * source.element_size() > STAGED_BYTES and not self.is_pinned(source):
                self.note_wait("copies pageable memory to the device")
            return None
        if into is None:
            self.note_wait("copies to the host")
            wanted = kwargs.get("dtype") or source.dtype
            return torch.full(source.shape, answer(wanted), dtype=wanted)
        if not (unwaited and self.is_pinned(into)):
            self.note_wait("copies to the host")
        filled: Tensor = into.fill_(answer(into.dtype))
        return filled

    def is_pinned(self, tensor: Tensor) -> bool:
        """Tell whether a tensor on the host lies in page-locked memory."""
        place = tensor.data_ptr()
        return any(start <= place < start + size for start, size in self.locked.items())

    def pin(self, tensor: Tensor) -> Tensor:
        """Take the memory of a tensor on the host for page-locked."""
        self.locked[tensor.data_ptr()] = tensor.nbytes
        weakref.finalize(tensor.untyped_storage(), self.locked.pop, tensor.data_ptr(), None)
        return tensor

    def _count(self, out: Any) -> None:
        for x in tree_leaves(out):
            if not isinstance(x, FakeTensor) or x.device.type != "cuda":
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            self._sizes[key] = -(-storage.nbytes() // ROUND) * ROUND
            if self.traced:
                self._places[key] = _place(line=True)
            self.live += self._sizes[key]
            weakref.finalize(storage, self._forget, key)
            if self.live > self.limit:
                raise torch.OutOfMemoryError(f"CUDA out of memory. {self.live:,} of {self.limit:,.0f} bytes, pretended")
        if self.live > self.peak:
            self.peak = self.live
            if self.traced and self.live > 1.01 * self._noted:
                self._note_held()

    def _note_held(self) -> None:
        self._noted = self.live
        held: Counter[str] = Counter()
        for key, size in self._sizes.items():
            held[self._places[key]] += size
        self.held_at_peak = dict(held.most_common())

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)
        self._places.pop(key, None)


def answer(dtype: torch.dtype) -> Any:
    """Say what is read where nothing is."""
    if dtype == torch.bool:
        return False
    return 0.0 if dtype.is_floating_point else 1


def _place(*, line: bool = False) -> str:
    """Name the innermost function of ttstrain that is running; in a backward pass, that of its operation."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("ttstrain.") and not name.startswith(OWN):
            return f"{name}.{frame.f_code.co_qualname}" + (f":{frame.f_lineno}" if line else "")
        frame = frame.f_back
    return "elsewhere"
