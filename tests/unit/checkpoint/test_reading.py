"""Who reads a run that is training gets a whole checkpoint, or an error of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ttstrain.checkpoint import reading, store
from ttstrain.checkpoint.meta import Meta
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.checkpoint.upstream import follow
from ttstrain.errors import CheckpointError, RecipeError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.setattr(reading, "PAUSE_S", 0.0)
    checkpoints = CheckpointStore(tmp_path / "run", keep_last=1, background=False)
    write(checkpoints, 1)
    return checkpoints


def write(checkpoints: CheckpointStore, step: int, *, value: float = 0.0) -> None:
    meta = Meta(family="toy", task="toy", model={}, recipe="toy", step=step)
    checkpoints.save(step, {"task": {"w": torch.full((4,), value)}}, meta)


def interrupted(path: Path, *writes: Callable[[], object]) -> Callable[[], store.Loaded]:
    """Read a checkpoint, and let one of `writes` come between the look at `last` and each reading."""
    waiting = list(writes)

    def read() -> store.Loaded:
        folder = follow(path)
        if waiting:
            waiting.pop(0)()
        return store.load(folder)

    return read


def test_a_checkpoint_that_is_pruned_while_it_is_read_is_followed_by_the_next(run: CheckpointStore) -> None:
    path = run.root.parent
    read = interrupted(path, lambda: write(run, 2), lambda: write(run, 3))
    assert retried(path, read).meta.step == 3


def test_a_checkpoint_that_is_replaced_by_one_of_its_name_is_read_anew(run: CheckpointStore) -> None:
    path = run.folder(1)
    aside = path.with_name(".step-00000001.old")

    def replace_halfway() -> None:
        write(run, 1, value=1.0)
        path.rename(aside)

    reads = []

    def read() -> store.Loaded:
        reads.append(1)
        if len(reads) == 1:
            replace_halfway()
        elif len(reads) == 2 and aside.exists():  # the writer has gone on
            aside.rename(path)
        return store.load(path)

    assert torch.equal(retried(path, read).state["task"]["w"], torch.ones(4))


def test_a_damaged_checkpoint_is_an_error_at_once(run: CheckpointStore) -> None:
    (run.folder(1) / "weights.safetensors").unlink()
    reads = []

    def read() -> store.Loaded:
        reads.append(1)
        return store.load(follow(run.root.parent))

    with pytest.raises(CheckpointError, match="is missing from its checkpoint"):
        retried(run.root.parent, read)
    assert len(reads) == 1


def test_a_checkpoint_that_is_gone_for_good_is_an_error(run: CheckpointStore) -> None:
    path = run.folder(1)
    with pytest.raises(CheckpointError):
        retried(path, interrupted(path, lambda: shutil.rmtree(path)))


def test_a_kept_file_that_goes_with_its_checkpoint_is_read_in_the_next(run: CheckpointStore) -> None:
    path = run.root.parent
    seen = []

    def read() -> Path:
        folder = follow(path)
        seen.append(folder.name)
        if len(seen) == 1:
            write(run, 2)  # which prunes the first
            raise RecipeError(f"there is no vocab `{folder / 'model.vocab'}`")
        return folder

    assert retried(path, read) == run.folder(2)
    assert seen == ["step-00000001", "step-00000002"]


def test_a_recipe_error_of_a_checkpoint_that_stands_is_raised_at_once(run: CheckpointStore) -> None:
    tries = []

    def read() -> None:
        tries.append(1)
        raise RecipeError("no")

    with pytest.raises(RecipeError):
        retried(run.root.parent, read)
    assert len(tries) == 1


@pytest.mark.parametrize("error", [RecipeError("there is no vocab"), FileNotFoundError(2, "No such file"), None])
def test_a_run_that_replaces_its_checkpoint_in_every_try_is_a_checkpoint_error(
    run: CheckpointStore, error: Exception | None
) -> None:
    path = run.root.parent
    tries = []

    def read() -> store.Loaded:
        folder = follow(path)
        tries.append(folder.name)
        write(run, 1 + len(tries))
        if error is not None:
            raise error
        return store.load(folder)

    with pytest.raises(CheckpointError) as raised:
        retried(path, read)
    assert len(tries) == reading.TRIES
    assert f"`{path}`" in raised.value.message
    assert "each of 5 attempts" in raised.value.message
    assert "step-" in str(raised.value.hint)
    assert raised.value.exit_code == 4
