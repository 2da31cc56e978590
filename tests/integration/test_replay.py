"""A run that replays other clips: counted in its plan, held out apart from its own, measured, and resumed exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ranked
from processes import Processes
from small_runs import checkpoint, differences, finetune, metrics, ttstrain, write_clips, write_recipe

from ttstrain.data.manifest import read_manifest
from ttstrain.errors import DataError
from ttstrain.runs.resume import resume

STEPS = 8


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, and twelve to replay of which six are the same."""
    root = tmp_path_factory.mktemp("recipe")
    recipe = write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))
    others = write_clips(root / "others", count=14)
    text = recipe.read_text().replace("holdout: 2,", f"holdout: 2, replay: {{path: {others}, share: 0.4, holdout: 2}},")
    recipe.write_text(text)
    return recipe


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("whole"), "name=whole")


def test_the_plan_counts_both_kinds(finished: Path, recipe: Path) -> None:
    data = json.loads((finished / "plan.json").read_text())["data"]
    assert (data["num_clips"], data["num_holdout"]) == (4, 2)
    replay = data["replay"]
    assert (replay["num_clips"], replay["num_holdout"], replay["num_shared"]) == (6, 2, 6)
    assert replay["clips_per_epoch"] >= 1
    shown = ttstrain("plan", recipe)
    assert shown.returncode == 0, shown.stderr
    flat = " ".join(shown.stdout.split())
    assert "6 clips" in flat and "2 held out for retention" in flat and "6 also in `data.path`" in flat
    assert "40 % of its frames" in flat
    assert max(map(len, shown.stdout.splitlines())) <= 80 or str(recipe.parent) in shown.stdout


def test_no_replayed_clip_is_held_out_of_the_data(finished: Path) -> None:
    held_out = read_manifest(finished / "data" / "held_out.jsonl")
    replay = read_manifest(finished / "data" / "replay.jsonl")
    retained = read_manifest(finished / "data" / "replay_held_out.jsonl")
    assert not any(clip.id.startswith("replay/") for clip in held_out)
    assert all(clip.id.startswith("replay/") for clip in (*replay, *retained))
    digests = [clip.digest for clip in (*held_out, *replay, *retained)]
    assert len(set(digests)) == len(digests) == 10


def test_retention_is_measured_at_every_evaluation(finished: Path) -> None:
    rows = [row for row in metrics(finished) if "eval/loss/total" in row]
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8]
    for row in rows:
        assert row["eval/retention/total"] > 0
        assert row["eval/retention/total"] != row["eval/loss/total"]
    assert rows[0]["eval/ema_retention/total"] == rows[0]["eval/retention/total"]
    assert rows[-1]["eval/ema_retention/total"] != rows[-1]["eval/retention/total"]


def test_a_cut_run_ends_bit_for_bit_as_the_whole(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "copy"))
    root = run / "checkpoints"
    for step in range(4, STEPS + 1):
        shutil.rmtree(root / f"step-{step:08d}")
    (root / "last").write_text("step-00000003\n")
    (root / "best").unlink(missing_ok=True)
    resume(run, [])
    assert differences(checkpoint(run, STEPS).state, checkpoint(finished, STEPS).state) == []
    assert metrics(run) == metrics(finished)


def test_without_held_out_clips_retention_alone_is_measured(recipe: Path, tmp_path: Path) -> None:
    run = finetune(recipe, tmp_path, "data.holdout=0", "train.steps=4")
    rows = [row for row in metrics(run) if "eval/retention/total" in row]
    assert len(rows) == 3
    assert not any(key.startswith("eval/loss") for row in rows for key in row)


def test_a_share_of_nothing_only_measures(recipe: Path, tmp_path: Path) -> None:
    measured = finetune(recipe, tmp_path, "data.replay.share=0", "name=measured")
    alone = finetune(recipe, tmp_path, "data.replay=null", "name=alone")
    assert differences(checkpoint(measured, STEPS).state["task"], checkpoint(alone, STEPS).state["task"]) == []
    assert "eval/retention/total" in metrics(measured)[-1]


def test_the_end_says_what_was_forgotten(recipe: Path, tmp_path: Path) -> None:
    done = ttstrain("finetune", recipe, f"run_dir={tmp_path}", "train.steps=4", "name=said")
    assert done.returncode == 0, done.stderr
    first, *_, last = [
        row["eval/retention/total"] for row in metrics(tmp_path / "said") if "eval/retention/total" in row
    ]
    assert f"{100 * (last / first - 1):+.1f} %" in done.stderr


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


def test_two_processes_read_what_one_reads(two: Processes, finished: Path, recipe: Path, tmp_path: Path) -> None:
    ends = two(ranked.finetune_and_tell, recipe, f"run_dir={tmp_path}", "train.accumulate=1", "name=two")
    assert differences(ends[0]["weights"], ends[1]["weights"]) == []
    alone, shared = checkpoint(finished, STEPS).state, checkpoint(tmp_path / "two", STEPS).state
    assert shared["loader"] == alone["loader"]
    assert shared["progress"]["frames"] == alone["progress"]["frames"]


def test_data_that_hold_all_there_is_to_replay_are_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in the data themselves"):
        finetune(
            recipe, tmp_path, f"data.path={recipe.parent / 'others'}", f"data.replay.path={recipe.parent / 'speech'}"
        )
