"""Which GPU a process takes: its own, however a launcher or a scheduler shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttstrain.errors import RecipeError
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Four(Ranks):
    """One of four processes of a machine; the others' answers are given."""

    world_size: int = 4
    local_size: int = 4
    uuids: Sequence[str] = ()

    def gather(self, value: Any) -> list[Any]:
        machine, own = value
        assert own == self.uuids[self.rank]
        return [(machine, uuid) for uuid in self.uuids]


def see(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    """Let this process see such GPUs."""
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[device.index]))
    monkeypatch.setattr(cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: None)


EACH = ("a", "b", "c", "d")


@pytest.mark.parametrize("rank", range(4))
def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    see(monkeypatch, *EACH)
    assert choose_device("auto", tf32=True, ranks=Four(rank, local_rank=rank, uuids=EACH)).index == rank


@pytest.mark.parametrize("rank", range(4))
def test_a_process_that_a_scheduler_shows_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    see(monkeypatch, EACH[rank])
    assert choose_device("cuda", tf32=True, ranks=Four(rank, local_rank=rank, uuids=EACH)).index == 0


def test_processes_that_see_the_same_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "a")
    with pytest.raises(RecipeError, match=r"processes 0, 1, 2, 3 use the same GPU"):
        choose_device("auto", tf32=True, ranks=Four(3, local_rank=3, uuids=("a",) * 4))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "a", "b")
    with pytest.raises(RecipeError, match="there is no GPU 3: this machine has 2"):
        choose_device("auto", tf32=True, ranks=Four(3, local_rank=3, uuids=EACH))
    with pytest.raises(RecipeError, match="there is no GPU 2: this machine has 2"):
        choose_device("cuda:2", tf32=True)
