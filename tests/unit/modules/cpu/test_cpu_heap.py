"""Memory that steps free is there for the next one."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from ttstrain.modules.cpu.heap import keep_freed_memory

HAS_MALLOPT = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")

# Steps of two shapes in turn, each with tensors from 4 to 32 MB that live until its end.
PROGRAM = """
import resource, sys
import torch
from ttstrain.modules.cpu.heap import keep_freed_memory

def step(width):
    kept = [torch.ones(number, 1024, width) for number in range(1, 9)]

torch.set_num_threads(1)
kept = keep_freed_memory(torch.device(sys.argv[1]))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(1024)
    step(1000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), sorted(faults[1:])[3])
"""


def faults_of(device: str) -> tuple[bool, int]:
    """Return whether a fresh process keeps its memory, and the pages the system clears for two steps (median)."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, device], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


@pytest.mark.skipif(not HAS_MALLOPT, reason="the C library has no mallopt")
def test_a_step_on_the_cpu_reuses_what_the_last_one_freed() -> None:
    measured = [faults_of("cpu") for _ in range(3)]  # where the system puts the heap differs from process to process
    kept, faults = min(measured, key=lambda one: one[1])
    gave_back, cleared = faults_of("cuda")  # a run on a GPU leaves the host's memory alone
    assert kept
    assert not gave_back
    if cleared < 1_000:
        pytest.skip("this system gives nothing back, or does not count it")
    assert faults < cleared / 4  # where the heap cannot grow in one piece, a large block may still come fresh


def test_a_run_on_a_gpu_leaves_the_host_memory_alone() -> None:
    assert not keep_freed_memory(torch.device("cuda"))
