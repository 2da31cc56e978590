"""What the processes of a launch leave to those that are started in their place, and when a start would only repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ttstrain.checkpoint.meta import META_FILE
from ttstrain.train.attempts import Attempts, Begun


@pytest.fixture
def store() -> Store:
    return dist.HashStore()


def save(run: Path, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / META_FILE).write_text(json.dumps({}))


def test_the_first_attempt_that_had_a_folder_says_where_and_from_what(store: Store, tmp_path: Path) -> None:
    assert Attempts(store, 0).first_begun() is None
    Attempts(store, 1).begin(tmp_path)
    save(tmp_path, 3)
    Attempts(store, 2).begin(tmp_path)
    found = Attempts(store, 3).first_begun()
    assert found == Begun(tmp_path, 0)
    assert found.has_moved_on()


def test_a_lost_process_is_named_where_it_was_seen(store: Store) -> None:
    Attempts(store, 0).lose("the process of rank 1 was killed by SIGKILL")
    assert Attempts(store, 0).lost() == "the process of rank 1 was killed by SIGKILL"
    assert Attempts(store, 1).lost() == "a process of this run was lost"
    assert Attempts(store, 0).before() is None


@pytest.mark.parametrize("code", [2, 3, 5, 6, 75, 130])
def test_an_end_with_a_reason_is_not_repeated(store: Store, tmp_path: Path, code: int) -> None:
    attempts = Attempts(store, 0)
    attempts.begin(tmp_path)
    save(tmp_path, 3)
    attempts.end(code)
    assert f"exit code {code}" in str(attempts.repeats())


def test_a_killed_process_is_started_again_once_and_then_after_each_new_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    for number, (saves, worthwhile) in enumerate([(False, True), (True, True), (False, False)]):
        attempts = Attempts(store, number)
        attempts.begin(tmp_path)
        if saves:
            save(tmp_path, number)
        assert (attempts.repeats() is None) == worthwhile, number


def test_a_failure_without_a_reason_is_repeated_only_where_the_run_moves_on(store: Store, tmp_path: Path) -> None:
    attempts = Attempts(store, 0)
    attempts.begin(tmp_path)
    attempts.end(1)
    assert attempts.repeats() is not None
    save(tmp_path, 3)
    assert attempts.repeats() is None
