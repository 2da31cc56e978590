"""`ttstrain sample`: runs, checkpoints and upstream files speak; what cannot be used is said."""

from __future__ import annotations

import json
import math
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_runs import finetune, ttstrain
from typer.testing import CliRunner, Result

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import read_meta
from ttstrain.cli.main import app
from ttstrain.infer.load import read_lines

FAST = "model.sampling.steps=1"


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("runs"), "train.steps=3", "eval.every=3", "name=small")


@pytest.fixture(scope="module")
def voice(recipe: Path) -> Path:
    return next((recipe.parent / "clips" / "wavs").iterdir())


def sample(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


def refused(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert "error: " in result.stderr
    return result.stderr


# ---------------------------------------------------------------- speaking


def test_a_run_speaks_after_a_held_out_clip_and_says_what_it_does(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    done = ttstrain("sample", run, "--text", "Hello there, all of you.", "-o", out, FAST)
    assert done.returncode == 0, done.stderr
    info = soundfile.info(out)
    assert info.samplerate == 24_000 and info.channels == 1
    assert done.stdout.startswith(f"{out}  {info.duration:.1f} s, 1 chunk, RTF ")
    assert done.stdout.endswith(", Griffin-Lim\n")
    held_out = [json.loads(line)["id"] for line in (run / "data" / "held_out.jsonl").read_text().splitlines()]
    told = done.stderr
    assert any(f"voice: held-out clip {name}, as no reference was given" in told for name in held_out)
    assert "vocoder: Griffin-Lim: rougher than Vocos" in told
    metrics = read_meta(run / "checkpoints" / "step-00000003").metrics
    better = "ema" if metrics["eval/ema_loss/total"] <= metrics["eval/loss/total"] else "online"
    assert told.startswith(f"{better} weights of small, step 3: the lower held-out loss: online ")


def test_weights_voice_seed_and_speed_decide_what_is_heard(run: Path, voice: Path, tmp_path: Path) -> None:
    def speak(name: str, *arguments: str) -> np.ndarray:
        out = tmp_path / f"{name}.wav"
        result = sample(run, "--text", "Hello there", "-o", out, FAST, *arguments)
        assert result.exit_code == 0, result.output
        wav: np.ndarray = soundfile.read(out)[0]
        return wav

    own = ("--ref-audio", str(voice), "--ref-text", "Some words that it says")
    first, again = speak("a", *own), speak("b", *own)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, speak("c", *own, "model.sampling.seed=1"))
    assert not np.array_equal(speak("d", *own, "--weights", "online"), speak("e", *own, "--weights", "ema"))
    assert len(speak("f", *own, "model.sampling.speed=0.5")) > 1.5 * len(first)
    assert not np.array_equal(first, speak("g"))


def test_an_upstream_file_speaks_once_it_is_told_which_net_it_is(run: Path, tmp_path: Path) -> None:
    checkpoint = next((run / "checkpoints").glob("step-*"))
    weights = store.load(checkpoint).state["task"]
    file = tmp_path / "model_last.pt"
    torch.save({"model_state_dict": weights, "ema_model_state_dict": {}}, file)
    out = tmp_path / "a.wav"
    message = refused(sample(file, "--text", "Hello there", "-o", out, FAST), 4)
    assert "does not say which model it is" in message and "model.text_mask_padding=..." in message
    settings = (f"{key}={value}" for key, value in (("text_mask_padding", "true"), ("pe_attn_head", "null")))
    flags = [f"model.{setting}" for setting in settings]
    told = sample(file, "--text", "Hello there", "-o", out, FAST, *flags, "model.tokenizer=char", "model.mel=vocos")
    assert told.exit_code == 0, told.output
    assert "the raw weights of model_last.pt" in told.stderr and "the model chooses one" in told.stderr
    assert soundfile.info(out).duration > 0.1


def test_a_file_of_texts_becomes_a_folder_of_sounds(run: Path, voice: Path, tmp_path: Path) -> None:
    plain, rows, table = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.tsv"
    plain.write_text("Hello there\n\nAnd goodbye\n")
    with_voice = {"text": "Hello there", "name": "greeting", "ref_audio": str(voice), "ref_text": "Some words"}
    rows.write_text("\n".join(map(json.dumps, [with_voice, {"text": "And goodbye"}])))
    table.write_text('name\ttext\nfirst\t"Quoted and not closed\nsecond\tAnd goodbye\n')
    names = {plain: ["0001", "0003"], rows: ["greeting", "0002"], table: ["first", "second"]}
    for texts, expected in names.items():
        out = tmp_path / texts.stem
        result = sample(run, "--texts", texts, "-o", out, FAST)
        assert result.exit_code == 0, result.output
        assert sorted(path.stem for path in out.iterdir()) == sorted(expected)
        assert len(result.stdout.splitlines()) == len(expected)


def test_one_text_that_fails_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(24_000), 24_000)
    rows = [{"text": "Hello", "ref_audio": "silent.wav", "ref_text": "Nothing"}, {"text": "Hello there", "name": "ok"}]
    texts = tmp_path / "t.jsonl"
    texts.write_text("\n".join(map(json.dumps, rows)))
    message = refused(sample(run, "--texts", texts, "-o", tmp_path / "out", FAST), 3)
    assert "0001: the reference is silent" in message and "1 of 2 texts" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ok.wav"]


def test_texts_are_read_as_those_of_the_training_are(run: Path, voice: Path, tmp_path: Path) -> None:
    own = ("--ref-audio", voice, "--ref-text", "Some words that it says")
    written = unicodedata.normalize("NFD", "<i>Héllo</i> &amp; goodbye \N{WAVING HAND SIGN}")
    result = sample(run, "--text", written, "-o", tmp_path / "a.wav", FAST, *own)
    assert result.exit_code == 0, result.output
    assert "WARNING: `&amp;` and the like became" in result.stderr
    assert "WARNING: `<i>` taken out of the text" in result.stderr
    assert "letters and accents composed" in result.stderr
    assert "read as spaces" not in result.stderr
    plain = sample(run, "--text", "Héllo & goodbye", "-o", tmp_path / "b.wav", FAST, *own)
    assert "warning" not in plain.stderr
    assert np.array_equal(soundfile.read(tmp_path / "a.wav")[0], soundfile.read(tmp_path / "b.wav")[0])
    assert "no letter or digit" in refused(sample(run, "--text", "...", "-o", tmp_path / "c.wav"), 3)


def test_a_reference_text_that_nobody_says_in_that_time_is_warned_about(run: Path, tmp_path: Path) -> None:
    hum = tmp_path / "hum.wav"
    soundfile.write(hum, [0.2 * math.sin(i / 10) for i in range(27_200)], 8000)
    for text, fits in (("Some words that it says", True), ("A", False), ("Far too many words for it. " * 20, False)):
        result = sample(run, "--text", "Hello", "-o", tmp_path / "a.wav", FAST, "--ref-audio", hum, "--ref-text", text)
        assert result.exit_code == 0, result.output
        assert ("does not match the recording" in result.stderr) is not fits


# ---------------------------------------------------------------- what cannot be used


def test_unknown_symbols_are_warned_about(run: Path, tmp_path: Path) -> None:
    result = sample(run, "--text", "Hello ฿ there", "-o", tmp_path / "a.wav", FAST)
    assert result.exit_code == 0
    assert "WARNING: not in the vocab and read as spaces: `฿`" in result.stderr


def test_references_that_cannot_be_used_are_refused(run: Path, tmp_path: Path) -> None:
    def speak(path: Path, text: str = "Some words") -> Result:
        return sample(run, "--text", "Hello", "-o", tmp_path / "a.wav", "--ref-audio", path, "--ref-text", text, FAST)

    silent, garbage, hum = tmp_path / "silent.wav", tmp_path / "garbage.wav", tmp_path / "hum.wav"
    soundfile.write(silent, np.zeros(24_000), 24_000)
    garbage.write_bytes(b"no sound at all")
    soundfile.write(hum, [0.2 * math.sin(i / 10) for i in range(14 * 8000)], 8000)
    assert "does not exist" in refused(speak(tmp_path / "missing.wav"), 3)
    assert "is text, not sound" in refused(speak(garbage), 3)
    assert "is silent" in refused(speak(silent), 3)
    assert "has no transcript" in refused(speak(hum, " "), 3)
    assert "lasts 14.0 s" in refused(speak(hum), 3)
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--text", " ", "-o", "a.wav"], 3, "the text is empty"),
        (["--text", "Hi", "-o", "missing/a.wav"], 2, "there is no folder `missing`"),
        (["--text", "Hi", "-o", "a.txt"], 2, "is not the name of a sound file"),
        (["--text", "Hi", "-o", "."], 2, "is a folder"),
        (["--texts", "none.txt", "-o", "out"], 3, "No such file"),
        (["--texts", "empty.txt", "-o", "out"], 3, "holds no text"),
        (["--texts", "bad.jsonl", "-o", "out"], 3, "bad.jsonl:2 cannot be read: it is not JSON"),
        (["--texts", "twice.jsonl", "-o", "out"], 3, "the name `a`"),
        (["--texts", "path.jsonl", "-o", "out"], 3, "is not a valid file name"),
        (["--texts", "field.jsonl", "-o", "out"], 3, "unknown field `txt`"),
        (["--texts", "head.tsv", "-o", "out"], 3, "no column `text`"),
        (["--texts", "long.tsv", "-o", "out"], 3, "long.tsv:3 has more cells than line 1 names columns"),
        (["--text", "Hi", "-o", "a.wav", "optim.lr=1"], 2, "`sample` does not use `optim.lr=1`"),
        (["--text", "Hi", "-o", "a.wav", "model.sampling.step=1"], 2, "sampling.steps"),
        (["--text", "Hi", "-o", "a.wav", "model.sampling.vocoder=none"], 4, "the vocoder `none` does not exist"),
        (["--text", "Hi", "-o", "a.wav", "train.device=gpu"], 2, "unknown device `gpu`"),
    ],
)
def test_mistakes_are_said_with_their_exit_code(
    arguments: list[str], code: int, why: str, *, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "empty.txt": "\n\n",
        "bad.jsonl": '{"text": "a"}\n{',
        "twice.jsonl": '{"text": "a", "name": "a"}\n{"text": "b", "name": "a"}',
        "path.jsonl": '{"text": "a", "name": "../a"}',
        "field.jsonl": '{"txt": "a"}',
        "head.tsv": "name\tsentence\na\tb\n",
        "long.tsv": "name\ttext\na\tb\nc\td\te\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert why in refused(sample(run, *arguments), code)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--text", "a", "--texts", "b"], ["--text", "a", "--ref-text", "b"]],
    ids=["no text", "both", "no recording"],
)
def test_options_that_make_no_sense_together_are_a_usage_error(arguments: list[str], run: Path, tmp_path: Path) -> None:
    assert sample(run, *arguments, "-o", tmp_path / "a.wav").exit_code == 2


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "does not exist" in refused(sample(tmp_path / "no", "--text", "Hi", "-o", tmp_path / "a.wav"), 4)


def test_many_texts_are_read_at_once(tmp_path: Path) -> None:
    texts = tmp_path / "many.txt"
    texts.write_text("".join(f"Text number {i}.\n" for i in range(16_000)))
    started = time.process_time()
    assert len(read_lines(texts)) == 16_000
    assert time.process_time() - started < 8  # it took time by the square: 10 s and more for the names alone
