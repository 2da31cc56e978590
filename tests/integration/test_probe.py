"""`inspect-ckpt --probe`: what a net was trained as is told by what it does to speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.torch import save_file
from small_runs import checkpoint, finetune, ttstrain, write_clips, write_recipe

from ttstrain.cli.inspect_ckpt import inspect_ckpt
from ttstrain.cli.probe import lines
from ttstrain.errors import CheckpointError, UserError
from ttstrain.judge.probe import Judged, compare, probe

FLAGS: dict[str, dict[str, Any]] = {
    "v1": {"text_mask_padding": True, "pe_attn_head": None},
    "v0": {"text_mask_padding": False, "pe_attn_head": 1},
}
STEPS = 180
FAST = (
    *(f"train.steps={STEPS}", "train.accumulate=1", "optim.lr=1e-2", "model.heads=2", "model.dim_head=16"),
    *("model.dropout=0", "ema.enabled=false", "eval.every=null", "checkpoint={every: 180, best: null}"),
)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "speech")


def train(version: str, root: Path, speech: Path) -> Path:
    flags = [f"model.{key}={json.dumps(value)}" for key, value in FLAGS[version].items()]
    return finetune(write_recipe(root / "r.yaml", data=speech), root, *FAST, *flags, f"name={version}")


@pytest.fixture(scope="module")
def v0(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("v0", tmp_path_factory.mktemp("v0"), speech)


@pytest.mark.slow
def test_the_flags_that_it_was_trained_with_win(v0: Path, speech: Path, tmp_path: Path) -> None:
    done = ttstrain("inspect-ckpt", v0, "--probe", speech, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["verdict"] == "v0, vocos"
    assert found["readings"][0]["settings"] == {**FLAGS["v0"], "mel": "vocos"}
    assert [reading["name"] for reading in found["readings"] if reading["stated"]] == ["v0, vocos"]
    assert found["margin"] > 0.01
    assert found["contradicted"] is False
    assert {reading["name"].partition(", ")[2] for reading in found["readings"][2:]} == {"bigvgan"}
    v1 = probe(str(train("v1", tmp_path, speech)), str(speech))
    assert (v1.verdict, v1.best.settings) == ("v1, vocos", {**FLAGS["v1"], "mel": "vocos"})


@pytest.mark.slow
def test_a_file_that_says_nothing_or_something_wrong_is_told_by_its_behaviour(
    v0: Path, speech: Path, tmp_path: Path
) -> None:
    save_file(checkpoint(v0, STEPS).state["task"], tmp_path / "model.safetensors")
    silent = probe(str(tmp_path), str(speech))
    assert (silent.verdict, silent.contradicted) == ("v0, vocos", False)
    assert not any(reading.stated for reading in silent.interpretations)
    arch = json.dumps(FLAGS["v1"])
    (tmp_path / "wrong.yaml").write_text(f"model: {{arch: {arch}, mel_spec: {{mel_spec_type: vocos}}}}\n")
    wrong = probe(str(tmp_path), str(speech))
    assert (wrong.verdict, wrong.contradicted) == ("v0, vocos", True)
    told = lines(wrong)
    assert "verdict: v0, vocos" in told
    assert any("Trust the measured loss" in line for line in told)
    assert max(map(len, told[1:])) <= 80


@pytest.mark.slow
def test_a_net_that_knows_nothing_has_no_verdict(speech: Path, tmp_path: Path) -> None:
    run = finetune(
        write_recipe(tmp_path / "r.yaml", data=speech), tmp_path, *FAST, "name=r", "train.steps=3", "optim.lr=1e-5"
    )
    found = probe(str(run), str(speech))
    assert not found.learned
    assert found.verdict is None


@pytest.mark.slow
def test_a_vocab_has_to_be_found_named_and_of_the_right_size(v0: Path, speech: Path, tmp_path: Path) -> None:
    tensors = checkpoint(v0, STEPS).state["task"]
    name = "transformer.text_embed.text_embed.weight"
    save_file({**tensors, name: tensors[name][:30].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the vocab of .* \(29 tokens\) is not beside it") as caught:
        probe(str(tmp_path), str(speech))
    assert "--vocab" in str(caught.value.hint)
    vocab = tmp_path / "mine" / "v.txt"
    vocab.parent.mkdir()
    vocab.write_text("".join(f"{token}\n" for token in " abcdefghijklmnopqrstuvwxyz.,"))
    assert len(probe(str(tmp_path), str(speech), vocab=str(vocab)).interpretations) == 4
    vocab.write_text(" \na\n")
    with pytest.raises(CheckpointError, match=r"2 tokens, but `.*` has embeddings for 29"):
        probe(str(tmp_path), str(speech), vocab=str(vocab))


def judged(name: str, *losses: float) -> Judged:
    clips = dict(zip("abcdef", losses, strict=False))
    return Judged(name, {}, stated=False, loss=sum(losses) / len(losses), clips=clips)


def test_a_lead_that_may_be_chance_is_no_verdict() -> None:
    steady = [judged("one", 1.0, 1.1, 1.2, 0.9), judged("two", 1.1, 1.2, 1.32, 1.0)]
    assert compare(steady, untrained=5.0, path="x", model="m").verdict == "one"
    uneven = [judged("one", 1.0, 1.1, 1.2, 0.9), judged("two", 1.6, 1.2, 1.32, 0.89)]
    assert compare(uneven, untrained=5.0, path="x", model="m").verdict is None
    assert compare(steady, untrained=1.5, path="x", model="m").verdict is None


def test_two_clips_at_least(v0: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few clips"):
        probe(str(v0), str(write_clips(tmp_path / "one", count=1)))


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for options in ({"vocab": tmp_path}, {"probe": "x", "tensors": "*"}, {"probe": "x", "other": tmp_path}):
        with pytest.raises(typer.BadParameter, match="--probe"):
            inspect_ckpt(tmp_path, **options)
