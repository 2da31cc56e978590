"""An exported GPT-SoVITS loads by upstream's own rules, which are written here once more, or it does not come to be."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sovits_toys as toys
import torch
from small_runs import finetune, ttstrain, write_clips
from torch import Tensor

from ttstrain import registry
from ttstrain.checkpoint.inspect import inspect
from ttstrain.contract.export import Source
from ttstrain.contract.task import Task
from ttstrain.errors import CheckpointError
from ttstrain.export.choose import gather
from ttstrain.export.write import Exported, export
from ttstrain.families.gpt_sovits.config import VaeNetConfig
from ttstrain.families.gpt_sovits.gpt.net import build_gpt
from ttstrain.families.gpt_sovits.shapes import generator_shapes
from ttstrain.families.gpt_sovits.vae.synthesizer import build_vae
from ttstrain.infer.load import load_model

# What upstream's process_ckpt and inference look at; kept apart from the package's own table.
HEADS = {b"00": "v1", b"01": "v2", b"02": "v3", b"03": "v3", b"04": "v4", b"05": "v2Pro", b"06": "v2ProPlus"}
FOLDERS = {"v1": "SoVITS_weights", "v2": "SoVITS_weights_v2", "v2Pro": "SoVITS_weights_v2Pro"}


def built(task: str, version: str) -> tuple[Task, Any]:
    spec = registry.find_task(f"gpt_sovits/{task}")
    config = spec.read_model(toys.model_section(task, version))
    return spec.build(config), config


def source(task: str, version: str = "v2", **changed: Any) -> Source:
    """Describe weights as a run would, with what an average of fp32 weights brings: values half precision rounds."""
    net, config = built(task, version)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.0003)
    exported = {key: tensor.clone() for key, tensor in net.exported().state_dict().items()}
    others = {key: tensor for key, tensor in net.state_dict().items() if key not in exported}
    given = {
        "checkpoint": Path("run/checkpoints/step-00000096"),
        "name": "ada",
        "task": f"gpt_sovits/{task}",
        "config": config,
        "step": 96,
        "weights": exported,
        "chosen": "online",
        "reasons": ("a test",),
        "others": others,
        "epoch": 8,
    }
    return Source(**{**given, **changed})


# ---------------------------------------------------------------- upstream's rules


def load_as_upstream(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Find the version and load a VAE's file as upstream's `load_sovits_new`: by its first two bytes, else its size."""
    data = path.read_bytes()
    if data[:2] == b"PK":
        kib = len(data) / 1024
        version = "v1" if kib < 82_978 else "v2" if kib < 700 * 1024 else "v3"
    else:
        version = HEADS[data[:2]]
    content = torch.load(io.BytesIO(b"PK" + data[2:]), map_location="cpu", weights_only=True)
    if version in ("v1", "v2"):  # the web tool looks again
        version = "v1" if content["weight"]["enc_p.text_embedding.weight"].shape[0] == 322 else "v2"
    return version, content


def attributes(config: Mapping[str, Any]) -> Any:
    """Wrap plain dicts as upstream does, so that `hps.data.filter_length` works."""

    class View(dict[str, Any]):
        def __init__(self, values: Mapping[str, Any]) -> None:
            super().__init__({key: View(own) if isinstance(own, dict) else own for key, own in values.items()})

        __getattr__ = dict.__getitem__

    return View(config)


@pytest.mark.parametrize("version", ["v1", "v2", "v2Pro"])
def test_an_exported_vae_is_what_upstream_loads(tmp_path: Path, version: Any) -> None:
    made = source("vae", version)
    written = export(made, tmp_path / "out")
    path = tmp_path / "out" / "ada_e8_s96.pth"
    assert path.is_file()
    found, content = load_as_upstream(path)
    assert found == version
    hps = attributes(content["config"])
    assert (hps.data.filter_length, hps.data.sampling_rate, hps.data.hop_length, hps.data.win_length) == (
        2048, 32_000, 640, 2048,
    )  # fmt: skip
    assert hps.data.n_speakers == 300
    assert hps.train.segment_size == 5120
    assert hps.model.semantic_frame_rate == "25hz"
    assert content["info"] == "8epoch_96iteration"
    assert {tensor.dtype for tensor in content["weight"].values()} == {torch.float16}
    config = VaeNetConfig.model_validate({key: hps.model[key] for key in VaeNetConfig.model_fields if key in hps.model})
    net = build_vae(config, found)
    lost = net.load_state_dict({key: half.float() for key, half in content["weight"].items()}, strict=False)
    assert lost.unexpected_keys == []
    assert lost.missing_keys and all(key.startswith("enc_q.") for key in lost.missing_keys)
    for key, half in content["weight"].items():
        assert torch.equal(half, made.weights[f"vae.{key}"].half()), key
    assert f"GPT-SoVITS/{FOLDERS[version]}/" in written.use[0]
    assert "bytes" not in str(written.notes)


