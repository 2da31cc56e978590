"""In a step the host waits for the GPU once for each optimizer, and once more where the step is measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rehearsed
import torch
from pretended_cuda import GPU, needs_cuda_build, pretended_cuda
from processes import Processes

from ttstrain.tensors.host_copy import HostCopy

pytestmark = needs_cuda_build

READ = "reads a value in ttstrain.train.step._read"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Processes]:
    """Run in a process in which torch has made no backward pass."""
    processes = Processes(1)
    yield processes
    processes.close()


@pytest.mark.parametrize(("task", "optimizers"), [("Regression", 1), ("Joint", 1), ("Gan", 2)])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_step_reads_once_for_each_optimizer(fresh: Processes, task: str, optimizers: int, micro_batches: int) -> None:
    (ordinary,) = fresh(rehearsed.note_waits, task, micro_batches, False)
    assert ordinary == optimizers * [READ]
    (measured,) = fresh(rehearsed.note_waits, task, micro_batches, True)
    assert measured == (optimizers + 1) * [READ]


def test_a_snapshot_waits_once_for_all_its_tensors() -> None:
    with pretended_cuda() as gpu:
        state = {"task": {str(i): torch.zeros(100, device=GPU) for i in range(5)}, "progress": {"step": 3}}
        copy = HostCopy()
        for _ in range(2):
            copied = copy.take(state)
            assert gpu.waits == ["waits for everything in ttstrain.tensors.host_copy.HostCopy.take"]
            gpu.waits.clear()
        assert {tensor.device.type for tensor in copied["task"].values()} == {"cpu"}
        copy.drop()
        del copied, state
        assert gpu.locked == {}


def test_a_second_snapshot_lies_where_the_first_did() -> None:
    with pretended_cuda():
        state = {"task": {str(i): torch.zeros(100_000, device=GPU) for i in range(3)}}
        copy = HostCopy()
        first, second = ([x.data_ptr() for x in copy.take(state)["task"].values()] for _ in range(2))
        assert first == second
        copy.drop()
        del state
