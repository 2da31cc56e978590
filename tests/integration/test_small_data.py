"""A minute of speech, six clips, two, one: the recipes for little data through the command line, on the small net."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import checkpoint, finetune, metrics, ttstrain, write_clips, write_recipe

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.export.choose import gather
from ttstrain.infer.load import load_model

NET = "model={dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 16, conv_layers: 1, tokenizer: char}"
SMALL = ["extends=[hardware/cpu, tracking/offline]", NET, "tracking.wandb=off", "sample.every=null"]
SHORT = ["train.steps=6", "eval.every=2", "checkpoint.every=2", "optim.schedule.warmup_steps=1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    recipe = write_recipe(root / "r.yaml", data=write_clips(root / "speech"))
    return finetune(recipe, root, "name=base", NET, "train.steps=4", "data.batch_frames=900")


def train(recipe: str, data: Path, base: Path, folder: Path, *options: str) -> list[dict[str, float]]:
    given = [*SMALL, *SHORT, *options, "name=run", f"data.path={data}", f"base={base}"]
    return metrics(finetune(Path(recipe), folder, *given))


@pytest.mark.parametrize(("count", "holdout"), [(6, 1), (2, 1)])
def test_so_few_clips_train(count: int, holdout: int, base: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "speech", count=count)
    given = [*SMALL, *SHORT, "name=run", f"data.holdout={holdout}", f"run_dir={tmp_path}"]
    done = ttstrain("finetune", "f5_one_minute", *given, "--data", data, "--base", base)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run" / "plan.json").read_text())["data"]
    assert (facts["num_clips"], facts["num_holdout"]) == (count - holdout, holdout)
    assert [row["step"] for row in metrics(tmp_path / "run") if "eval/loss/total" in row] == [0, 2, 4, 6]


def test_six_real_clips_train_as_adapters(base: Path, tmp_path: Path, shared_data: Path) -> None:
    real = shared_data / "en-libri-3080-f"
    (tmp_path / "speech").mkdir()
    rows = (real / "metadata.csv").read_text(encoding="utf-8").splitlines()[:6]
    for row in rows:
        shutil.copy(real / row.split("|")[0], tmp_path / "speech")
    (tmp_path / "speech" / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    logged = train("f5_lora", tmp_path / "speech", base, tmp_path, "data.holdout=1", "data.batch_frames=2000")
    assert logged[-1]["step"] == 6
    facts = json.loads((tmp_path / "run" / "plan.json").read_text())["data"]
    assert (facts["num_clips"], facts["num_holdout"]) == (5, 1)


def test_one_clip_is_told_what_it_takes(base: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "speech", count=1)
    options = [*SMALL, *SHORT, f"run_dir={tmp_path}", "--data", data, "--base", base]
    refused = ttstrain("finetune", "f5_one_minute", *options, "data.holdout=1")
    assert refused.returncode == 3
    assert "`data.holdout=1` leaves no clip to train on (1 in all)" in refused.stderr
    assert "`eval.every=null`" in refused.stderr
    unmeasured = ttstrain("finetune", "f5_one_minute", *options, "data.holdout=0", "eval.every=auto")
    assert unmeasured.returncode == 2
    assert "`train.early_stop` is set, but no clip is held out" in unmeasured.stderr


def test_a_run_stops_when_it_gets_no_better_and_its_best_is_what_goes_on(base: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "speech", count=6)
    stop = "train.early_stop={patience: 2, min_delta: 0.3}"
    options = ["data.holdout=2", stop, "train.steps=200", "optim.lr=5e-3", "optim.schedule={kind: constant}"]
    rows = train("f5_one_minute", data, base, tmp_path, *options)
    losses = {int(row["step"]): row["eval/loss/total"] for row in rows if row["step"] and "eval/loss/total" in row}
    assert 6 <= max(losses) < 200
    best = min(losses, key=lambda step: losses[step])
    assert resolve_base(str(tmp_path / "run")).name == f"step-{best:08d}"
    first, second = sorted(losses)[-2:]
    assert min(losses[first], losses[second]) > min(losses.values()) - 0.3


def test_a_run_that_only_spoils_its_base_keeps_no_best(base: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "speech", count=6)
    worse = [
        "optim.kind=sgd",
        "optim.lr=0.5",
        "optim.weight_decay=10",
        "train.steps=60",
        "train.early_stop.patience=2",
        "guard.spike=null",
        "optim.max_grad_norm=null",
    ]
    rows = train("f5_one_minute", data, base, tmp_path, "data.holdout=2", *worse, "optim.schedule={kind: constant}")
    losses = {int(row["step"]): row["eval/loss/total"] for row in rows if "eval/loss/total" in row}
    assert max(losses) < 60
    assert min(losses, key=lambda step: losses[step]) == 0
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()
    said = "this run was never better than its base"
    assert said in load_model(str(tmp_path / "run"), []).lines[0]
    assert said in gather(tmp_path / "run", training=False).warnings[0]
    assert any(said in note for note in open_checkpoint(tmp_path / "run").notes)  # as a base, and looked at
    assert gather(base, training=False).warnings == ()
    exported = ttstrain("export", tmp_path / "run", "-o", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert said in exported.stderr


def test_frozen_modulation_is_not_trained_and_costs_nothing(base: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "speech", count=6)
    frozen = "extends=[hardware/cpu, tracking/offline, tuning/f5_freeze_adaln]"
    unheard = "checkpoint.best=eval/loss/total"  # no sample is generated, so the judge cannot choose
    train("f5_new_voice", data, base, tmp_path, frozen, unheard, "data.holdout=2")
    before, after = checkpoint(base, 4).state["task"], checkpoint(tmp_path / "run", 6)
    moved = {name for name, tensor in after.state["task"].items() if not tensor.equal(before[name])}
    assert moved
    assert not any("attn_norm" in name or "norm_out" in name for name in moved)
    assert not any("attn_norm" in name for name in after.state["optimizers"]["model"])
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    modulation = sum(t.numel() for name, t in before.items() if "attn_norm" in name or "norm_out" in name)
    assert plan["num_parameters"] - plan["num_trained"] == modulation
    assert plan["memory"]["gradients"] == 4 * plan["num_trained"]
    assert plan["memory"]["moments"] == 8 * plan["num_trained"]
