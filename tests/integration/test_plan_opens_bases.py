"""`plan` and `--dry-run` open a local base as a run would, and refuse what a run would refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_orpheus
import sovits_toys as toys
import torch
from safetensors.torch import load_file, save_file
from small_runs import write_clips, write_recipe
from typer.testing import CliRunner

from ttstrain.checkpoint.merging import check_base
from ttstrain.cli.main import app
from ttstrain.errors import CheckpointError, UserError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask
from ttstrain.families.flow.upstream import METADATA_KEY
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start

TABLE, NORM = "transformer.text_embed.text_embed.weight", "transformer.norm_out.linear.bias"
NET: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 32, "text_dim": 16, "conv_layers": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_recipe(folder / "r.yaml", data=write_clips(folder / "speech", count=6))
    save_file(FlowTask(FlowConfig(**NET)).state_dict(), folder / "whole.safetensors")
    return folder


def missing(root: Path) -> str:
    return str(root / "nothing.safetensors")


def damaged(root: Path) -> str:
    (root / "cut.safetensors").write_bytes((root / "whole.safetensors").read_bytes()[:-1000])
    return str(root / "cut.safetensors")


def foreign(root: Path) -> str:
    return str(toys.write_s1(root / "s1.ckpt"))


def another_size(root: Path) -> str:
    save_file(FlowTask(FlowConfig(**{**NET, "dim": 64})).state_dict(), root / "wide.safetensors")
    return str(root / "wide.safetensors")


def a_part(root: Path) -> str:
    tensors = load_file(root / "whole.safetensors")
    save_file({k: v for k, v in tensors.items() if "norm_out" not in k}, root / "part.safetensors")
    return str(root / "part.safetensors")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing, "does not exist"),
        (damaged, "cut short"),
        (foreign, "of family `gpt_sovits`, but the recipe trains `flow`"),
        (another_size, "dim: 64 in the file, 32 in the recipe"),
        (a_part, "2 missing in the file"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["finetune", "--dry-run"]], ids=["plan", "dry-run"])
def test_a_base_that_cannot_be_started_from_is_refused_by_the_plan(
    root: Path, make: Callable[[Path], str], said: str, command: list[str]
) -> None:
    done = CliRunner().invoke(app, [*command, str(root / "r.yaml"), "--base", make(root)])
    assert (done.exit_code, said in done.stderr) == (4, True), done.stderr


# ---------------------------------------------------------------- as the run says it


def changed(root: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object], **metadata: Any) -> str:
    tensors = load_file(root / "whole.safetensors")
    change(tensors)
    about = {METADATA_KEY: json.dumps(metadata)} if metadata else None
    save_file(tensors, root / name, metadata=about)
    return f"base={root / name}"


def one_more(root: Path) -> list[str]:
    return [changed(root, "more.safetensors", lambda held: held.update({f"{NORM}.more": torch.zeros(2)}))]


def fewer_rows(root: Path) -> list[str]:
    """Only a table of symbols may have another number of rows."""
    return [changed(root, "rows.safetensors", lambda held: held.update({NORM: held[NORM][:-8].clone()}))]


def nan_in_a_row(root: Path) -> list[str]:
    return [changed(root, "nan.safetensors", lambda held: held[TABLE][7].fill_(math.nan))]


def vocab_of_another_size(root: Path) -> list[str]:
    """Nothing beside the base says what its rows stand for, and no known vocab has as many."""
    few = changed(root, "few.safetensors", lambda held: held.update({TABLE: held[TABLE][:12].clone()}))
    return [few, f"model.vocab={three_tokens(root)}"]


def vocab_of_another_hash(root: Path) -> list[str]:
    """It has as many tokens as the recipe's, and its own metadata tell that they are others."""
    four = changed(
        root,
        "four.safetensors",
        lambda held: held.update({TABLE: held[TABLE][:4].clone()}),
        task="flow",
        model=NET,
        vocab={"sha256": "0" * 64},
    )
    return [four, f"model.vocab={three_tokens(root)}"]


def named_vocab_of_another_size(root: Path) -> list[str]:
    return [f"base={root / 'whole.safetensors'}", f"model.base_vocab={three_tokens(root)}"]


def no_new_row(root: Path) -> list[str]:
    return [f"base={root / 'whole.safetensors'}", "model.first_new_rows=1"]


def three_tokens(root: Path) -> Path:
    (root / "three.txt").write_text(" \na\nb\n", encoding="utf-8")
    return root / "three.txt"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (one_more, "1 unknown to the model"),
        (fewer_rows, "1 of another shape"),
        (nan_in_a_row, "holds NaN or infinity in 1 tensors"),
        (vocab_of_another_size, "has embeddings for 11 tokens, `model.vocab` has 3"),
        (vocab_of_another_hash, "was trained with another vocab"),
        (named_vocab_of_another_size, "has 3 tokens"),
        (no_new_row, "the base has an embedding for every token"),
    ],
)
def test_the_plan_refuses_in_the_words_of_the_run(root: Path, make: Callable[[Path], list[str]], said: str) -> None:
    settings = [*make(root), "model.max_unknown=1", "train.steps=4", "sample.every=null"]
    with pytest.raises(UserError) as planned:
        check_base(parse(compose(root / "r.yaml", settings)))
    with pytest.raises(UserError) as ran:
        start(compose(root / "r.yaml", [*settings, f"run_dir={root / 'runs'}"]))
    assert said in planned.value.message
    assert (planned.value.message, planned.value.hint) == (ran.value.message, ran.value.hint)
    assert planned.value.exit_code == ran.value.exit_code


