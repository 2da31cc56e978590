"""`ttstrain plan --trial`: it measures a run, leaves nothing behind, and the run says how well it was forecast."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import differences, ttstrain, write_clips, write_recipe

from ttstrain.contract.data import Batch
from ttstrain.forecast.costs import of_json
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.train.step import train_step
from ttstrain.trial.lr import find_lrs
from ttstrain.trial.scratch import Scratch, scratch_run

SMALL = ("sample={every: 8, count: 1}", "judge.sentences=2", "tracking.wandb=off")
GROUPS = "[{name: text, match: ['*text_embed*'], lr_scale: 0.5}]"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Try a recipe in an empty folder."""
    root = tmp_path_factory.mktemp("trial")
    (root / "here").mkdir()
    write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))
    done = ttstrain(
        *("plan", root / "r.yaml", *SMALL, "--trial", "--json"), cwd=root / "here", TTSTRAIN_CACHE=str(root / "cache")
    )
    assert done.returncode == 0, done.stderr
    return root, done


def test_a_trial_forecasts_and_leaves_nothing_in_the_folder(
    tried: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = tried
    said = json.loads(done.stdout)["forecast"]
    assert list((root / "here").iterdir()) == []
    assert said["source"].startswith("trial of ")
    assert 0 < said["taken"]["first_step_s"] < said["taken"]["total_s"]
    assert said["taken"]["memory"] > 50e6  # torch alone takes more
    assert said["parts"]["steps"] > 0 and said["parts"]["samples and judge"] > 0
    kept = list((root / "cache" / "costs").iterdir())
    assert [path.name.rpartition("-")[2] for path in kept] == ["trial.json"]
    costs = of_json(json.loads(kept[0].read_text()))
    assert costs.steps >= 10
    assert costs.sizes.checkpoint > 0 and costs.sizes.samples > 0 and costs.sizes.cache > 0


def test_the_run_after_a_trial_compares_itself_with_it(
    tried: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, planned = tried
    done = ttstrain(
        *("finetune", root / "r.yaml", *SMALL, "--run-dir", root / "runs", "name=kept"),
        TTSTRAIN_CACHE=str(root / "cache"),
    )
    assert done.returncode == 0, done.stderr
    screen = " ".join(done.stderr.split())
    assert "forecast from the trial of" in screen  # before the first step
    assert re.search(r"time \d:\d\d, took \d:\d\d \(\d+ % (more|less)\)", screen)  # after the last
    written = json.loads((root / "runs" / "kept" / "forecast.json").read_text())
    said = json.loads(planned.stdout)["forecast"]
    assert written["ending"] == "done"
    assert {**written["forecast"], "taken": None} == {**said, "taken": None}
    took = written["took"]
    assert 0 < took["first_step_s"] < took["total_s"]
    # The machine's load moves the time and not what is on the disk, but for the page that shows the curves.
    assert took["disk"] == pytest.approx(said["taken"]["disk"], rel=0.3)
    assert took["memory"] == pytest.approx(said["taken"]["memory"], rel=0.3)

    again = ttstrain(
        "plan",
        root / "r.yaml",
        *SMALL,
        "train.steps=80",
        "--run-dir",
        root / "runs",
        TTSTRAIN_CACHE=str(root / "cache"),
    )
    assert "last run on this machine, kept" in " ".join(again.stdout.split())


def test_a_trial_is_made_by_one_process(tried: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    refused = ttstrain("plan", tried[0] / "r.yaml", "--trial", "--nproc", "2")
    assert refused.returncode == 2
    assert "error: a trial is made by one process" in refused.stderr and "hint:" in refused.stderr
    unknown = ttstrain("plan", tried[0] / "r.yaml", "data.path=null", "--trial")
    assert unknown.returncode == 2 and "`data.path` is not set" in unknown.stderr


# ---------------------------------------------------------------- the settings that suit


@pytest.fixture(scope="module")
def begun(tried: tuple[Path, subprocess.CompletedProcess[str]]) -> Iterator[Scratch]:
    """Begin a run with a group of its own, and take two steps of it."""
    composed = compose(tried[0] / "r.yaml", ["sample.every=null", f"optim.groups={GROUPS}", "train.accumulate=1"])
    with scratch_run(composed) as scratch:
        for _ in range(2):
            train_step(scratch.ready.run, scratch.ready.run.loader.next())
        yield scratch


def test_a_test_of_learning_rates_puts_everything_back(begun: Scratch) -> None:
    run = begun.ready.run
    before, batches = run.state.snapshot(), [batch.ids for batch in _look_ahead(begun)]
    found = find_lrs(run, steps=6)
    curves = found.curves
    assert differences(before, run.state.snapshot()) == []
    assert [batch.ids for batch in _look_ahead(begun)] == batches
    assert {curve.key for curve in curves} == {"model/text", "model/default"}
    assert all(curve.lrs[0] == pytest.approx(curve.planned / 100) for curve in curves)
    # The first LR is so small that the loss is that of no update at all.
    assert all(abs(curve.gains[0]) < 1e-6 for curve in curves)
    assert any(max(map(abs, curve.gains)) > 1e-6 for curve in curves)
    assert found.together is None or found.together.steps == 6
    assert run.optimizers.logged_lrs() == run.optimizers.set_lr(run.progress.step)


def _look_ahead(begun: Scratch) -> list[Batch]:
    """Return the next micro-batches, and put the loader back."""
    run = begun.ready.run
    state = run.loader.state_dict()
    batches = run.loader.next(3)
    run.loader.load_state_dict(state)
    return batches


def test_tune_writes_overrides_and_a_picture(tried: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    root = tried[0]
    done = ttstrain(
        *("tune", root / "r.yaml", "sample.every=null", "--fit", "8GB", "-o", "suits"),
        cwd=root / "here",
        TTSTRAIN_CACHE=str(root / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = " ".join(done.stdout.split())
    assert "no micro-batch of these data can be larger" in said and "model/default" in said
    assert "waiting for data takes" in said and "loader process" in said
    assert sorted(path.name for path in (root / "here" / "suits").iterdir()) == ["overrides.yaml", "tune.svg"]
    user = root / "user.yaml"
    user.write_text(
        f"extends: [{root / 'here' / 'suits' / 'overrides.yaml'}]\ntask: flow\n"
        "model: {dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 16, conv_layers: 1, tokenizer: char}\n"
        f"data: {{path: {root / 'speech'}}}\n"
    )
    assert parse(compose(user)).data.batch_frames > 300


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--fit", "12XB"), 2, "is no size of memory"),
        (("--fit", "900TB"), 2, "cannot be fitted"),
        (("--fit", "50MB"), 6, "not even the longest clip alone fits"),
        (("--fit", "8GB", "train.device=auto"), 2, "there is no GPU here"),
        (("--fit", "8GB", "train.device=cuda"), 2, "no GPU can be used"),
    ],
)
def test_a_memory_that_cannot_be_fitted_is_refused(
    tried: tuple[Path, subprocess.CompletedProcess[str]], arguments: tuple[str, ...], code: int, message: str
) -> None:
    if torch.cuda.is_available() and "train.device" in arguments[-1]:
        pytest.skip("this machine has a GPU")
    done = ttstrain("plan", tried[0] / "r.yaml", "sample.every=null", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "hint:" in done.stderr
