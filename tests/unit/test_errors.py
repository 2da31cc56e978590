"""What says that memory is full, and what does not."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from ttstrain.errors import OutOfMemoryError, RecipeError, first_line, is_of_the_device, is_out_of_memory

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError(""),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    dist.DistBackendError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:126] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    dist.DistBackendError("NCCL error: remote process exited or there was a network error"),
    OutOfMemoryError("step 3 did not fit in memory with the clip `a` alone"),  # already said
    RecipeError("out of memory"),
    ValueError("out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_library_that_finds_memory_full_is_understood(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_allocator_of_this_torch_says_what_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_errors_of_the_device_are_told_from_others() -> None:
    assert [is_of_the_device(error) for error in (OTHER[0], OTHER[1], FULL[2], OTHER[5])] == [False, True, True, False]


def test_the_first_line_says_it() -> None:
    assert first_line(RuntimeError("\nfull\nadvice")) == "full"
    assert first_line(MemoryError()) == "MemoryError"
