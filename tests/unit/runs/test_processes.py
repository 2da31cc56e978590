"""Which process tells the user of a failure, and what the others are told."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from ttstrain.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    OutOfMemoryError,
    PeerError,
    Preempted,
    UserError,
)
from ttstrain.runs.processes import Processes
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
