"""From a text and a reference to sound, with small nets in files of upstream's layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import sovits_toys
from ttstrain.contract.task import Audio, Prompt
from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SAMPLE_RATE, GptConfig
from ttstrain.families.gpt_sovits.features.tokens import CODEBOOK, load_quantizer
from ttstrain.families.gpt_sovits.gpt.task import GptTask
from ttstrain.families.gpt_sovits.speech import PAUSE_S, PROMPT_SILENCE_S, Speech, load_gpt, load_vae

TOKEN = 2 * HOP_LENGTH  # samples of a token
MAX_S = 1.0


def config(tmp_path: Path, version: Any = "v2", **sampling: Any) -> GptConfig:
    vae = sovits_toys.write_s2g(tmp_path / "s2G.pth", version=version)
    settings = {"max_s": MAX_S, **sampling}
    return GptConfig.model_validate(sovits_toys.model_section("gpt", version, vae=str(vae), sampling=settings))


def make_task(config: GptConfig) -> GptTask:
    torch.manual_seed(0)
    return GptTask(config).eval()


def reference(seconds: float = 3.5, rate: int = SAMPLE_RATE) -> Audio:
    t = torch.arange(round(seconds * rate)) / rate
    return Audio((t * 2 * torch.pi * (150 + 40 * (2 * torch.pi * t).sin())).sin() * 0.3, rate)


PROMPT = Prompt("Hello there.", reference=reference(), reference_text="This is the reference.", language="en")


@pytest.mark.parametrize("version", ["v2", "v2Pro"])
def test_a_text_becomes_sound_and_a_seed_repeats_it(tmp_path: Path, version: str) -> None:
    task = make_task(config(tmp_path, version))
    sound = task.prepare_sampling()
    first, again, other = (task.sample(replace(PROMPT, seed=seed)) for seed in (1, 1, 2))
    assert first.audio.sample_rate == SAMPLE_RATE
    assert first.audio.wav.dtype == torch.float32
    assert len(first.audio.wav) % TOKEN == 0
    assert 0 < float(first.audio.wav.abs().max()) <= 1
    assert torch.equal(first.audio.wav, again.audio.wav)
    assert first.audio.wav.shape != other.audio.wav.shape or not torch.equal(first.audio.wav, other.audio.wav)
    assert first.vocoder == sound
    assert first.mel is not None
    assert first.mel.shape == (len(first.audio.wav) // HOP_LENGTH, 128)


def test_a_long_text_is_spoken_in_pieces_with_pauses_between(tmp_path: Path) -> None:
    settings = config(tmp_path)
    spoken = make_task(settings).sample(replace(PROMPT, text="One line.\nAnother one.\nAnd a third."))
    assert spoken.num_chunks == 3
    pauses = 2 * round(PAUSE_S * SAMPLE_RATE)
    assert (len(spoken.audio.wav) - pauses) % TOKEN == 0
    ends = [note for note in spoken.notes if "did not end" in note]
    longest = round(MAX_S * 25) * TOKEN
    assert len(spoken.audio.wav) <= 3 * longest + pauses
    assert len(ends) <= 3


def test_the_prompt_holds_the_tokens_of_reference_and_silence(tmp_path: Path) -> None:
    speech = Speech(config(tmp_path))
    assert PROMPT.reference is not None
    voice = speech._voice(PROMPT.reference, PROMPT.reference_text, "en")
    assert len(voice.codes) == round((3.5 + PROMPT_SILENCE_S) * 25 + 0.49)
    assert voice.spec.shape == (1, 1025, round(3.5 * 50))
    assert voice.read is not None
    assert not voice.notes
    assert speech._voice(PROMPT.reference, PROMPT.reference_text, "en") is voice  # heard once
    with_rate = speech._voice(reference(rate=16_000), "Else.", "en")
    assert with_rate.spec.shape[2] == 175


def test_what_a_listener_should_know_is_noted(tmp_path: Path) -> None:
    task = make_task(config(tmp_path))
    short = replace(PROMPT, reference=reference(1.0), reference_text="", duration_s=2.0)
    notes = " | ".join(task.sample(short).notes)
    assert "3 to 10 s" in notes
    assert "without a prompt for the GPT" in notes
    assert "duration" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "  "}, "the text is empty"),
        ({"text": "..."}, "nothing to pronounce"),
        ({"reference": None}, "needs a reference recording"),
        ({"reference": Audio(torch.zeros(SAMPLE_RATE), SAMPLE_RATE)}, "silent"),
        ({"reference": reference(0.05)}, "too short"),
    ],
)
def test_what_cannot_be_spoken_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_task(config(tmp_path)).sample(replace(PROMPT, **changes))


def test_chinese_reads_bert_and_others_read_zeros_beside_it(tmp_path: Path) -> None:
    speech = Speech(config(tmp_path))
    assert speech._read("Hello.", "en").bert is None
    read = speech._read("你好。", "zh")
    assert read.bert is not None
    assert read.bert.shape == (len(read.phones), 1024)


def test_languages_are_told_by_the_prompt_then_the_recipe_then_the_script(tmp_path: Path) -> None:
    speech = Speech(config(tmp_path))
    assert speech._language("Hello", "") == "en"
    assert speech._language("你好", "") == "zh"
    assert speech._language("你好", "yue") == "yue"
    assert speech._language_of_reference(Prompt("你好", reference_text="早晨"), "yue") == "yue"
    assert speech._language_of_reference(Prompt("你好", reference_text="Good morning"), "yue") == "en"


def test_nets_of_upstreams_files_are_loaded_whole(tmp_path: Path) -> None:
    gpt = load_gpt(str(sovits_toys.write_s1(tmp_path / "s1.ckpt", half=False)))
    for name, tensor in sovits_toys.small_gpt().state_dict().items():
        assert torch.equal(gpt.state_dict()[name], tensor), name
    settings = config(tmp_path)
    assert settings.vae is not None
    vae = load_vae(settings.vae, settings)
    assert torch.equal(vae.state_dict()[CODEBOOK], load_quantizer(settings.vae).codebook)


def test_a_file_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    s1 = str(sovits_toys.write_s1(tmp_path / "s1.ckpt"))
    with pytest.raises(CheckpointError, match="has no VAE"):
        load_vae(s1, settings)
    assert settings.vae is not None
    with pytest.raises(CheckpointError, match="has no GPT"):
        load_gpt(settings.vae)
    with pytest.raises(CheckpointError, match="v2Pro"):
        load_vae(settings.vae, settings.model_copy(update={"version": "v2Pro"}))
