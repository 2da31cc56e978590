"""The judge in a run of every task: what is generated is heard, and a net that does not speak gets no verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_orpheus import write_all
from small_runs import finetune, metrics, ttstrain, write_clips
from sovits_toys import write_s1, write_s2g

from ttstrain.checkpoint import judged

JUDGED = (
    "judge.enabled=true",
    "judge.sentences=6",
    "sample.every=1",
    "sample.count=1",
    "train.steps=1",
    "optim.schedule={kind: constant, warmup_steps: 0}",
    "eval.every=null",
    "tracking.wandb=off",
    "name=r",
)
# all speech is far too short, so that no sentence is found by chance
SOVITS = ("data.holdout=1", "data.batch_frames=400", "model.sampling.max_s=0.2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "speech", count=6)


@pytest.mark.parametrize("task", ["gpt", "vae", "joint"])
def test_gpt_sovits_is_heard_with_the_net_that_is_not_trained(task: str, clips: Path, tmp_path: Path) -> None:
    partner = {
        "gpt": [f"model.vae={write_s2g(tmp_path / 's2G.pth')}"],
        "vae": [f"model.gpt={write_s1(tmp_path / 's1.ckpt')}"],
    }.get(task, [])
    run = finetune(Path(f"smoke/gpt_sovits_{task}"), tmp_path, *JUDGED, *SOVITS, *partner, f"data.path={clips}")
    assert_no_verdict(run)


@pytest.mark.parametrize(("grammar", "silent"), [("masked", False), ("free", True)])
def test_orpheus_is_heard_also_where_no_frame_is_generated(grammar: str, silent: bool, tmp_path: Path) -> None:
    recipe = write_all(tmp_path)
    sampling = f"model.sampling={{max_tokens: 28, grammar: {grammar}, top_p: 1.0, temperature: 9.0}}"
    run = finetune(recipe, tmp_path, *JUDGED, sampling)
    assert_no_verdict(run)
    assert (metrics(run)[-1]["judge/silence_share"] == 1) is silent
    done = ttstrain("eval", run, "--sentences", "4", "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    assert "this net does not speak yet, nor does its base: no verdict" in " ".join(done.stdout.split())
    sides = json.loads((tmp_path / "e.json").read_text())["sides"]
    assert [side["key"] for side in sides] == ["base", "1-online"]
    for side in sides:  # the base generates with the run's settings
        assert (side["figures"]["silence_share"]["mean"] == 1) is silent


def assert_no_verdict(run: Path) -> None:
    """Check that sentences were heard, that no alarm was raised, and what the verdict says."""
    step = judged.read(run).steps[-1]
    assert step.words.startswith("this net does not speak yet") and "no verdict" in step.words
    assert step.outcome == "unusable"
    row = metrics(run)[-1]
    assert "judge/pace" in row or row["judge/silence_share"] == 1
    warnings = run / "warnings.jsonl"
    assert not warnings.exists() or "judge" not in warnings.read_text()