def test_a_language_model_of_more_rows_than_the_recipe_is_refused(tmp_path: Path) -> None:
    recipe = small_orpheus.write_all(tmp_path)
    rows = parse(compose(recipe)).section()["vocab_size"]
    check_base(parse(compose(recipe, [f"model.vocab_size={rows + 1}"])))  # rows are added
    check_base(parse(compose(recipe, ["model.rows.tokenizer=hf://nobody/nothing"])))  # which is not asked for
    small_orpheus.write_model(tmp_path / "model", vocab_size=rows + 1)
    with pytest.raises(CheckpointError, match=rf"{rows + 1:,} token embeddings, `model.vocab_size` is {rows:,}"):
        check_base(parse(compose(recipe)))


def test_a_vae_whose_quantizer_did_not_make_the_tokens_is_refused(tmp_path: Path) -> None:
    generator, discriminator = toys.write_s2g(tmp_path / "G.pth"), toys.write_s2d(tmp_path / "D.pth")
    held = torch.load(generator, weights_only=False)
    held["weight"]["quantizer.vq.layers.0._codebook.embed"] += 1
    torch.save(held, generator)
    base = f"base=[{generator},{discriminator}]"
    recipe = toys.write_recipe(tmp_path / "r.yaml", "vae")
    with pytest.raises(CheckpointError, match="the same token would mean two different sounds"):
        check_base(parse(compose(recipe, [base])))
    with pytest.raises(CheckpointError, match="there is no file of the VAE"):
        check_base(parse(compose(recipe, [base, f"model.features.quantizer={tmp_path / 'nothing.pth'}"])))
    check_base(parse(compose(recipe, [base, "model.features.quantizer=hf://nobody/nothing/s2G.pth"])))  # not asked for


# ---------------------------------------------------------------- several files


def test_a_discriminator_of_another_version_than_a_run_that_is_the_base_is_refused(tmp_path: Path) -> None:
    """A run's own checkpoint fits no list of versions; the tensors of the pair tell."""
    recipe = toys.write_recipe(tmp_path / "r.yaml", "vae", version="v2")
    files = [toys.write_s2g(tmp_path / "G.pth"), toys.write_s2d(tmp_path / "D.pth")]
    run = start(compose(recipe, [f"base=[{','.join(map(str, files))}]", f"run_dir={tmp_path}", "train.steps=2"]))
    pro = toys.write_s2d(tmp_path / "pro.pth", version="v2Pro")
    with pytest.raises(CheckpointError) as planned:
        check_base(parse(compose(recipe, [f"base=[{run},{pro}]"])))
    with pytest.raises(CheckpointError) as ran:
        start(compose(recipe, [f"base=[{run},{pro}]", f"run_dir={tmp_path}"]))
    assert "unknown to the model" in planned.value.message
    assert planned.value.message == ran.value.message
    check_base(parse(compose(recipe, [f"base={run}"])))


@pytest.mark.parametrize("versions", [("v1", "v2"), ("v2", "v1"), ("v2", "v2ProPlus")])
def test_parts_of_two_versions_are_refused_by_the_plan(tmp_path: Path, versions: tuple[Any, Any]) -> None:
    recipe = toys.write_recipe(tmp_path / "r.yaml", "joint", version="v2")
    gpt = toys.write_s1(tmp_path / "s1.ckpt", version=versions[0])
    files = [gpt, toys.write_s2g(tmp_path / "G.pth", version=versions[1]), toys.write_s2d(tmp_path / "D.pth")]
    with pytest.raises(CheckpointError, match=r"version|v1|another"):
        check_base(parse(compose(recipe, [f"base=[{','.join(map(str, files))}]"])))


def test_whole_bases_pass(root: Path, tmp_path: Path) -> None:
    check_base(parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}"])))
    check_base(parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}", "lora={rank: 2}"])))
    (root / "own.txt").write_text(" \na\nb\n", encoding="utf-8")  # rows are carried over by token
    check_base(
        parse(compose(root / "r.yaml", [f"base={root / 'whole.safetensors'}", f"model.vocab={root / 'own.txt'}"]))
    )
    check_base(parse(compose(small_orpheus.write_all(tmp_path / "orpheus"))))
    files = [toys.write_s2g(tmp_path / "G.pth"), toys.write_s2d(tmp_path / "D.pth")]
    base = f"base=[{files[0]},{files[1]}]"
    check_base(parse(compose(toys.write_recipe(tmp_path / "vae.yaml", "vae"), [base])))
    s1 = toys.write_s1(tmp_path / "s1.ckpt")
    check_base(parse(compose(toys.write_recipe(tmp_path / "gpt.yaml", "gpt"), [f"base={s1}"])))
    check_base(
        parse(compose(toys.write_recipe(tmp_path / "joint.yaml", "joint"), [f"base=[{s1},{files[0]},{files[1]}]"]))
    )


def test_what_the_hub_holds_is_not_asked_for(root: Path) -> None:
    check_base(parse(compose(root / "r.yaml", ["base=hf://nobody/nothing/model.safetensors"])))
