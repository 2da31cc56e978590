"""Puts the pretended GPU in the place of torch's own CUDA, for a while."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.amp.autocast_mode
import torch.cuda.amp.common
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor

from ttstrain.data import ahead
from ttstrain.rehearsal.attention import make_attention
from ttstrain.rehearsal.device import PretendedCuda, answer
from ttstrain.rehearsal.driver import check_build, forget_the_driver

NAME = "NVIDIA H200"
CAPABILITY = (9, 0)
MEMORY = 139 << 30  # bytes


@contextmanager
def pretended_cuda(*, limit: float = math.inf, traced: bool = False) -> Iterator[PretendedCuda]:
    """Let tensors live on `cuda` inside, and let ttstrain find one GPU; torch itself still knows what there is.

    A backward pass works only in a process that made none before without it, because torch's engine asks once how many
    devices there are. Raises RecipeError where torch was built without CUDA.
    """
    check_build()
    forget_the_driver()
    gpu = PretendedCuda(limit=limit, traced=traced)
    lifted = torch._C._only_lift_cpu_tensors()
    has_cudnn: bool = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    allows_tf32 = torch.backends.cuda.matmul.allow_tf32
    with ExitStack() as stack:
        for owner, name, value in _replacements(gpu):
            stack.enter_context(patch.object(owner, name, value))
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` goes through `to`
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            torch.backends.cuda.enable_cudnn_sdp(has_cudnn)
            torch.backends.cuda.matmul.allow_tf32 = allows_tf32


def _replacements(gpu: PretendedCuda) -> list[tuple[Any, str, Any]]:
    def asked_by_ttstrain() -> bool:
        return str(sys._getframe(1).f_globals.get("__name__", "")).startswith("ttstrain")

    def synchronize(device: Any = None) -> None:
        gpu.note_wait("waits for everything")

    properties = SimpleNamespace(name=NAME, total_memory=MEMORY, major=CAPABILITY[0], minor=CAPABILITY[1])
    return [
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_available", asked_by_ttstrain),
        (torch.cuda, "device_count", asked_by_ttstrain),
        (torch.cuda, "set_device", lambda device: None),
        (torch.cuda, "synchronize", synchronize),
        (torch.cuda, "cudart", lambda: _Runtime(gpu)),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "get_device_capability", lambda device=None: CAPABILITY),
        (torch.cuda, "get_device_name", lambda device=None: NAME),
        (torch.cuda, "get_device_properties", lambda device=None: properties),
        (torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8)),
        (torch.cuda, "set_rng_state", lambda state, device=None: None),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "stream", nullcontext),
        (torch.cuda, "current_stream", _Stream),
        (Tensor, "record_stream", lambda self, stream: None),
        (ahead, "Threads", _AtOnce),
        (torch, "Generator", _HostGenerator),
        (Tensor, "pin_memory", lambda self, *_, **__: gpu.pin(self.clone())),
        (fake_tensor, "init_gpu_context", lambda device: None),
        (F, "scaled_dot_product_attention", make_attention(gpu.attention)),
        (FakeTensor, "tolist", _reading(gpu)),
        (nn.Module, "to", _moved),
    ]


_Generator = torch.Generator


class _IsGenerator(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Generator)


class _HostGenerator(metaclass=_IsGenerator):
    """Makes a generator on the host, wherever it is asked for."""

    def __new__(cls, device: object = "cpu") -> Any:
        return _Generator()


class _Runtime:
    """The part of CUDA's runtime that locks pages of memory; 0 says that it went well."""

    def __init__(self, gpu: PretendedCuda) -> None:
        self._gpu = gpu

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802  CUDA's name
        self._gpu.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self._gpu.locked.pop(address, None)
        return 0


class _Stream:
    """A stream whose work is done at once."""

    def __init__(self, device: object = None) -> None:
        pass

    def record_event(self) -> _Stream:
        return self

    def wait_event(self, event: _Stream) -> None:
        pass


class _AtOnce:
    """Does what another thread would, in this one: fake tensors and torch's modes belong to one thread."""

    def __init__(self, count: int, **_: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future[Any]) -> Any:
        return future.result()

    def shutdown(self, **_: Any) -> None:
        pass


def _reading(gpu: PretendedCuda) -> Callable[[Tensor], Any]:
    def tolist(self: Tensor) -> Any:
        gpu.note_wait("reads a value")
        return _filled(self.shape, answer(self.dtype))

    return tolist


def _filled(shape: torch.Size, value: Any) -> Any:
    return value if not shape else [_filled(shape[1:], value) for _ in range(shape[0])]


def _moved(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Stand in for `nn.Module.to`, which swaps contents of tensors: fake ones have none."""
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    new: dict[int, nn.Parameter] = {}
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type == "meta":
                new[id(parameter)] = parameter
            elif parameter is not None and id(parameter) not in new:
                wanted = dtype if parameter.is_floating_point() else None
                moved = parameter.detach().to(device=device, dtype=wanted)
                new[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
            module._parameters[name] = None if parameter is None else new[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None)
    return self
