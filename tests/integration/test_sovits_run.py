"""A joint run of GPT-SoVITS through everything a run goes through, as its users give the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
from small_runs import checkpoint, cut_off, differences, finetune, metrics, ttstrain, write_clips

from ttstrain.recipe.shipped import shipped
from ttstrain.runs.resume import resume

STEPS = 4
SMOKE = shipped("recipes") / "smoke" / "gpt_sovits_joint.yaml"
SMALL = (
    "data.holdout=1",
    "data.batch_frames=400",
    "checkpoint.every=1",
    "checkpoint.keep_last=99",
    "tracking.wandb=off",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "speech")


@pytest.mark.slow
def test_a_joint_run_that_is_cut_and_resumed_equals_one_that_never_was(clips: Path, tmp_path: Path) -> None:
    options = (*SMALL, f"data.path={clips}", "sample.every=null", "eval.every=2")
    whole = finetune(SMOKE, tmp_path / "whole", *options, f"train.steps={STEPS}", "name=a")
    cut = cut_off(Path(shutil.copytree(whole, tmp_path / "cut")), after=2)
    logged = cut / "metrics.jsonl"
    logged.write_text("".join(row for row in logged.read_text().splitlines(True) if json.loads(row)["step"] <= 2))
    resumed = resume(cut, [])
    assert differences(checkpoint(resumed, STEPS).state, checkpoint(whole, STEPS).state) == []
    assert metrics(resumed) == metrics(whole)


def test_each_layer_of_the_joint_optimizer_steps_at_its_own_lr(clips: Path, tmp_path: Path) -> None:
    groups = "optim.groups=[{name: gpt, match: ['gpt.*'], lr: 5e-5}, {name: vae, match: ['vae.*'], lr: 1e-4}]"
    options = (*SMALL, groups, f"data.path={clips}", "sample.every=null", "eval.every=null", "train.steps=2")
    run = finetune(
        Path("smoke/gpt_sovits_joint"), tmp_path, *options, "optim.schedule={kind: constant, warmup_steps: 0}"
    )
    for row in (row for row in metrics(run) if "optim/lr/model/gpt" in row):
        assert row["optim/lr/model/gpt"] == 5e-5
        assert row["optim/lr/model/vae"] == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "text"), [("ljspeech-mini", "Hello there."), ("zh-fleurs", "你好。"), ("ja-commonvoice", "こんにちは。")]
)
def test_recordings_of_three_languages_become_files_for_the_web_tool(
    shared_data: Path, data: str, text: str, tmp_path: Path
) -> None:
    folder = shared_data / data
    options = (*SMALL, "data.batch_frames=800", f"run_dir={tmp_path}", "name=run", "sample.every=2", "eval.every=1")
    trained = ttstrain("finetune", "smoke/gpt_sovits_joint", "--data", folder, *options, "train.steps=2")
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "run"
    assert list((run / "samples" / "step-00000002").glob("*.wav"))

    further = ttstrain("resume", run, "train.steps=3")
    assert further.returncode == 0, further.stderr
    again = ttstrain("resume", run, "--reset-step", "train.steps=1")
    assert again.returncode == 0, again.stderr
    assert "kept weights, optimizer state" in " ".join(again.stderr.split())

    reference = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".wav", ".flac"))
    wav = tmp_path / "spoken.wav"
    spoken = ttstrain(
        "sample", run, "--text", text, "--ref-audio", reference, "--ref-text", text, "-o", wav, "model.sampling.max_s=2"
    )
    assert spoken.returncode == 0, spoken.stderr
    assert soundfile.info(wav).samplerate == 32_000

    exported = ttstrain("export", run, "-o", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    for path, kind in (("*.ckpt", "s1"), ("*.pth", "s2G")):
        (file,) = (tmp_path / "out").glob(path)
        seen = json.loads(ttstrain("inspect-ckpt", file, "--json").stdout)
        assert (seen["family"], seen["kind"], seen["unsafe"]) == ("gpt_sovits", "export", False)
        assert kind in seen["model"]
        assert seen["nonfinite"] == []
