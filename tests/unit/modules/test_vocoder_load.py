"""Which vocoders are loaded and which are refused; that they speak alike is shown in tests/parity."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from vocoders import write_bigvgan, write_vocos

from ttstrain.errors import CheckpointError
from ttstrain.modules.vocoder.load import load_vocoder, published


@pytest.mark.parametrize(
    ("kind", "write", "name"), [("vocos", write_vocos, "Vocos"), ("bigvgan", write_bigvgan, "BigVGAN")]
)
def test_a_folder_and_the_file_in_it_are_the_same_vocoder(
    kind: Any, write: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / kind)
    file = next(path for path in folder.iterdir() if path.suffix in (".bin", ".pt"))
    mel = torch.randn(6, 100)
    first, second = (load_vocoder(str(path), mel=kind) for path in (folder, file))
    assert first.name == name and second.source == str(file)
    assert torch.equal(first.vocode(mel), second.vocode(mel))
    assert not first.net.training and not any(parameter.requires_grad for parameter in first.net.parameters())


@pytest.mark.parametrize("kind", ["vocos", "bigvgan"])
def test_one_frame_can_be_spoken(kind: Any, tmp_path: Path) -> None:
    folder = {"vocos": write_vocos, "bigvgan": write_bigvgan}[kind](tmp_path / "v")
    assert len(load_vocoder(str(folder), mel=kind).vocode(torch.zeros(1, 100))) == 256


def test_a_vocoder_of_the_other_mel_is_refused_by_name(tmp_path: Path) -> None:
    vocos, bigvgan = write_vocos(tmp_path / "v"), write_bigvgan(tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"is Vocos.*this model makes bigvgan mels") as caught:
        load_vocoder(str(vocos), mel="bigvgan")
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None and published("bigvgan")[1] in caught.value.hint
    with pytest.raises(CheckpointError, match=r"is BigVGAN.*this model makes vocos mels"):
        load_vocoder(str(bigvgan), mel="vocos")
    with pytest.raises(CheckpointError, match="`num_mels` is 100, but this model needs 80"):
        load_vocoder(str(bigvgan), mel="bigvgan", n_mels=80)


def test_filters_of_another_scale_are_found(tmp_path: Path) -> None:
    folder = write_vocos(tmp_path / "v")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["feature_extractor.mel_spec.mel_scale.fb"] *= 1.1
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="another mel"):
        load_vocoder(str(folder), mel="vocos")


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampling_rate": 22050}, "`sampling_rate` is 22050, but this model needs 24000"),
        ({"activation": "snake"}, "`activation` is 'snake'"),
        ({"fmax": 8000}, "`fmax` is 8000"),
        ({"upsample_rates": [4, 4, 2, 2, 2, 4]}, "multiplied"),
        ({"upsample_rates": None}, "not iterable"),
        ({"upsample_initial_channel": 128}, "does not fit the configuration"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    folder = write_bigvgan(tmp_path / "b")
    _change(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=why):
        load_vocoder(str(folder), mel="bigvgan")


@pytest.mark.parametrize(
    ("part", "key", "value", "why"),
    [
        ("head", "n_fft", 2048, "`head.n_fft` is 2048"),
        ("head", "padding", "same", "`padding` is 'same'"),
        ("backbone", "adanorm_num_embeddings", 4, "adanorm"),
        ("feature_extractor", "sample_rate", 44100, "`feature_extractor.sample_rate` is 44100"),
    ],
)
def test_a_vocos_of_another_build_is_refused(part: str, key: str, value: Any, why: str, tmp_path: Path) -> None:
    folder = write_vocos(tmp_path / "v")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config[part]["init_args"][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=why):
        load_vocoder(str(folder), mel="vocos")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_vocoder(str(tmp_path / "nothing"), mel="vocos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no `config\.yaml` \(Vocos\)"):
        load_vocoder(str(tmp_path / "empty"), mel="vocos")
    folder = write_vocos(tmp_path / "v")
    weights = folder / "pytorch_model.bin"
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="pytorch_model"):
        load_vocoder(str(folder), mel="vocos")
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_vocoder(str(folder), mel="vocos")
    (folder / "config.yaml").write_text("backbone: [")
    with pytest.raises(CheckpointError, match=r"config\.yaml:1: expected"):
        load_vocoder(str(folder), mel="vocos")
    with pytest.raises(CheckpointError, match="is not hf://owner/repo"):
        load_vocoder("hf://nonsense", mel="vocos")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch should_not_exist",))


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_vocos(tmp_path / "v")
    torch.save({"a": _Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="unsafe"):
        load_vocoder(str(folder), mel="vocos")
    assert not (tmp_path / "should_not_exist").exists()


@pytest.mark.parametrize("change", ["drop", "add"])
def test_every_tensor_must_have_its_counterpart(change: str, tmp_path: Path) -> None:
    folder = write_vocos(tmp_path / "v")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    if change == "drop":
        del state["backbone.norm.bias"]
    else:
        state["backbone.extra"] = torch.zeros(1)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"backbone\.(norm\.bias|extra)"):
        load_vocoder(str(folder), mel="vocos")
