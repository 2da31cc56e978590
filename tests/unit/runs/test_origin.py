"""A run goes on from its own checkpoints, whatever lies elsewhere under the same name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ttstrain.checkpoint.meta import Meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.runs.origin import find, not_begun, run_of


def make_run(folder: Path) -> CheckpointStore:
    checkpoints = CheckpointStore(folder, keep_last=9, background=False)
    for step in (2, 4):
        meta = Meta(family="toy", task="toy", model={}, recipe="toy", step=step)
        checkpoints.save(step, {"task": {"w": torch.ones(1)}}, meta, best=step == 2)
    (folder / "recipe.yaml").touch()
    return checkpoints


def found(run: Path, checkpoint: str | Path | None = None) -> Path:
    named = None if checkpoint is None else Path(checkpoint)
    return find(run, run=run_of(run), checkpoint=named, recipe=None).checkpoint


def test_own_names_come_before_what_lies_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_run(tmp_path / "mine")
    for name in ("best", "last", "step-00000004"):
        shutil.copytree(tmp_path / "mine", tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for run in (tmp_path / "mine", Path("..") / "mine"):
        assert found(run, "best").samefile(own.folder(2))
        assert found(run, "last").samefile(own.folder(4))
        assert found(run, "step-00000004").samefile(own.folder(4))
        assert found(run, own.folder(2)).samefile(own.folder(2))
        assert found(run, own.root / "best").samefile(own.folder(2))


@pytest.mark.parametrize("other", ["other", "other/checkpoints/step-00000004", "other/checkpoints/best"])
def test_another_runs_checkpoint_is_refused_with_the_way_to_use_it(tmp_path: Path, other: str) -> None:
    make_run(tmp_path / "mine")
    make_run(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is no checkpoint of") as caught:
        found(tmp_path / "mine", tmp_path / other)
    named = f" --from {Path(other).name}" if "checkpoints" in other else ""
    assert f"`ttstrain resume {tmp_path / 'other'}{named}`" in str(caught.value.hint)


def test_a_file_that_is_no_runs_is_a_base(tmp_path: Path) -> None:
    make_run(tmp_path / "mine")
    (tmp_path / "model_10.pt").touch()
    with pytest.raises(CheckpointError, match="is no checkpoint of") as caught:
        found(tmp_path / "mine", tmp_path / "model_10.pt")
    assert f"--base {tmp_path / 'model_10.pt'}" in str(caught.value.hint)


def test_a_name_that_the_run_has_not_lists_those_that_it_has(tmp_path: Path) -> None:
    make_run(tmp_path / "mine")
    with pytest.raises(CheckpointError, match="has no checkpoint `step-00000003`") as caught:
        found(tmp_path / "mine", "step-00000003")
    assert "step-00000002, step-00000004" in str(caught.value.hint)


def test_a_run_is_known_by_its_folder_its_checkpoints_and_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_run(tmp_path / "mine")
    (own.root.parent / "samples").mkdir()
    for path in (own.root.parent, own.root, own.root / "last", own.folder(2)):
        assert run_of(path) == tmp_path / "mine"
    for path in (tmp_path, own.root.parent / "samples", own.root.parent / "recipe.yaml", own.folder(2) / "meta.json"):
        assert run_of(path) is None
    monkeypatch.chdir(tmp_path / "mine")
    assert run_of(Path()) == tmp_path / "mine"
    assert found(Path()).samefile(own.folder(4))


def write_start(run: Path, *, steps: int, **environment: object) -> Path:
    """Write what a run leaves that ended before its first checkpoint, saving every 5 steps."""
    run.mkdir(exist_ok=True)
    plan = {"name": "a", "origins": {}, "steps": 99, "steps_per_epoch": 1.0, "save_every": 5}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "env.json").write_text(json.dumps({"command": ["finetune", "r.yaml"], "goes_on_from": None} | environment))
    (run / "recipe.yaml").touch()
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(steps + 1)))
    return run


@pytest.mark.parametrize("steps", [0, 3, 5, 6])
def test_a_run_that_ended_before_its_first_checkpoint_begins_again(tmp_path: Path, steps: int) -> None:
    assert not_begun(write_start(tmp_path / "a", steps=steps))
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert not_begun(tmp_path / "a")


def test_a_run_that_ended_in_a_slow_first_save_begins_again(tmp_path: Path) -> None:
    run = write_start(tmp_path / "a", steps=50)
    (run / "checkpoints" / ".step-00000005.tmp-7").mkdir(parents=True)
    assert not_begun(run)


def test_a_run_that_has_lost_its_checkpoints_does_not_begin_again(tmp_path: Path) -> None:
    run = write_start(tmp_path / "a", steps=50)
    with pytest.raises(CheckpointError, match="are missing: it was at step 50"):
        not_begun(run)
    make_run(run)
    assert not not_begun(run)
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    assert not not_begun(run)  # its pointers name what is missing


@pytest.mark.parametrize(
    "environment",
    [
        {"command": ["resume", "old run", "--reset-step"], "goes_on_from": "old run/checkpoints/step-00000004"},
        {"command": ["resume", "old run", "--reset-step"]},  # from before it was written down
        {"command": ["resume", "model_10.pt", "--recipe", "r.yaml"]},
    ],
)
def test_a_run_that_began_from_another_checkpoint_does_not_begin_from_its_base(
    tmp_path: Path, environment: dict[str, object]
) -> None:
    run = write_start(tmp_path / "a", steps=1, **environment)
    with pytest.raises(CheckpointError, match="did not begin from its base") as caught:
        not_begun(run)
    assert "`ttstrain resume " in str(caught.value.hint)


def test_a_place_where_nothing_is_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        found(tmp_path / "nothing")
