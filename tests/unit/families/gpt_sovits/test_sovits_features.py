"""What the nets read of recordings and texts: loudness, HuBERT, BERT, tokens, speakers."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import sovits_toys
import torch
from torch import Tensor

from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.features import toy
from ttstrain.families.gpt_sovits.features.bert import load_bert
from ttstrain.families.gpt_sovits.features.eres2net import SpeakerNet, net_like
from ttstrain.families.gpt_sovits.features.hubert import load_hubert
from ttstrain.families.gpt_sovits.features.sound import hubert_wav, mix_gain, training_wav
from ttstrain.families.gpt_sovits.features.speaker import fbank, load_speaker
from ttstrain.families.gpt_sovits.features.tokens import CODEBOOK, from_weights, load_quantizer, padded

CPU = torch.device("cpu")


def tone(peak: float, *, seconds: float = 0.5, hertz: float = 440.0) -> Tensor:
    return peak * torch.sin(2 * math.pi * hertz * torch.arange(int(32_000 * seconds)) / 32_000)


# ---------------------------------------------------------------- loudness


@pytest.mark.parametrize("peak", [0.05, 0.4, 1.0])
def test_recordings_are_as_loud_as_upstream_makes_them(peak: float) -> None:
    """x / peak * (0.95 * 0.5 * 32768) + 0.5 * 32768 * x, cut off towards zero (2-get-hubert-wav32k.py)."""
    wav = tone(peak).numpy()
    wanted = ((wav / np.abs(wav).max() * (0.95 * 0.5 * 32_768)) + 0.5 * 32_768 * wav).astype("int16")
    made = training_wav(torch.from_numpy(wav), mix_gain(torch.from_numpy(wav))).numpy()
    assert np.abs(made.astype(int) - wanted.astype(int)).max() <= 1


def test_a_loud_recording_does_not_wrap_round() -> None:
    """Upstream stores a peak of 1.2 as -30311: a click."""
    wav = tone(1.2)
    made = training_wav(wav, mix_gain(wav)).float()
    assert made.max() == 32_767
    likeness = torch.nn.functional.cosine_similarity(made, wav, dim=0)
    assert likeness > 0.99999


def test_silence_has_no_loudness() -> None:
    with pytest.raises(DataError, match="silent"):
        mix_gain(torch.zeros(100))


def test_hubert_hears_what_upstream_lets_it_hear() -> None:
    """librosa.resample is soxr's HQ, with the length rounded up; the scale is 1145.14 instead of 32768."""
    soxr = pytest.importorskip("soxr")
    wav = torch.cat([tone(0.3), tone(0.3)[:1]])  # an odd number of samples
    heard = hubert_wav(wav, mix_gain(wav))
    x = wav.numpy()
    mixed = (x / np.abs(x).max() * (0.95 * 0.5 * 1145.14)) + 0.5 * 1145.14 * x
    wanted = soxr.resample(mixed, 32_000, 16_000, quality="soxr_hq")
    assert len(heard) == 8001
    np.testing.assert_allclose(heard.numpy()[: len(wanted)], wanted[: len(heard)], atol=2e-3)


# ---------------------------------------------------------------- HuBERT and BERT


def test_hubert_in_a_folder_says_what_its_class_says(tmp_path: Path) -> None:
    hubert = load_hubert(str(sovits_toys.write_hubert(tmp_path)), CPU)
    wav = tone(300.0)[::2].contiguous()
    with torch.no_grad():
        wanted = toy.toy_hubert()(wav[None]).last_hidden_state[0]
    assert torch.equal(hubert.encode(wav), wanted)