def test_an_exported_gpt_is_what_upstream_loads(tmp_path: Path) -> None:
    made = source("gpt")
    export(made, tmp_path / "out")
    content = torch.load(tmp_path / "out" / "ada-e8.ckpt", map_location="cpu", weights_only=True)
    config = content["config"]
    assert (config["data"]["max_sec"], config["inference"]["top_k"], content["info"]) == (54, 15, "GPT-e8")
    sizes = toys.gpt_config().model_dump()
    assert {key: config["model"][key] for key in ("head", "n_layer", "phoneme_vocab_size", "EOS")} == {
        "head": sizes["head"], "n_layer": sizes["n_layer"], "phoneme_vocab_size": 732, "EOS": 1024,
    }  # fmt: skip
    net = build_gpt(toys.gpt_config())
    halves: dict[str, Tensor] = {key.removeprefix("model."): half for key, half in content["weight"].items()}
    assert all(key.startswith("model.") for key in content["weight"])
    net.load_state_dict({key: half.float() for key, half in halves.items()}, strict=True)
    assert all(torch.equal(half, made.weights[f"gpt.{key}"].half()) for key, half in halves.items())


def test_a_base_for_further_training_has_what_upstreams_trainer_reads(tmp_path: Path) -> None:
    made = source("vae")
    export(made, tmp_path / "out", formats=["pretrained"])
    place = tmp_path / "out" / "pretrained"
    generator = torch.load(place / "s2G-ada.pth", weights_only=True)["weight"]
    critic = torch.load(place / "s2D-ada.pth", weights_only=True)["weight"]
    expected = {f"vae.{key}" for key in generator} | {f"discriminator.{key}" for key in critic}
    assert expected == {*made.weights, *made.others}
    shapes = generator_shapes(toys.vae_config(freeze_quantizer=False), "v2")
    assert {key for key in shapes if key.startswith("vae.enc_q.")} <= expected


def test_an_exported_pair_is_spoken_with(tmp_path: Path) -> None:
    made = {task: source(task) for task in ("gpt", "vae")}
    for task, one in made.items():
        export(one, tmp_path / task)
    features = [f"model.features.{key}={value}" for key, value in toys.FEATURES.items()]
    gpt = tmp_path / "gpt" / "ada-e8.ckpt"
    speaker = load_model(str(tmp_path / "vae" / "ada_e8_s96.pth"), [f"model.gpt={gpt}", "train.device=cpu", *features])
    loaded = speaker.task.exported().state_dict()
    for key, tensor in loaded.items():
        if not key.startswith("vae.enc_q."):
            assert torch.equal(tensor, made["vae"].weights[key].half().to(tensor.dtype)), key
    assert "ada-e8.ckpt" in speaker.vocoder


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("broken", [float("nan"), 1e6])
def test_weights_that_half_precision_breaks_are_not_published(tmp_path: Path, broken: float) -> None:
    made = source("gpt")
    made.weights["gpt.h.layers.0.linear1.bias"][0] = broken
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        export(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_compute_no_finite_sound_are_not_published(tmp_path: Path) -> None:
    made = source("vae")
    for key in ("vae.flow.flows.0.post.bias", "vae.dec.cond.bias", "vae.enc_p.proj.bias"):
        made.weights[key].fill_(6e4)  # each survives half precision alone
    with pytest.raises(CheckpointError, match="not finite"):
        export(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- through the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    train = {"steps": 2, "device": "cpu", "precision": "fp32"}
    recipe = toys.write_recipe(root / "r.yaml", "gpt", data=write_clips(root / "speech"), train=train)
    return finetune(recipe, root, "name=ada", f"base={toys.write_s1(root / 's1.ckpt')}")


def test_a_run_is_exported_from_the_command_line(run: Path, tmp_path: Path) -> None:
    done = ttstrain("export", run, "-o", tmp_path / "out", "--weights", "online", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["files"] == ["README.md", "ada-e1.ckpt"]
    assert document["checked"]["difference"] <= 1e-5
    content = torch.load(tmp_path / "out" / "ada-e1.ckpt", weights_only=True)
    expected = gather(run, weights="online").weights
    assert {f"gpt.{key.removeprefix('model.')}" for key in content["weight"]} == set(expected)
    found = inspect(tmp_path / "out" / "ada-e1.ckpt")
    assert (found.family, found.kind) == ("gpt_sovits", "export")


def test_readme_says_where_the_files_go(tmp_path: Path) -> None:
    written: Exported = export(source("vae"), tmp_path / "out")
    text = (written.folder / "README.md").read_text()
    assert "cp ada_e8_s96.pth GPT-SoVITS/SoVITS_weights_v2/" in text
    assert "--base s2G.pth --base s2D.pth --base ada_e8_s96.pth" in text


def test_a_joint_run_gives_both_nets(tmp_path: Path) -> None:
    made = source("joint")
    written = export(made, tmp_path / "out")
    assert written.files == ("README.md", "ada-e8.ckpt", "ada_e8_s96.pth")
    assert written.num_tensors == sum("enc_q" not in key for key in made.weights)
    assert [line.split("GPT-SoVITS/")[1] for line in written.use] == ["GPT_weights_v2/", "SoVITS_weights_v2/"]
