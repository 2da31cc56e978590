"""Which process tells the user of a failure, and what the others are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ttstrain.checkpoint.lock import hold
from ttstrain.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    OutOfMemoryError,
    PeerError,
    Preempted,
    RepeatedError,
    UserError,
)
from ttstrain.runs.processes import Processes
from ttstrain.train.attempts import Attempts, Begun
from ttstrain.train.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Two(Ranks):
    """One of two processes; the other has failed first, waits, or is gone."""

    world_size: int = 2
    other: str = "waits"
    heard: list[int | str] = field(default_factory=list)

    def barrier(self) -> None:
        self.heard.append("barrier")
        if self.other == "gone":
            raise PeerError("lost the other processes")

    def announce_failure(self, exit_code: int) -> bool:
        self.heard.append(exit_code)
        if self.other == "gone":
            raise PeerError("lost the other processes")
        return self.other == "waits"


def processes(*, rank: int = 0, other: str = "waits", training: bool = False) -> tuple[Processes, list[int | str]]:
    ranks = Two(rank, other=other)
    here = Processes(ranks)
    if training:
        here.ranks = Ranks()
        here.begin_training()
        here.ranks = ranks
    return here, ranks.heard


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("bad data"), 3),
        (CheckpointError("no file"), 4),
        (ValueError("a defect"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_before_training_a_failure_is_announced_and_told(error: BaseException, code: int) -> None:
    here, heard = processes()
    assert here.failure(error) is error
    assert heard == [code]


def test_of_two_that_fail_before_one_meeting_one_speaks() -> None:
    here, _ = processes(rank=1, other="failed first")
    silent = here.failure(DataError("bad data", hint="look"))
    assert isinstance(silent, PeerError)
    assert (silent.exit_code, silent.told) == (3, True)
    defect = ValueError("a defect")
    assert here.failure(defect) is defect  # every process shows its own


@pytest.mark.parametrize("error", [DivergedError("NaN"), Preempted("SIGTERM")])
def test_what_all_decide_alike_is_told_by_the_main_process_once_all_are_there(error: UserError) -> None:
    here, heard = processes(training=True)
    assert here.failure(error) is error
    assert heard == ["barrier"]
    other, _ = processes(rank=1, training=True)
    silent = other.failure(error)
    assert isinstance(silent, PeerError)
    assert (silent.exit_code, silent.told) == (error.exit_code, True)


def test_in_training_a_failure_of_one_process_is_told_by_it_and_announced_to_nobody() -> None:
    here, heard = processes(rank=1, training=True)
    error = DataError("a recording is gone")
    assert here.failure(error) is error
    assert heard == []


def test_where_nobody_is_left_to_hear_only_a_signal_has_been_told_of() -> None:
    for training, error in ((False, DataError("bad data")), (True, DivergedError("NaN"))):
        here, _ = processes(rank=1, other="gone", training=training)
        assert here.failure(error) is error
    here, _ = processes(rank=1, other="gone", training=True)
    silent = here.failure(Preempted("SIGTERM"))
    assert isinstance(silent, PeerError)
    assert silent.told


def test_a_lost_peer_knows_itself_whether_to_speak() -> None:
    for training in (False, True):
        here, heard = processes(rank=1, training=training)
        error = PeerError("lost the other processes")
        assert here.failure(error) is error
        assert heard == []


@pytest.mark.parametrize(
    ("training", "when"), [(False, "before the training began"), (True, "outside a training step")]
)
def test_memory_that_runs_out_is_said_in_words(training: bool, when: str) -> None:
    here, _ = processes(training=training)
    failure = here.failure(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert isinstance(failure, OutOfMemoryError)
    assert when in failure.message


# ---------------------------------------------------------------- started again


@pytest.fixture
def started_again(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    return dist.HashStore()


def test_processes_that_are_started_again_find_what_the_last_began(started_again: Store, tmp_path: Path) -> None:
    first = Processes(Ranks(), Attempts(started_again, 0))
    first.hold(lambda: hold(tmp_path))
    first.leave()
    again = Processes(Ranks(), Attempts(started_again, 1))
    assert again.earlier_attempt() == Begun(tmp_path, 0)
    assert again.lost == "a process of this run was lost"
    started_again.set("ttstrain/begun/0", json.dumps({"folder": str(tmp_path / "gone"), "newest": 0}))
    assert again.earlier_attempt() is None


def test_processes_that_are_started_again_for_nothing_say_so_with_the_code_of_the_last(started_again: Store) -> None:
    first = Processes(Ranks(), Attempts(started_again, 0))
    assert first.earlier_attempt() is None  # it is not known yet how it ends
    first.failure(DivergedError("NaN"))
    again = Processes(Ranks(), Attempts(started_again, 1))
    with pytest.raises(RepeatedError, match="exit code 5") as raised:
        again.earlier_attempt()
    assert raised.value.exit_code == 5


def test_a_process_that_only_lost_the_others_leaves_no_reason(started_again: Store) -> None:
    attempts = Attempts(started_again, 0)
    Processes(Ranks(), attempts).failure(PeerError("lost the other processes"))
    assert attempts.ended() is None


@dataclass(frozen=True, slots=True)
class OfSizes(Ranks):
    """Processes of which the others have GPUs of these sizes."""

    others: tuple[int | None, ...] = ()

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def test_every_process_knows_the_smallest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80))
    assert Processes(OfSizes(others=(24, 80))).gpu_memory(torch.device("cuda", 0)) == 24
    assert Processes(OfSizes(others=(141,))).gpu_memory(torch.device("cuda", 0)) == 80
    assert Processes(Ranks()).gpu_memory(torch.device("cpu")) is None
