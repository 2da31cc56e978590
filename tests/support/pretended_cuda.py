"""A GPU that is not there: shapes, devices, dtypes, host waits and memory of CUDA, without numbers.

Tensors on the CPU stay real, so what is decided on the host is decided as always. Tensors on `cuda` are torch's fake
ones: shape, dtype, device and storage, no content. Reading a value of theirs is noted as a wait and answered with one,
false or 1.0. Attention goes where torch 2.11's own dispatch sends it on an H200.

Not seen: numbers, kernels that refuse a shape, waits inside kernels, fragmentation, workspaces. With a driver the same
runs alike; nothing reaches the device.

A backward pass works only in a process that made none before without it: torch's engine asks once how many devices
there are. Such functions live in `rehearsed.py`, which `Processes` runs.
"""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.amp.autocast_mode
import torch.cuda.amp.common
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
needs_cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")

H200_BYTES = 139 << 30
ROUND = 512  # bytes: the caching allocator rounds up to it
HOOKS = 256  # entries of the table of virtual functions that are copied; more than there are
aten = torch.ops.aten


class PretendedCuda(TorchDispatchMode):
    """Sends what concerns `cuda` to fake tensors, computes the rest, and counts live bytes and host waits."""

    def __init__(self, *, limit: float = math.inf) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.limit = limit  # bytes; beyond it memory runs out
        self.live = 0  # bytes
        self.peak = 0
        self.waits: list[str] = []  # "<operation> at <file>:<line>"
        self.attention: Counter[str] = Counter()  # backend -> calls
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fakes = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        device = kwargs.get("device")
        to_gpu = device is not None and torch.device(device).type == "cuda"
        if not fakes and not to_gpu:
            return func(*args, **kwargs)
        name = func._schema.name
        if name == "aten::to":  # of tensors made in inference mode, which come here whole
            with self:
                return func.decompose(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            self._note_wait(name)
            return self.answer(fakes[0].dtype)
        if name in ("aten::_to_copy", "aten::copy_") and (brought := self._bring(name, args, kwargs)) is not None:
            return brought
        with self.fake:
            out = func(*args, **kwargs)
        self._count(out)
        return out

    def answer(self, dtype: torch.dtype) -> Any:
        """Say what is read where nothing is."""
        if dtype == torch.bool:
            return False
        return 1.0 if dtype.is_floating_point else 1

    def reset_peak(self) -> None:
        self.peak = self.live

    def _note_wait(self, name: str) -> None:
        frame: Any = sys._getframe(2)
        while frame is not None and "/ttstrain/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = "elsewhere" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        self.waits.append(f"{name} at {place}")

    def _bring(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Answer a copy to the host with a real tensor; None where it is none."""
        into, source = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
        if source.device.type != "cuda":
            return None
        if into is not None:
            if isinstance(into, FakeTensor):
                return None
            self._note_wait(name)
            return into.fill_(self.answer(into.dtype))
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cpu":
            return None
        self._note_wait(name)
        dtype = kwargs.get("dtype") or source.dtype
        return torch.full(source.shape, self.answer(dtype), dtype=dtype)

    def _count(self, out: Any) -> None:
        for x in tree_leaves(out):
            if not isinstance(x, FakeTensor) or x.device.type != "cuda":
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            self._sizes[key] = -(-storage.nbytes() // ROUND) * ROUND
            self.live += self._sizes[key]
            weakref.finalize(storage, self._forget, key)
            if self.live > self.limit:
                raise torch.OutOfMemoryError(f"CUDA out of memory. {self.live:,} of {self.limit:,.0f} bytes, pretended")
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


@contextmanager
def pretended_cuda(*, limit: float = math.inf) -> Iterator[PretendedCuda]:
    """Let tensors live on `cuda` inside, and let ttstrain find one GPU; torch itself still knows what there is."""
    _forget_the_driver()
    gpu = PretendedCuda(limit=limit)
    lifted = torch._C._only_lift_cpu_tensors()
    flags = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.matmul.allow_tf32
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in _replacements(gpu):
            patch.setattr(owner, name, value)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` goes through `to`
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            torch.backends.cuda.enable_cudnn_sdp(flags[0])
            torch.backends.cuda.matmul.allow_tf32 = flags[1]


def _replacements(gpu: PretendedCuda) -> list[tuple[Any, str, Any]]:
    def asked_by_ttstrain() -> bool:
        return str(sys._getframe(1).f_globals.get("__name__", "")).startswith("ttstrain")

    generator = torch.Generator
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=H200_BYTES, major=9, minor=0)
    return [
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_available", asked_by_ttstrain),
        (torch.cuda, "device_count", asked_by_ttstrain),
        (torch.cuda, "set_device", lambda device: None),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
        (torch.cuda, "get_device_name", lambda device=None: properties.name),
        (torch.cuda, "get_device_properties", lambda device=None: properties),
        (torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8)),
        (torch.cuda, "set_rng_state", lambda state, device=None: None),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch, "Generator", lambda device="cpu": generator()),  # on the host, wherever it is asked for
        (Tensor, "pin_memory", lambda self, *_, **__: self.clone()),
        (fake_tensor, "init_gpu_context", lambda device: None),
        (F, "scaled_dot_product_attention", _attention(gpu)),
        (FakeTensor, "tolist", _reading(gpu)),
        (nn.Module, "to", _moved),
    ]


def _forget_the_driver() -> None:
    """Let autograd ask nobody whether a CUDA context exists.

    Its engine calls `CUDAHooks::hasPrimaryContext`, which fails without a driver. The hooks' table of virtual functions
    is copied, and that entry answers as `isAvailable` does: false. Order as in ATen/detail/AcceleratorHooksInterface.h
    of torch 2.11: two destructors, isBuilt, isAvailable, hasPrimaryContext.
    """
    if torch.version.cuda is None or torch.cuda.device_count():
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


def _moved(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Stand in for `nn.Module.to`, which swaps contents of tensors: fake ones have none."""
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    new: dict[int, nn.Parameter] = {}
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in new:
                wanted = dtype if parameter.is_floating_point() else None
                moved = parameter.detach().to(device=device, dtype=wanted)
                new[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
            module._parameters[name] = None if parameter is None else new[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None)
    return self


def _reading(gpu: PretendedCuda) -> Callable[[Tensor], Any]:
    def tolist(self: Tensor) -> Any:
        if self.dim() == 0:
            gpu._note_wait("tolist")
            return gpu.answer(self.dtype)
        return [tolist(row) for row in self]

    return tolist


# ---------------------------------------------------------------- attention


def backend_of(query: Tensor, key: Tensor, value: Tensor, *, masked: bool, causal: bool) -> str:
    """As aten/src/ATen/native/transformers/cuda/sdp_utils.cpp of torch 2.11 on compute capability 9.0."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    width, alike = query.shape[-1], query.dtype == key.dtype == value.dtype
    if query.dim() != 4 or not alike:
        return "math"
    if torch.backends.cuda.cudnn_sdp_enabled() and half and width <= 128 and width % 8 == 0 and key.shape[2] != 1:
        return "cudnn"
    if half and not masked and width <= 256 and not (causal and query.shape[2] != key.shape[2]):
        return "flash"
    return "efficient" if width % (8 if half else 4) == 0 else "math"


def _attention(gpu: PretendedCuda) -> Callable[..., Tensor]:
    real = F.scaled_dot_product_attention

    def attend(  # noqa: PLR0917  torch's own signature
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.device.type == "cuda":
            if torch.is_autocast_enabled("cuda"):
                query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
            gpu.attention[backend_of(query, key, value, masked=attn_mask is not None, causal=is_causal)] += 1
            return aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        return real(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )

    return attend
