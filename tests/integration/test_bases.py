"""What is given as a base and is none, and what a base does not tell of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import RECIPE, finetune, ttstrain, write_clips, write_recipe

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask

NET: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 32, "text_dim": 16, "conv_layers": 1}
SHORT = ("train.steps=2", "train.accumulate=1", "optim.schedule.warmup_steps=1", "eval.every=null", "name=r")
FLAGS = {"text_mask_padding": "true", "pe_attn_head": "null", "mel": "vocos"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file(FlowTask(FlowConfig(**NET)).state_dict(), path)
    return path


def vocos(path: Path) -> Path:
    save_file({"backbone.embed.weight": torch.zeros(8, 100, 7), "head.out.weight": torch.zeros(10, 8)}, path)
    return path


def bigvgan(path: Path) -> Path:
    torch.save({"generator": {"conv_pre.weight_v": torch.ones(1), "ups.0.0.weight_v": torch.ones(1)}}, path)
    return path


def without(whole: Path, path: Path, *, part: str) -> Path:
    save_file({name: tensor for name, tensor in load_file(whole).items() if part not in name}, path)
    return path


def text_encoder(whole: Path, path: Path) -> Path:
    save_file({name: tensor for name, tensor in load_file(whole).items() if "text_embed" in name}, path)
    return path


def another_size(path: Path) -> Path:
    save_file(FlowTask(FlowConfig(**{**NET, "dim": 64})).state_dict(), path)
    return path


def cut_short(whole: Path, path: Path) -> Path:
    path.write_bytes(whole.read_bytes()[:-1000])
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vocos", "is a Vocos vocoder"),
        ("bigvgan", "is a BigVGAN vocoder"),
        ("text encoder", "only part of an F5 net: it has the text encoder, but not the input embedding"),
        ("no text", "but not the text encoder"),
        ("another size", r"dim: 64 in the file, 32 in the recipe"),
        ("cut short", "cut short"),
        ("recording", "is a recording"),
    ],
)
def test_each_wrong_base_has_its_own_words(recipe: Path, whole: Path, tmp_path: Path, *, kind: str, said: str) -> None:
    path = tmp_path / "x.safetensors"
    made = {
        "vocos": lambda: vocos(path),
        "bigvgan": lambda: bigvgan(tmp_path / "x.pt"),
        "text encoder": lambda: text_encoder(whole, path),
        "no text": lambda: without(whole, path, part="text_embed"),
        "another size": lambda: another_size(path),
        "cut short": lambda: cut_short(whole, path),
        "recording": lambda: next((recipe.parent / "speech" / "wavs").glob("*.wav")),
    }[kind]()
    with pytest.raises(CheckpointError, match=said) as caught:
        finetune(recipe, tmp_path / "runs", *SHORT, f"base={made}")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "runs").exists()


def test_a_base_of_another_family_is_refused(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="of family `flow`, but the recipe trains `orpheus`") as caught:
        open_checkpoint(whole, task="orpheus")
    assert "ttstrain recipes" in str(caught.value.hint)


def test_the_command_line_says_it_and_leaves_with_four(recipe: Path, tmp_path: Path) -> None:
    done = ttstrain("finetune", recipe, "--base", vocos(tmp_path / "v.safetensors"), "--run-dir", tmp_path, *SHORT)
    assert done.returncode == 4
    assert done.stderr.startswith("error: `")
    assert "hint: set it as `model.sampling.vocoder`" in done.stderr


# ---------------------------------------------------------------- what it does not tell


def test_flags_that_nobody_stated_are_warned_of(
    recipe: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finetune(recipe, tmp_path, *SHORT, f"base={whole}")
    told = " ".join(capfd.readouterr().err.split())
    assert "WARNING: `model.safetensors` does not tell text_mask_padding, pe_attn_head, mel" in told
    assert "model.text_mask_padding=true, model.pe_attn_head=null" in told
    assert "(from default)" in told
    assert "--probe DATA" in told


def test_flags_that_the_recipe_states_are_only_noted(
    whole: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stated = ", ".join(f"{key}: {value}" for key, value in FLAGS.items())
    text = RECIPE.replace("sampling:", f"{stated}, sampling:")
    mine = write_recipe(tmp_path / "r.yaml", data=recipe.parent / "speech", text=text)
    finetune(mine, tmp_path, *SHORT, f"base={whole}")
    told = " ".join(capfd.readouterr().err.split())
    assert "WARNING" not in told
    assert 'model.mel="vocos", as you say' in told