def test_the_published_layouts_are_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pickled, with older names: HuBERT in fp16 with `weight_g`, BERT with its head and with `gamma`."""
    from safetensors.torch import load_file

    folder = sovits_toys.write_hubert(tmp_path / "hubert")
    named = load_file(folder / "model.safetensors")
    newer, older = "parametrizations.weight.original", ("weight_g", "weight_v")
    published = {
        key.replace(f"{newer}0", older[0]).replace(f"{newer}1", older[1]): value.half() for key, value in named.items()
    }
    assert any(key.endswith("weight_g") for key in published)
    torch.save(published, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    wav = tone(300.0)[::2].contiguous()
    read, wanted = load_hubert(str(folder), CPU).encode(wav), load_hubert(toy.TOY, CPU).encode(wav)
    torch.testing.assert_close(read, wanted, rtol=0, atol=0.05)

    folder = sovits_toys.write_bert(tmp_path / "bert")
    named = load_file(folder / "model.safetensors")
    published = {
        f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in named.items()
    }
    torch.save({**published, "cls.predictions.bias": torch.zeros(3)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    capfd.readouterr()
    bert = load_bert(str(folder), CPU)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(bert.encode("我在说", [1, 2, 1]), load_bert(toy.TOY, CPU).encode("我在说", [1, 2, 1]))


def test_hubert_stays_in_fp32_under_autocast() -> None:
    hubert = load_hubert(toy.TOY, CPU)
    wav = tone(300.0)[::2].contiguous()
    alone = hubert.encode(wav)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hubert.encode(wav), alone)


def test_what_is_not_finite_is_named() -> None:
    hubert = load_hubert(toy.TOY, CPU)
    with pytest.raises(DataError, match="not finite"):
        hubert.encode(torch.full((16_000,), torch.nan))


def test_an_incomplete_hubert_is_refused(tmp_path: Path) -> None:
    """transformers would draw the missing tensors at random and only log it."""
    from safetensors.torch import load_file, save_file

    folder = sovits_toys.write_hubert(tmp_path)
    weights = load_file(folder / "model.safetensors")
    dropped = next(key for key in weights if key.endswith("q_proj.weight"))
    save_file(
        {key: value for key, value in weights.items() if key != dropped},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="q_proj"):
        load_hubert(str(folder), CPU)


def test_a_hubert_of_another_width_is_refused(tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="64 features"):
        load_hubert(str(tmp_path), CPU)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    for load in (load_hubert, load_bert):
        with pytest.raises(CheckpointError, match="nowhere"):
            load(str(tmp_path / "nowhere"), CPU)


def test_bert_gives_the_third_layer_from_the_end_once_a_phoneme(tmp_path: Path) -> None:
    bert = load_bert(str(sovits_toys.write_bert(tmp_path)), CPU)
    net, tokenizer = toy.toy_bert()
    with torch.no_grad():
        layers = net(**tokenizer("我在说", return_tensors="pt"), output_hidden_states=True).hidden_states
    features = bert.encode("我在说", [2, 1, 3])
    assert features.shape == (6, 1024)
    torch.testing.assert_close(features, layers[-3][0, 1:-1].repeat_interleave(torch.tensor([2, 1, 3]), dim=0))


def test_bert_does_not_hear_latin_words_whose_phonemes_have_zeros() -> None:
    bert = load_bert(toy.TOY, CPU)
    alone = bert.encode("我在,说-你", [2, 2, 1, 2, 1, 2])
    mixed = bert.encode("我在Wi-Fi Don't,说-你", [2, 2, 6, *[0] * 10, 1, 2, 1, 2])
    assert torch.equal(mixed[:4], alone[:4])
    assert torch.equal(mixed[4:10], torch.zeros(6, 1024))
    assert torch.equal(mixed[10:], alone[4:])
    assert torch.equal(bert.encode("OK", [3, 0]), torch.zeros(3, 1024))


def test_bert_refuses_what_upstreams_assertions_refuse() -> None:
    bert = load_bert(toy.TOY, CPU)
    with pytest.raises(DataError, match="2 counts"):
        bert.encode("我在说", [2, 1])
    with pytest.raises(DataError, match="511 characters"):
        bert.encode("我" * 511, [1] * 511)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(("name", "layout"), [("s2Gv2.pth", "pretrained"), ("G_233333333333.pth", "training")])
def test_the_quantizer_is_found_in_every_layout(tmp_path: Path, name: str, layout: sovits_toys.Layout) -> None:
    path = sovits_toys.write_s2g(tmp_path / name, layout=layout)
    quantizer = load_quantizer(str(path))
    assert quantizer.digest == load_quantizer(toy.TOY).digest
    assert quantizer.codebook.shape == (1024, 768)


def test_an_export_with_other_first_bytes_is_read(tmp_path: Path) -> None:
    """Upstream writes a version over the zip's `PK`."""
    path = sovits_toys.write_s2g(tmp_path / "voice_e8_s96.pth", version="v2Pro")
    path.write_bytes(b"05" + path.read_bytes()[2:])
    assert load_quantizer(str(path)).digest == load_quantizer(toy.TOY).digest


