"""An upstream project's folder stands for one of its checkpoints, and its settings become a recipe that can train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttstrain.checkpoint.upstream import follow, open_checkpoint, resolve_base
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow.project_files import choose, vocab_settings
from ttstrain.plan.project import with_project, write_recipe
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose, with_flags

RECIPE = "extends: [models/f5_v1_base]\ntask: flow\n"


@pytest.fixture
def layouts(fixtures_dir: Path) -> Path:
    return fixtures_dir / "f5_ckpt_layouts"


@pytest.fixture
def ckpts(layouts: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "ckpts" / "voice"
    folder.mkdir(parents=True)
    shutil.copy(layouts / "model_10.pt", folder / "model_10.pt")
    shutil.copy(layouts / "ema_only" / "model_10.safetensors", folder / "pretrained_model_1250000.safetensors")
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Prepared data as far as names go; 40 clips of 6 s."""
    folder = tmp_path / "data" / "voice_char"
    folder.mkdir(parents=True)
    (folder / "raw.arrow").touch()
    (folder / "duration.json").write_text(json.dumps({"duration": [6.0] * 40}))
    (folder / "vocab.txt").write_text(" \na\nb\n")
    return folder


def set_up(ckpts: Path, **changes: Any) -> Path:
    """Write `setting.json` with the web tool's own defaults, but for `changes`."""
    settings = {
        "exp_name": "F5TTS_v1_Base", "learning_rate": 1e-5, "batch_size_per_gpu": 3200, "batch_size_type": "frame",
        "max_samples": 64, "grad_accumulation_steps": 1, "max_grad_norm": 1.0, "epochs": 100,
        "num_warmup_updates": 100, "save_per_updates": 500, "keep_last_n_checkpoints": -1, "last_per_updates": 100,
        "finetune": True, "file_checkpoint_train": "", "tokenizer_type": "char", "tokenizer_file": "",
        "mixed_precision": "bf16", "logger": "none", "bnb_optimizer": False,
    }  # fmt: skip
    (ckpts / "setting.json").write_text(json.dumps(settings | changes))
    return ckpts


# ---------------------------------------------------------------- checkpoints


def test_training_goes_before_what_it_started_from(ckpts: Path) -> None:
    chosen = choose(ckpts)
    assert chosen is not None
    assert chosen.path == ckpts / "model_10.pt" == follow(ckpts) == resolve_base(str(ckpts))
    assert "pretrained_model_1250000.safetensors` is the pretrained file it started from" in chosen.why
    assert chosen.why in open_checkpoint(ckpts).notes
    (ckpts / "model_10.pt").unlink()
    assert follow(ckpts).name == "pretrained_model_1250000.safetensors"


def test_updates_decide_and_not_names(ckpts: Path, layouts: Path) -> None:
    """The counter in the file does; of two that are equally far `model_last.pt` is taken, as upstream would."""
    shutil.copy(layouts / "old_step_style" / "model_10.pt", ckpts / "model_99.pt")
    shutil.copy(layouts / "model_10.pt", ckpts / "model_last.pt")
    chosen = choose(ckpts)
    assert chosen is not None
    assert chosen.path.name == "model_last.pt"
    assert "`model_99.pt` has 10" in chosen.why
    told = open_checkpoint(ckpts / "model_10.pt").notes
    assert any("the folder's newest checkpoint is another file" in note for note in told)


