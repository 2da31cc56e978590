"""GPT-SoVITS' files as upstream wrote them: told apart, translated, and nothing in them executed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.merging import open_training
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.config import GptNetConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.shapes import discriminator_shapes, generator_shapes, gpt_shapes
from ttstrain.families.gpt_sovits.upstream import BUFFERS, plain
from ttstrain.families.gpt_sovits.versions import as_upstream_tells
from ttstrain.tensors.contents import read_contents
from ttstrain.tensors.tensorfile import StoredTensor, read_tree

VERSIONS = ["v2", "v2Pro"]


def folder(fixtures_dir: Path, name: str) -> Path:
    found = fixtures_dir / name
    if not found.is_dir():
        pytest.skip(f"the compact fixtures hold no {name}")
    return found


def listed(fixtures_dir: Path) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = json.loads((folder(fixtures_dir, "process_ckpt") / "files.json").read_text())
    return {name: entry for name, entry in files.items() if (fixtures_dir / "process_ckpt" / name).is_file()}


# ---------------------------------------------------------------- exports with marks


def test_marks_and_sizes_are_read_as_upstreams_loader_reads_them(fixtures_dir: Path) -> None:
    files = listed(fixtures_dir)
    assert len(files) >= 9
    for name, entry in files.items():
        path = fixtures_dir / "process_ckpt" / name
        told = as_upstream_tells(path, head=path.read_bytes()[:2])
        assert [told.version, told.adapters] == entry["version_fast"][1:], name


def test_every_export_is_told_by_what_is_in_it(fixtures_dir: Path) -> None:
    for name, entry in listed(fixtures_dir).items():
        found = inspect(fixtures_dir / "process_ckpt" / name)
        marked = entry["first_bytes"][:2] != "PK"
        version = entry["version_fast"][1] if marked else entry["config_version"]
        assert (found.family, found.version) == ("gpt_sovits", version), name
        assert found.kind == ("adapter" if entry["lora_rank"] is not None else "export"), name
        assert not found.unsafe
        if not marked:  # these are so small that upstream's rule for sizes goes wrong
            assert any("upstream's tools would load it as v1" in note for note in found.notes), name
        if version in ("v1", "v2", "v2Pro", "v2ProPlus"):
            assert any("no vae.enc_q.*, as usual" in note for note in found.notes), name


def test_tensors_of_every_export_are_upstreams(fixtures_dir: Path) -> None:
    for name, entry in listed(fixtures_dir).items():
        path = fixtures_dir / "process_ckpt" / name
        expected = load_file(fixtures_dir / "process_ckpt" / "expected.safetensors")
        weights = open_checkpoint(path).weights
        assert list(weights) == [f"vae.{key}" for key in entry["keys"]], name
        for key, stored in weights.items():
            assert torch.equal(stored.read(), expected[f"fp16.{key.removeprefix('vae.')}"]), (name, key)


def test_pickled_settings_come_out_as_plain_mappings(fixtures_dir: Path) -> None:
    path = folder(fixtures_dir, "process_ckpt") / "toy_v2Pro_e8_s96.pth"
    config = plain(read_contents(path).tree["config"])
    assert json.loads(json.dumps(config)) == config  # nothing else is left in it
    assert config["data"]["hop_length"] == 640
    assert config["model"]["resblock_dilation_sizes"] == [[1, 3, 5]] * 3
    assert config["version"] == "v2Pro"


@pytest.mark.parametrize("name", ["toy_v3_e2_s10_l32.pth", "toy_v4_e2_s10_l16.pth", "head_02.pth"])
def test_versions_that_are_not_trained_are_refused_by_name(fixtures_dir: Path, name: str) -> None:
    path = folder(fixtures_dir, "process_ckpt") / name
    with pytest.raises(CheckpointError, match=r"GPT-SoVITS v[34]; ttstrain cannot train its flow-matching VAE"):
        open_checkpoint(path, task="gpt_sovits/vae")


# ---------------------------------------------------------------- whole nets


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["s2G_pretrained", "G_233333333333"])
def test_whole_vaes_have_the_published_tensors(fixtures_dir: Path, version: Any, kind: str) -> None:
    opened = open_checkpoint(folder(fixtures_dir, "s2_file_layouts") / f"{version}_{kind}.pth")
    wide = {"gin_channels": 1024} if version == "v2Pro" else {}
    published = VaeNetConfig(freeze_quantizer=False, **wide)
    expected = generator_shapes(published, version)
    assert {key: stored.shape for key, stored in opened.weights.items() if key not in BUFFERS} == expected
    assert set(opened.weights) - set(expected) == BUFFERS
    assert (opened.version, opened.kind) == (version, "training" if kind.startswith("G") else "base")
    opened.check_model({"version": version, "vae": published.model_dump(), "gpt": None})


@pytest.mark.parametrize("version", VERSIONS)
def test_discriminators_have_the_published_tensors(fixtures_dir: Path, version: Any) -> None:
    opened = open_checkpoint(folder(fixtures_dir, "s2_file_layouts") / f"{version}_s2D_pretrained.pth")
    expected = discriminator_shapes(VaeNetConfig(), version)
    assert {key: stored.shape for key, stored in opened.weights.items()} == expected
    opened.check_model({"version": version, "vae": VaeNetConfig().model_dump()})


@pytest.mark.parametrize("version", VERSIONS)
def test_files_of_one_base_make_a_whole_model(fixtures_dir: Path, version: Any) -> None:
    place = folder(fixtures_dir, "s2_file_layouts")
    merged = merge([open_checkpoint(place / f"{version}_{part}_pretrained.pth") for part in ("s2G", "s2D")])
    wide = {"gin_channels": 1024} if version == "v2Pro" else {}
    config = VaeNetConfig(freeze_quantizer=False, **wide)
    expected = {**generator_shapes(config, version), **discriminator_shapes(config, version)}
    assert set(merged.weights) == set(expected) | BUFFERS
    assert merged.title == f"{version}_s2G_pretrained.pth + {version}_s2D_pretrained.pth"


def test_files_of_two_versions_make_no_base(fixtures_dir: Path) -> None:
    place = folder(fixtures_dir, "s2_file_layouts")
    parts = [open_checkpoint(place / f"{version}_s2G_pretrained.pth") for version in VERSIONS]
    with pytest.raises(CheckpointError, match=r"is of version v2Pro, but `.*v2_s2G_pretrained.pth` is of v2"):
        merge(parts)


def test_another_version_than_the_recipes_is_refused(fixtures_dir: Path) -> None:
    opened = open_checkpoint(folder(fixtures_dir, "s2_file_layouts") / "v2Pro_s2G_pretrained.pth")
    with pytest.raises(CheckpointError, match=r"(?s)version: 'v2Pro'.*vae\.gin_channels: 1024 in the file, 512"):
        opened.check_model({"version": "v2", "vae": VaeNetConfig().model_dump()})


@pytest.mark.parametrize(("place", "name", "kind"), [("s1_t2s", "toy-e15.ckpt", "export")])
def test_gpt_files_are_translated_name_by_name(fixtures_dir: Path, place: str, name: str, kind: str) -> None:
    where = folder(fixtures_dir, place)
    upstream = json.loads((where / "config.json").read_text())
    upstream = upstream.get("config", upstream)["model"]
    opened = open_checkpoint(where / name)
    config = GptNetConfig.model_validate({key: upstream[key] for key in GptNetConfig.model_fields if key in upstream})
    assert {key: stored.shape for key, stored in opened.weights.items()} == gpt_shapes(config)
    assert (opened.task, opened.kind) == ("gpt_sovits/gpt", kind)
    opened.check_model({"version": "v2", "gpt": config.model_dump(), "vae": None})
    with pytest.raises(CheckpointError, match=r"gpt\.head"):
        opened.check_model({"gpt": {**config.model_dump(), "head": 1}})


# ---------------------------------------------------------------- training files


@pytest.mark.parametrize("version", VERSIONS)
def test_moments_get_the_names_of_their_parameters(fixtures_dir: Path, version: Any) -> None:
    place = folder(fixtures_dir, "s2_file_layouts")
    opened = open_training(open_checkpoint(place / f"{version}_G_233333333333.pth"), task="gpt_sovits/vae")
    assert opened.beside == (place / f"{version}_D_233333333333.pth",)
    assert (opened.step, opened.kind) == (7, "training")
    assert opened.optimizer_state is not None
    without = [name for name, state in opened.optimizer_state.items() if not state]
    assert without == ["vae.ssl_proj.weight", "vae.ssl_proj.bias"]  # upstream's quantizer never gets a gradient
    assert set(opened.optimizer_state) == set(opened.weights) - BUFFERS
    for name in (
        "vae.enc_p.mrte.c_pre.weight",
        "vae.dec.conv_pre.weight",
        "discriminator.discriminators.0.convs.1.bias",
    ):
        state = read_tree(opened.optimizer_state[name])
        assert state["step"] == 7
        assert torch.equal(state["exp_avg"], torch.full(opened.weights[name].shape, 0.01))
        assert torch.equal(state["exp_avg_sq"], torch.full(opened.weights[name].shape, 0.02))


def test_groups_of_a_training_file_have_upstreams_sizes_and_rates(fixtures_dir: Path) -> None:
    path = folder(fixtures_dir, "s2_file_layouts") / "v2_G_233333333333.pth"
    found = inspect(path)
    sizes = {"base": 43_604_288, "text_embedding": 140_544, "encoder_text": 6_218_496, "mrte": 1_346_752}
    assert {group.name: group.parameters for group in found.groups} == sizes
    decayed = 0.999875**3
    assert [group.lr for group in found.groups] == pytest.approx([1e-4 * decayed, *[4e-5 * decayed] * 3], rel=1e-12)
    assert found.step == 7
    assert any("upstream's resume would apply the same decay again" in note for note in found.notes)
    assert any("the discriminator of this run is beside it" in note for note in found.notes)


def test_scaled_adams_state_is_taken_apart(fixtures_dir: Path) -> None:
    path = folder(fixtures_dir, "s1_lightning_ckpt") / "epoch=1-step=2.ckpt"
    opened = open_checkpoint(path, task="gpt_sovits/gpt")
    assert (opened.kind, opened.step) == ("training", 2)
    moments = read_tree(opened.optimizer_state)
    upstream = torch.load(path, weights_only=False)["optimizer_states"][0]["state"]  # upstream's own words
    names = list(opened.weights)
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        alike.setdefault(opened.weights[name].shape, []).append(name)
    for shape, members in alike.items():
        stack = upstream[names.index(members[0])]
        for place, name in enumerate(members):
            own = moments[name]
            assert own["step"] == stack["step"]
            assert torch.equal(own["exp_avg_sq"], stack["exp_avg_sq"][place])
            assert torch.equal(own["delta"], stack["delta"][place])
            if shape == (1,):
                assert "param_rms" not in own
                continue
            assert torch.equal(own["param_rms"], stack["param_rms"][place].reshape(()))
            assert torch.equal(own["scale_grads"], stack["scale_grads"][:, place].reshape(-1))
    assert moments[names[0]]["model_norms"].shape == (1000,)


def test_moments_that_do_not_fit_are_left_out_and_said(tmp_path: Path) -> None:
    weight = torch.zeros(3, 4, 7)
    keys = {"enc_p.ssl_proj.weight": torch.zeros(2, 3, 1), "dec.conv_pre.weight": weight}
    group = {"lr": 1e-4, "params": [0, 1]}
    state = {1: {"step": torch.tensor(4.0), "exp_avg": torch.zeros(5), "exp_avg_sq": torch.zeros(5)}}
    path = tmp_path / "G_1.pth"
    torch.save({"model": keys, "iteration": 1, "optimizer": {"state": state, "param_groups": [group]}}, path)
    opened = open_checkpoint(path)
    assert opened.optimizer_state is None
    assert any("optimizer state left out" in note for note in opened.notes)
    assert any("the discriminator of this run is not beside it" in note for note in opened.notes)


# ---------------------------------------------------------------- what cannot be used


def test_a_cut_file_with_a_mark_is_refused(fixtures_dir: Path, tmp_path: Path) -> None:
    data = (folder(fixtures_dir, "process_ckpt") / "toy_v2Pro_e8_s96.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        inspect(cut)


def test_a_vae_in_an_unsafe_pickle_is_shown_and_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (eval, ("1 + 1",))

    keys = {"enc_p.ssl_proj.weight": torch.zeros(2, 3, 1), "dec.conv_pre.weight": torch.zeros(3, 4, 7)}
    path = tmp_path / "s2G.pth"
    torch.save({"weight": keys, "config": Evil(), "info": ""}, path)
    assert inspect(path).unsafe
    with pytest.raises(CheckpointError, match="unsafe"):
        open_checkpoint(path)


def test_expanded_half_tensors_are_read_whole(fixtures_dir: Path) -> None:
    place = folder(fixtures_dir, "s2_file_layouts")
    constants = json.loads((place / "constants.json").read_text())["v2.G"]
    weights = open_checkpoint(place / "v2_s2G_pretrained.pth").weights
    stored = weights["vae.dec.ups.0.weight_v"]
    assert isinstance(stored, StoredTensor) and 0 in stored.strides
    read = stored.read()
    assert read.is_contiguous() and read.dtype == torch.float16
    assert torch.equal(read, torch.full((512, 256, 16), constants["dec.ups.0.weight_v"], dtype=torch.float16))


def test_key_specs_are_all_met(fixtures_dir: Path) -> None:
    path = fixtures_dir / "key_specs" / "s2G_v2.json.gz"
    if not path.is_file():
        pytest.skip("the compact fixtures hold no s2G_v2")
    with gzip.open(path, "rt") as file:
        spec = json.load(file)["tensors"]
    weights = open_checkpoint(folder(fixtures_dir, "s2_file_layouts") / "v2_s2G_pretrained.pth").weights
    assert {f"vae.{key}" for key in spec} == set(weights)