def test_the_small_encoders_hold_numbers_also_where_a_plan_is_the_first_to_ask() -> None:
    """A plan builds its nets on torch's `meta` device, to compare them with a base without their storage."""
    for made in (toy.toy_hubert, toy.toy_quantizer):
        made.cache_clear()
    try:
        with torch.device("meta"):
            weights = toy.toy_quantizer()
        assert {tensor.device.type for tensor in weights.values()} == {"cpu"}
    finally:
        for made in (toy.toy_hubert, toy.toy_quantizer):
            made.cache_clear()


def test_another_codebook_has_another_digest() -> None:
    weights = toy.toy_quantizer()
    changed = {**weights, CODEBOOK: weights[CODEBOOK].flip(0)}
    assert from_weights(changed, source="x").digest != from_weights(weights, source="x").digest


def test_a_file_without_a_quantizer_is_refused(tmp_path: Path) -> None:
    path = sovits_toys.write_s1(tmp_path / "s1.ckpt")
    with pytest.raises(CheckpointError, match="no semantic quantizer"):
        load_quantizer(str(path))


def test_tokens_are_the_nearest_codewords() -> None:
    quantizer = load_quantizer(toy.TOY)
    ssl = torch.randn(1, 768, 41)
    frames = torch.nn.functional.conv1d(ssl, quantizer.weight, quantizer.bias, stride=2)[0].T
    nearest = torch.cdist(frames.double(), quantizer.codebook.double()).argmin(dim=1)
    assert torch.equal(quantizer.encode(ssl), nearest)


@pytest.mark.parametrize(("given", "frames", "width"), [(49, 50, 50), (50, 50, 50), (51, 50, 50), (50, 51, 52)])
def test_features_are_fitted_to_the_recording(given: int, frames: int, width: int) -> None:
    ssl = torch.arange(1.0, given + 1)[:, None].expand(given, 768)
    fitted = padded(ssl, frames)[:, 0]
    assert len(fitted) == width
    assert fitted[frames - 1] == min(given, frames)  # the last one, repeated where one is missing
    assert not fitted[frames:].any()


def test_features_of_another_recording_are_refused() -> None:
    with pytest.raises(ValueError, match="47 frames of HuBERT for 50"):
        padded(torch.zeros(47, 768), 50)


# ---------------------------------------------------------------- speakers


def test_a_speaker_net_is_read_from_its_file(tmp_path: Path) -> None:
    path = sovits_toys.write_speaker(tmp_path / "sv.ckpt", channels=8, expansion=32)
    encoder = load_speaker(str(path), CPU)
    net = net_like(torch.load(path, weights_only=True))
    net.load_state_dict(torch.load(path, weights_only=True))
    wav = tone(0.5)
    with torch.no_grad():
        wanted = net.eval()(fbank(wav)[None])[0]
    described = encoder.encode(wav)
    assert described.shape == (20_480,)
    assert torch.equal(described, wanted)


def test_the_published_speaker_net_has_its_published_size() -> None:
    """53.5 M parameters and buffers: ERes2NetV2 with base width 24, scale 4, expansion 4."""
    net = SpeakerNet()
    assert len(net.state_dict()) == 1001
    assert net.num_features == 20_480
    assert net.layer1[0].convs[0].weight.shape == (24, 24, 3, 3)
    assert net.seg_1.weight.shape == (192, 40_960)


def test_a_file_that_is_no_speaker_net_is_refused(tmp_path: Path) -> None:
    torch.save(OrderedDict(weight=torch.zeros(3)), tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="is not an ERes2NetV2"):
        load_speaker(str(tmp_path / "x.ckpt"), CPU)
    path = sovits_toys.write_speaker(tmp_path / "narrow.ckpt", channels=8)
    with pytest.raises(CheckpointError, match="size 2,560"):
        load_speaker(str(path), CPU)


def test_mel_bands_are_kaldis() -> None:
    """10 ms apart, 25 ms long, no dither: the same each time."""
    mel = fbank(tone(0.5, seconds=1.0))
    assert mel.shape == (98, 80)
    assert torch.equal(mel, fbank(tone(0.5, seconds=1.0)))
    loudest = mel.mean(dim=0).argmax()
    centres = 700 * (
        torch.exp(torch.linspace(1127 * math.log(1 + 20 / 700), 1127 * math.log(1 + 8000 / 700), 82) / 1127) - 1
    )
    assert abs(float(centres[1 + loudest]) - 440) < 40