def test_a_file_cut_short_is_passed_over_and_said(ckpts: Path) -> None:
    content = (ckpts / "model_10.pt").read_bytes()
    (ckpts / "model_last.pt").write_bytes(content[: len(content) // 2])
    chosen = choose(ckpts)
    assert chosen is not None
    assert chosen.path.name == "model_10.pt"
    assert "`model_last.pt` cannot be read" in chosen.why
    (ckpts / "model_10.pt").unlink()
    (ckpts / "pretrained_model_1250000.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        choose(ckpts)


def test_several_pretrained_files_are_the_users_choice(ckpts: Path) -> None:
    (ckpts / "model_10.pt").unlink()
    shutil.copy(ckpts / "pretrained_model_1250000.safetensors", ckpts / "pretrained_other.safetensors")
    with pytest.raises(CheckpointError, match="several pretrained"):
        follow(ckpts)


def test_other_folders_are_no_projects(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert choose(tmp_path) is None


# ---------------------------------------------------------------- data


def test_a_projects_vocab_is_used_unless_someone_says_otherwise(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    composed = with_project(with_flags(compose(str(tmp_path / "r.yaml")), data=prepared))
    recipe = parse(composed)
    assert recipe.section()["vocab"] == str(prepared / "vocab.txt")
    assert recipe.section()["tokenizer"] == "pinyin", (
        "upstream reads the texts of a char project like those of a pinyin one"
    )
    assert composed.origins["model.vocab"] == "project voice_char"
    mine = with_project(with_flags(compose(str(tmp_path / "r.yaml"), ["model.vocab=package:emilia"]), data=prepared))
    assert parse(mine).section()["vocab"] == "package:emilia"


def test_a_project_with_the_published_vocab_names_it(prepared: Path) -> None:
    from ttstrain.families import flow

    published = Path(flow.__file__).with_name("vocab_emilia.txt").read_bytes()
    (prepared / "vocab.txt").write_bytes(published.replace(b"\n", b"\r\n"))
    assert vocab_settings(prepared) == {"model.tokenizer": "pinyin"}


# ---------------------------------------------------------------- settings


def recipe_of(ckpts: Path) -> tuple[dict[str, Any], str]:
    text = write_recipe(ckpts)
    assert text is not None
    values = yaml.safe_load(text)
    (ckpts.parent / "made.yaml").write_text(text)
    parse(compose(str(ckpts.parent / "made.yaml")))
    return values, text


def test_sane_settings_are_kept(ckpts: Path, prepared: Path) -> None:
    values, _ = recipe_of(set_up(ckpts, learning_rate="2e-5", grad_accumulation_steps=2, keep_last_n_checkpoints=5))
    assert values["extends"] == ["models/f5_v1_base"]
    assert values["base"] == str(ckpts / "model_10.pt")
    assert values["data"] == {"path": str(prepared), "batch_frames": 3200, "max_clips": 64}
    assert values["model"] == {"vocab": str(prepared / "vocab.txt"), "tokenizer": "pinyin"}
    assert values["optim"]["lr"] == 2e-5
    assert values["optim"]["schedule"] == {"kind": "cosine", "end_factor": 0.1, "warmup_steps": 100}
    assert values["train"] == {"accumulate": 2, "epochs": 100, "precision": "bf16"}
    assert values["checkpoint"] == {"keep_last": 5}


def test_absurd_settings_are_replaced_and_explained(ckpts: Path, prepared: Path) -> None:
    """40 clips of 562.5 frames make 8 micro-batches; the command line's 20,000 warmup updates never end."""
    values, text = recipe_of(set_up(ckpts, learning_rate=1e-12, num_warmup_updates=20000, mixed_precision="fp16"))
    assert values["optim"]["lr"] == 1e-5
    assert "learning_rate was 1e-12, which would not train" in text
    assert values["optim"]["schedule"]["warmup_steps"] == "auto"
    assert "num_warmup_updates 20,000 of 800 would end at 4% of the peak" in text
    assert "upstream decays to 1e-13" in text
    assert values["train"]["precision"] == "auto"

    values, text = recipe_of(set_up(ckpts, epochs=66000, learning_rate=1.0, exp_name="E2TTS_Base"))
    assert values["train"]["steps"] == "auto"
    assert "epochs was 66,000, about 528,000 updates" in text
    assert "learning_rate was 1, which would ruin the base" in text
    assert values["extends"] == ["models/e2_base"]


def test_batches_are_counted_in_frames_and_hold_the_longest_clip(ckpts: Path, prepared: Path) -> None:
    values, text = recipe_of(set_up(ckpts, batch_size_type="sample", batch_size_per_gpu=4))
    assert values["data"]["batch_frames"] == 2250
    values, text = recipe_of(set_up(ckpts, batch_size_per_gpu=243))
    assert values["data"]["batch_frames"] == 564
    assert "upstream drops it silently" in text


def test_a_project_without_data_or_of_an_unknown_net_says_so(ckpts: Path) -> None:
    _, text = recipe_of(set_up(ckpts))
    assert "# Left out: no data at" in text
    with pytest.raises(RecipeError, match="is `Mine`, which is not a net of F5-TTS"):
        write_recipe(set_up(ckpts, exp_name="Mine"))
    (ckpts / "setting.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        write_recipe(ckpts)
    (ckpts / "setting.json").unlink()
    assert write_recipe(ckpts) is None
