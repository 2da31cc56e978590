"""A new run's folder is its own: to have made it is to own it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttstrain.checkpoint.lock import LOCK, RunBusyError, hold
from ttstrain.checkpoint.run_folder import ENVIRONMENT, PLAN, RECIPE
from ttstrain.errors import RecipeError
from ttstrain.runs import folder


def plan(run_dir: Path, *, name: str | None = None) -> Any:
    return SimpleNamespace(name="toy", recipe=SimpleNamespace(run_dir=str(run_dir), name=name))


def test_runs_started_in_one_second_get_a_folder_each(tmp_path: Path) -> None:
    locks = [folder.create(plan(tmp_path / "sweep")) for _ in range(3)]  # none has written anything yet
    assert len({lock.folder for lock in locks}) == 3
    for lock in locks:
        lock.release()


def test_resets_of_one_run_get_a_folder_each(tmp_path: Path) -> None:
    with folder.create_beside(tmp_path / "a") as one, folder.create_beside(tmp_path / "a-reset") as other:
        assert (one.folder.name, other.folder.name) == ("a-reset", "a-reset-2")


def test_a_named_run_gets_its_folder_or_an_error(tmp_path: Path) -> None:
    with folder.create(plan(tmp_path, name="a")) as first:
        assert first.folder == tmp_path / "a"
        with pytest.raises(RunBusyError):
            folder.create(plan(tmp_path, name="a"))
        (first.folder / RECIPE).touch()
        with pytest.raises(RunBusyError, match=f"process {os.getpid()} on "):
            folder.check_name(plan(tmp_path, name="a").recipe)
    with pytest.raises(RecipeError, match="exists already"):
        folder.create(plan(tmp_path, name="a"))
    with hold(tmp_path / "a"):
        assert (tmp_path / "a" / LOCK).exists()  # the refusal left it free


def test_an_empty_folder_and_one_of_a_start_that_was_killed_can_be_named(tmp_path: Path) -> None:
    for name, left in (("empty", ()), ("killed", (LOCK, PLAN, ENVIRONMENT))):
        (tmp_path / name).mkdir()
        for file in left:
            (tmp_path / name / file).write_text("{}")
        folder.check_name(plan(tmp_path, name=name).recipe)
        with folder.create(plan(tmp_path, name=name)) as lock:
            assert lock.folder == tmp_path / name


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (None, "a"):
        with pytest.raises(RecipeError, match="cannot be made"):
            folder.create(plan(tmp_path / "file", name=name))


@pytest.mark.parametrize(
    "link", ["samples", "samples/step-00000004", "samples/step-00000004/a.wav", "checkpoints", "metrics.jsonl", "wandb"]
)
def test_nothing_is_written_where_a_link_leads_out_of_the_run(tmp_path: Path, link: str) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    (run / link).parent.mkdir(parents=True)
    folder.refuse_links(run)
    (run / link).symlink_to(elsewhere)
    with pytest.raises(RecipeError, match=f"`{run / link}` is a link that leads out of the run, to `{elsewhere}`"):
        folder.refuse_links(run)


def test_a_link_to_itself_in_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warnings.jsonl").symlink_to("warnings.jsonl")
    with pytest.raises(RecipeError, match="is a link that leads to itself"):
        folder.refuse_links(tmp_path)


def test_links_within_a_run_and_of_a_whole_run_are_followed(tmp_path: Path) -> None:
    run = tmp_path / "large disk" / "run"
    (run / "samples" / "step-00000004").mkdir(parents=True)
    (run / "samples" / "newest").symlink_to("step-00000004")
    (run / "wandb").mkdir()
    (run / "wandb" / "debug.log").symlink_to(tmp_path)  # W&B's own
    (run / "my notes").symlink_to(tmp_path)  # the user's own, which nothing is written to
    (tmp_path / "linked").symlink_to(run)
    folder.refuse_links(run)
    folder.refuse_links(tmp_path / "linked")
