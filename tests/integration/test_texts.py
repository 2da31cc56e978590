"""Texts through the real command line: coverage, vocabularies, pinned front ends, suspicious transcripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import finetune, ttstrain, write_clips, write_recipe

from ttstrain.checkpoint import store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.cli.prepare import prepare
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.runs.resume import resume

UNKNOWN = "Ğ"  # in no published vocab


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=9))
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return finetune(root / "r.yaml", root / "runs", "name=one", "train.steps=4", "eval.every=null")


@pytest.fixture(scope="module")
def foreign(root: Path) -> Path:
    """Write the same recordings with a symbol in every text that the vocab lacks."""
    folder = write_clips(root / "foreign", count=9)
    table = folder / "metadata.csv"
    rows = [line.split("|") for line in table.read_text(encoding="utf-8").splitlines()]
    table.write_text("\n".join(f"{name}|{text[:-1]}{UNKNOWN}" for name, text in rows), encoding="utf-8")
    return folder


# ---------------------------------------------------------------- coverage


def test_unknown_symbols_refuse_a_run_before_it_begins(root: Path, foreign: Path) -> None:
    done = ttstrain("finetune", root / "r.yaml", "--data", foreign, "--run-dir", root / "refused")
    assert done.returncode == 3
    assert UNKNOWN in done.stderr
    assert "--vocab-out" in done.stderr
    assert not (root / "refused").exists()


def test_a_plan_tells_unknown_symbols_that_it_accepts(root: Path, foreign: Path) -> None:
    done = ttstrain("plan", root / "r.yaml", "--data", foreign, "model.max_unknown=1")
    assert done.returncode == 0, done.stderr
    assert f"{UNKNOWN} 9" in done.stdout
    assert f"[{UNKNOWN}]" in done.stdout
    document = json.loads(ttstrain("plan", root / "r.yaml", "--data", foreign, "model.max_unknown=1", "--json").stdout)
    assert [entry["symbol"] for entry in document["data"]["texts"]["unknown"]] == [UNKNOWN]


def test_a_vocab_made_for_the_data_trains(root: Path, foreign: Path) -> None:
    made = root / "vocab.txt"
    flags = ("--recipe", root / "r.yaml", "--vocab-out", made, "--show-tokens", "2")
    done = ttstrain("prepare", foreign, *flags)
    assert done.returncode == 0, done.stderr
    assert "`finetune` refuses these texts" in done.stdout
    assert f"[{UNKNOWN}]" in done.stdout
    vocab, packaged = load_vocab(str(made)), load_vocab("package:emilia")
    assert vocab.tokens == (*packaged.tokens, UNKNOWN)
    assert vocab.notes == ()  # its last line ends
    assert made.read_bytes().endswith(f"{UNKNOWN}\n".encode())

    assert ttstrain("prepare", foreign, *flags).returncode == 2  # a vocab that may be in use is not overwritten
    plan = ttstrain("plan", root / "r.yaml", "--data", foreign, f"model.vocab={made}", "--json")
    texts = json.loads(plan.stdout)["data"]["texts"]
    assert (texts["unknown"], texts["vocab_size"]) == ([], len(packaged.tokens) + 1)


@pytest.mark.parametrize("flags", [{"num_shown": 1}, {"vocab_out": Path("no.txt")}, {"score": "some/run"}])
def test_what_needs_a_recipe_asks_for_one(root: Path, flags: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        prepare(root / "speech", **flags)
    assert "--recipe" in str(caught.value.hint)


def test_a_vocab_that_nothing_would_read_is_not_written(root: Path) -> None:
    with pytest.raises(RecipeError, match=r"that of `orpheus` is fixed"):
        prepare(root / "speech", recipe="smoke/orpheus", vocab_out=root / "unread.txt")
    assert not (root / "unread.txt").exists()


# ---------------------------------------------------------------- the front end is pinned


def test_checkpoint_and_run_say_what_read_the_texts(run: Path) -> None:
    expected = {"tokenizer": "characters", "vocab": f"sha256:{load_vocab('package:emilia').sha256}"}
    assert store.load(run / "checkpoints" / "step-00000004").meta.versions == expected
    assert json.loads((run / "env.json").read_text())["front_end"] == expected
    assert "text front end: tokenizer characters, vocab sha256:" in ttstrain("inspect-ckpt", run).stdout


def test_another_front_end_is_told_loudly(run: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = copied(run, root / "other_version", tokenizer="stone tablets")
    warning = "WARNING: the text front end has changed: tokenizer characters, trained with stone tablets"
    assert any(note.startswith(warning) for note in inspect(copy).notes)
    resume(copy, ["train.steps=5"])
    assert warning in " ".join(capsys.readouterr().err.split())


def test_another_vocab_is_not_resumed(run: Path, root: Path) -> None:
    copy = copied(run, root / "other_vocab", vocab="sha256:0123456789abcdef")
    with pytest.raises(CheckpointError, match="another vocabulary"):
        resume(copy, ["train.steps=5"])
    assert any("`the checkpoint` was trained with another vocabulary" in note for note in inspect(copy).notes)


def copied(run: Path, to: Path, **versions: str) -> Path:
    """Copy a run and pretend that its last checkpoint was trained with other versions."""
    shutil.copytree(run, to)
    path = to / "checkpoints" / "step-00000004" / "meta.json"
    meta = json.loads(path.read_text())
    meta["versions"] |= versions
    meta["digest"] = ""  # as in checkpoints from before `meta.json` was summed
    path.write_text(json.dumps(meta))
    return to


# ---------------------------------------------------------------- suspicious transcripts


def test_transcripts_are_ranked_by_a_run(run: Path, root: Path) -> None:
    out = root / "scored"
    flags = ("--recipe", root / "r.yaml", "--score", run, "-o", out)
    done = ttstrain("prepare", root / "speech", *flags)
    assert done.returncode == 0, done.stderr
    assert "9 clips by step 4 of one, EMA weights" in done.stdout
    assert "WARNING: 50 % is chance" in done.stdout  # four steps teach nobody to read
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert len({row["id"] for row in rows}) == 9
    listed = done.stdout.split("the most suspicious first\n")[1].splitlines()[:9]
    assert all(row["id"][:19] in line for row, line in zip(rows, listed, strict=True))
    assert max(map(len, listed)) <= 80

    again = json.loads(ttstrain("prepare", root / "speech", *flags, "--json").stdout)
    assert again["scores"]["clips"] == rows


def test_another_vocab_scores_nothing(run: Path, root: Path) -> None:
    copy = copied(run, root / "scorer", vocab="sha256:0123456789abcdef")
    with pytest.raises(CheckpointError, match="another vocabulary"):
        prepare(root / "speech", recipe=str(root / "r.yaml"), score=str(copy))
