"""`export --blend`: weights between a run's base and its fine-tune, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import RECIPE, checkpoint, finetune, ttstrain, write_clips, write_recipe
from torch import Tensor

from ttstrain.checkpoint import base_record
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.export.choose import gather
from ttstrain.export.write import export
from ttstrain.modules import lora

TABLE = "transformer.text_embed.text_embed.weight"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return write_recipe(
        folder / "r.yaml",
        data=write_clips(folder / "speech"),
        text=RECIPE.replace("warmup_steps: 2", "warmup_steps: 0"),
    )


@pytest.fixture(scope="module")
def base(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finetune(recipe, tmp_path_factory.mktemp("base"), "name=base", "train.steps=2", "optim.lr=1e-2")
    exported = export(gather(run, weights="online"), run.parent / "exported", formats=["half"])
    return exported.folder


@pytest.fixture(scope="module")
def run(recipe: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("run"), "name=tuned", "train.steps=4", f"base={base}")


def weights_in(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("model_*.safetensors")
    held = {key.removeprefix("ema_model."): tensor for key, tensor in load_file(file).items()}
    return {key: tensor for key, tensor in held.items() if key not in ("initted", "step")}


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert found.keys() == expected.keys()
    return [key for key, tensor in expected.items() if not torch.equal(found[key], tensor.to(found[key].dtype))]


@pytest.mark.parametrize("kind", ["online", "ema"])
def test_the_ends_are_the_base_and_the_chosen_weights(run: Path, base: Path, kind: str, tmp_path: Path) -> None:
    tuned = dict(gather(run, weights=kind).weights)  # type: ignore[arg-type]
    for share, expected in ((0.0, weights_in(base)), (1.0, tuned)):
        source = gather(run, weights=kind, blend=share)  # type: ignore[arg-type]
        assert differing(weights_in(export(source, tmp_path / f"{share:g}").folder), expected) == []
    assert differing(weights_in(base), tuned) != []


def test_a_blend_is_written_with_its_share(run: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ttstrain("export", run, "-o", out, "--weights", "ema", "--blend", "0.7", "--format", "half", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["blend"], document["weights"]) == (0.7, "ema, blend 0.7 with the base")
    assert document["reasons"][-1].startswith("base + 0.7 (ema - base)")
    assert document["checked"]["difference"] == 0
    assert "| weights | ema, blend 0.7 with the base: " in (out / "README.md").read_text()
    (file,) = out.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["ttstrain"])["blend"] == 0.7
    start, end = weights_in(base), gather(run, weights="ema").weights
    for key, found in weights_in(out).items():
        if found.is_floating_point():
            line = start[key].double() + 0.7 * (end[key].double() - start[key].double())
            torch.testing.assert_close(found.double(), line, rtol=1e-3, atol=1e-6)


def test_beyond_the_fine_tune_there_is_a_warning_and_a_limit(run: Path, tmp_path: Path) -> None:
    source = gather(run, weights="online", blend=1.2)
    assert source.warnings[-1] == "WARNING: blend 1.2 lies beyond the fine-tune (1): listen to it before you use it"
    done = ttstrain("export", run, "-o", tmp_path / "out", "--blend", "1.6")
    assert done.returncode == 2
    assert "`--blend 1.6` is not between 0 and 1.5" in done.stderr


def test_new_rows_of_the_vocabulary_are_the_fine_tunes(recipe: Path, base: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text((base / "vocab.txt").read_text() + "☃\n☂\n", encoding="utf-8")
    tuned = finetune(
        recipe, tmp_path, "name=more", "train.steps=2", f"base={base}", "model.tokenizer=custom",
        f"model.vocab={vocab}", f"model.base_vocab={base / 'vocab.txt'}",
    )  # fmt: skip
    source = gather(tuned, weights="online", blend=0.0)
    assert f"2 rows of `{TABLE}` are the fine-tune's: the base lacks them" in source.reasons
    own, start = gather(tuned, weights="online").weights[TABLE], weights_in(base)[TABLE].float()
    assert torch.equal(source.weights[TABLE][:-2], start)
    assert torch.equal(source.weights[TABLE][-2:], own[-2:])


@pytest.mark.parametrize("options", ["", ", unfrozen: ['*to_out*']", ", dora: true"])
def test_of_adapters_the_strength_is_set(recipe: Path, base: Path, tmp_path: Path, options: str) -> None:
    pytest.importorskip("peft")
    tuned = finetune(
        recipe, tmp_path, "name=adapted", f"base={base}", f"lora={{rank: 2, alpha: 4{options}}}", "train.steps=3",
        "optim.lr=1e-2",
    )  # fmt: skip
    if not options:  # the frozen weights are in the checkpoint
        (tuned / base_record.FILE_NAME).unlink()
        held = checkpoint(tuned, 3).state["task"]
        key = "transformer.transformer_blocks.0.attn.to_q"
        down, up = (
            next(t for n, t in held.items() if n.startswith(key) and part in n) for part in (lora.DOWN, lora.UP)
        )
        half = gather(tuned, weights="online", blend=0.5).weights[f"{key}.weight"]
        start = weights_in(base)[f"{key}.weight"].float()
        torch.testing.assert_close(half, start + 0.5 * 2.0 * (up @ down), rtol=0, atol=1e-6)
    at_start = dict(gather(tuned, weights="online", blend=0.0).weights)
    assert differing(at_start, weights_in(base)) == []
    with pytest.raises(RecipeError, match="which no blend has"):
        export(gather(tuned, weights="online", blend=0.5), tmp_path / "out", formats=["training"])


# ---------------------------------------------------------------- the base


def test_a_base_that_is_gone_or_another_is_refused(run: Path, base: Path, recipe: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(base, tmp_path / "moved"))
    try:
        with pytest.raises(CheckpointError, match="the base of `tuned` cannot be opened") as gone:
            gather(run, blend=0.5)
        assert gone.value.hint == "if it lies elsewhere now, give it with `--base FILE`"
        assert gather(run, blend=0.5, base=[str(moved)]).warnings == ()
        shutil.copytree(export(gather(run, weights="online"), tmp_path / "other").folder, base)
        with pytest.raises(CheckpointError, match="is not the base that `tuned` started from"):
            gather(run, blend=0.5)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.move(moved, base)
    assert gather(run, blend=1.0).blend == 1.0


def test_a_run_without_a_base_or_a_record(run: Path, recipe: Path, base: Path, tmp_path: Path) -> None:
    scratch = finetune(recipe, tmp_path, "name=scratch", "train.steps=1")
    assert not (scratch / base_record.FILE_NAME).exists()
    done = ttstrain("export", scratch, "-o", tmp_path / "out", "--blend", "0.5")
    assert done.returncode == 2
    assert "`scratch` was trained from scratch: it has no base to blend with" in done.stderr
    earlier = Path(shutil.copytree(run, tmp_path / "earlier"))
    (earlier / base_record.FILE_NAME).unlink()
    assert "no checksum of the base was recorded" in gather(earlier, blend=0.5).warnings[-1]
    with pytest.raises(RecipeError, match="`--base` names what to blend with"):
        gather(run, base=[str(base)])


# ---------------------------------------------------------------- the dial


def test_the_dial_measures_blends_of_a_run(run: Path, tmp_path: Path) -> None:
    others = write_clips(tmp_path / "others", count=12)
    file = tmp_path / "e.json"
    done = ttstrain("eval", run, "--blend", "0,0.5", "--retention", others, "--sentences", "4", "--json", file)
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith("export "))
    assert "8 clips of" in done.stderr  # those of the run itself are left out
    found = json.loads(file.read_text())
    assert [side["key"] for side in found["sides"]] == ["base", "blend-0.5", "blend-1"]
    dial = found["dial"]
    assert [one["blend"] for one in dial["blends"]] == [0.0, 0.5, 1.0]
    assert dial["clips"] == 4
    assert dial["blends"][0]["forgotten"]["mean"] == 0
    losses = [one["retention"]["mean"] for one in dial["blends"]]
    assert len(set(losses)) == 3
    assert dial["blends"][2]["forgotten"]["mean"] == pytest.approx(losses[2] - losses[0])


def test_the_dial_is_of_one_run(run: Path, base: Path) -> None:
    for arguments in ((run, run), (base,)):
        done = ttstrain("eval", *arguments, "--blend", "auto")
        assert done.returncode == 2
        assert "`--blend` compares the blends of one run" in done.stderr
    done = ttstrain("eval", run, "--retention", "package:demo")
    assert (done.returncode, "add `--blend auto`" in done.stderr) == (2, True)
