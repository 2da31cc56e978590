"""The folder in which the guides' commands are run: small files under the names that the guides use."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow
import small_orpheus
import soundfile
import sovits_toys
import torch
from safetensors.torch import load_file
from small_runs import RECIPE, cut_off, finetune, write_clips, write_recipe

from ttstrain.export.choose import gather
from ttstrain.export.write import export
from ttstrain.plan.project import write_recipe as recipe_of_project

STOPPED_AT = 4  # steps of the runs, of 8
COUNT = 8  # clips: as many as a score needs
SPEECH = ("one_minute", "my_clips")
OTHER_SPEECH = "other_voices"  # other clips than those of the rest
RUNS = ("my_voice", "my-voice", "first", "second")
EXTRA_STEPS = (200, 300)  # checkpoints of a longer run, for the guide that averages them
WEB_SETTINGS = {"exp_name": "F5TTS_v1_Base", "learning_rate": 1e-5, "batch_size_per_gpu": 3200, "epochs": 10}


def lay_out(desk: Path) -> Path:
    """Write recordings, runs, exports and files of other trainers into a new folder."""
    clips = write_clips(desk / "my_recordings", count=COUNT)
    for name in SPEECH:
        shutil.copytree(clips, desk / name)
    _write_others(desk / OTHER_SPEECH)
    _write_shards(desk / "shards", clips)
    shutil.copy(next((clips / "wavs").glob("*.wav")), desk / "voice.wav")
    (desk / "lines.txt").write_text("Hello there.\n", encoding="utf-8")
    recipe = write_recipe(desk / "my_recordings.yaml", data=clips, text=RECIPE)
    run = finetune(recipe, desk / "runs", "name=my_run")
    _write_f5(desk, run, clips)
    _write_runs(run)
    _write_sovits(desk)
    small_orpheus.write_model(desk / "orpheus-3b")
    small_orpheus.write_codec(desk / "snac_24khz")
    return desk


def _write_others(folder: Path) -> None:
    """Write clips that are not among the first `COUNT`."""
    table = write_clips(folder, count=COUNT + 6) / "metadata.csv"
    table.write_text("\n".join(table.read_text(encoding="utf-8").splitlines()[COUNT:]), encoding="utf-8")


def _write_shards(folder: Path, clips: Path) -> None:
    """Write the clips as two tar shards."""
    folder.mkdir()
    lines = (clips / "metadata.csv").read_text(encoding="utf-8").splitlines()
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for line in lines[shard::2]:
                name, text, *_ = line.split("|")
                member = tarfile.TarInfo(f"{name}.txt")
                member.size = len(text.encode())
                tar.add(clips / "wavs" / f"{name}.wav", f"{name}.wav")
                tar.addfile(member, io.BytesIO(text.encode()))


def _write_runs(run: Path) -> None:
    """Leave the run as it was half-way, and copies of it under other names."""
    cut_off(run, after=STOPPED_AT)
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name[-8:]) < STOPPED_AT:
            shutil.rmtree(folder)
    (run / "checkpoints" / "best").write_text(f"step-{STOPPED_AT:08d}\n")
    for name in RUNS:
        shutil.copytree(run, run.with_name(name))
    checkpoints = run.with_name("my_voice") / "checkpoints"
    for step in EXTRA_STEPS:
        shutil.copytree(checkpoints / f"step-{STOPPED_AT:08d}", checkpoints / f"step-{step:08d}")


def _write_f5(desk: Path, run: Path, clips: Path) -> None:
    """Write the files of F5-TTS: published weights, a training file, a project of its web tool."""
    exported = export(gather(run), desk / "exported", formats=["inference", "training"]).folder
    weights = next(exported.glob("model_*.safetensors"))
    torch.save({"ema_model_state_dict": load_file(weights)}, desk / "model_1250000.pt")
    shutil.copy(exported / "training" / "model_last.pt", desk)
    shutil.copy(exported / "vocab.txt", desk / "my_vocab.txt")
    project, data = desk / "ckpts" / "my_voice", desk / "data" / "my_voice_pinyin"
    project.mkdir(parents=True)
    shutil.copy(desk / "model_last.pt", project)
    (project / "setting.json").write_text(json.dumps(WEB_SETTINGS), encoding="utf-8")
    shutil.copytree(clips / "wavs", data / "wavs")
    shutil.copy(exported / "vocab.txt", data)
    _write_arrow(data, [line.split("|") for line in (clips / "metadata.csv").read_text(encoding="utf-8").splitlines()])
    shutil.rmtree(exported)
    (desk / "my_voice.yaml").write_text(recipe_of_project(project) or "", encoding="utf-8")


def _write_arrow(data: Path, rows: list[list[str]]) -> None:
    """Write the table and the durations that F5-TTS's tools leave."""
    paths = [data / "wavs" / f"{name}.wav" for name, _text in rows]
    durations = [soundfile.info(path).duration for path in paths]
    columns = {"audio_path": [str(path) for path in paths], "text": [list(text) for _name, text in rows]}
    table = pyarrow.table({**columns, "duration": durations})
    with pyarrow.OSFile(str(data / "raw.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (data / "duration.json").write_text(json.dumps({"duration": durations}), encoding="utf-8")


def _write_sovits(desk: Path) -> None:
    """Write published files and exports of GPT-SoVITS, all of the version v2."""
    published, pro = desk / "pretrained_models", desk / "pretrained_models" / "v2Pro"
    exports = desk / "GPT_weights_v2Pro", desk / "SoVITS_weights_v2Pro"
    for folder in (pro, *exports):
        folder.mkdir(parents=True)
    sovits_toys.write_s1(published / "s1v3.ckpt")
    sovits_toys.write_s2g(pro / "s2Gv2Pro.pth")
    sovits_toys.write_s2d(pro / "s2Dv2Pro.pth")
    sovits_toys.write_s1(exports[0] / "my_voice-e15.ckpt", seed=1)
    sovits_toys.write_s2g(exports[1] / "my_voice_e8_s96.pth", seed=1)
