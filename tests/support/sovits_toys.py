"""Small models of GPT-SoVITS' own classes, in files of upstream's layouts, and recipes for runs of a few seconds.

Nets are built by the same code as the published ones; only sizes differ. Every builder is seeded.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import soundfile
import torch
import yaml
from torch import Tensor, nn

from ttstrain.data.audio import resampler
from ttstrain.families.gpt_sovits.config import GptNetConfig, VaeNetConfig, Version
from ttstrain.families.gpt_sovits.features import toy

Layout = Literal["pretrained", "training"]

GPT: Mapping[str, Any] = {"embedding_dim": 32, "hidden_dim": 32, "head": 2, "n_layer": 2, "dropout": 0.0}
VAE: Mapping[str, Any] = {
    "inter_channels": 24,
    "filter_channels": 64,
    "n_layers": 1,
    "p_dropout": 0.0,
    "upsample_initial_channel": 64,
    "segment_size": 5120,
    "discriminator_channels": 16,
}
TOY = "package:toy"
FEATURES: Mapping[str, str] = {"hubert": TOY, "bert": TOY, "speaker": TOY, "quantizer": TOY, "device": "cpu"}
PRO = ("v2Pro", "v2ProPlus")


def gpt_config(version: Version = "v2", **changed: Any) -> GptNetConfig:
    """Describe a GPT of 0.1 M parameters."""
    rows = {"phoneme_vocab_size": 512 if version == "v1" else 732}
    return GptNetConfig.model_validate({**GPT, **rows, **changed})


def vae_config(version: Version = "v2", **changed: Any) -> VaeNetConfig:
    """Describe a VAE with upstream's fixed widths and the fewest layers."""
    wide = {"gin_channels": 1024} if version in PRO else {}
    return VaeNetConfig.model_validate({**VAE, **wide, **changed})


def model_section(task: str, version: Version = "v2", **changed: Any) -> dict[str, Any]:
    """Return a `model:` section of small nets and toy encoders for `gpt_sovits/<task>`."""
    section: dict[str, Any] = {"version": version, "features": dict(FEATURES)}
    if task in ("gpt", "joint"):
        section["gpt"] = gpt_config(version).model_dump()
    if task in ("vae", "joint"):
        section["vae"] = vae_config(version).model_dump()
    return {**section, **changed}


# ---------------------------------------------------------------- nets


def small_gpt(version: Version = "v2", *, seed: int = 0, **changed: Any) -> nn.Module:
    """Build a small GPT with fixed weights."""
    from ttstrain.families.gpt_sovits.gpt.net import build_gpt

    return _seeded(lambda: build_gpt(gpt_config(version, **changed)), seed)


def small_vae(version: Version = "v2", *, seed: int = 0, **changed: Any) -> nn.Module:
    """Build a small VAE with fixed weights, its quantizer that of `package:toy`."""
    from ttstrain.families.gpt_sovits.vae.synthesizer import build_vae

    vae = _seeded(lambda: build_vae(vae_config(version, **changed), version), seed)
    vae.load_state_dict({**vae.state_dict(), **toy.toy_quantizer()})
    return vae


def small_discriminator(version: Version = "v2", *, seed: int = 0, **changed: Any) -> nn.Module:
    """Build a small discriminator with fixed weights."""
    from ttstrain.families.gpt_sovits.vae.synthesizer import build_discriminator

    return _seeded(lambda: build_discriminator(vae_config(version, **changed), version), seed)


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


# ---------------------------------------------------------------- upstream's files


def write_s1(path: Path, *, version: Version = "v2", seed: int = 0, half: bool = True) -> Path:
    """Write a small GPT as upstream's pretrained `s1*.ckpt`: weight, config, info."""
    weights = OrderedDict((f"model.{key}", value) for key, value in small_gpt(version, seed=seed).state_dict().items())
    config = gpt_config(version)
    model = {
        "vocab_size": config.vocab_size,
        "phoneme_vocab_size": config.phoneme_vocab_size,
        "embedding_dim": config.embedding_dim,
        "hidden_dim": config.hidden_dim,
        "head": config.head,
        "linear_units": 4 * config.hidden_dim,
        "n_layer": config.n_layer,
        "dropout": 0,
        "EOS": config.vocab_size - 1,
        "random_bert": 0,
    }
    document = {
        "weight": _halved(weights) if half else weights,
        "config": {"model": model, "data": {"max_sec": 54, "pad_val": 1024}, "inference": {"top_k": 15}},
        "info": "pretrained",
    }
    torch.save(document, path)
    return path


def write_s2g(path: Path, *, version: Version = "v2", seed: int = 0, layout: Layout = "pretrained") -> Path:
    """Write a small VAE as upstream's `s2G*.pth`, or as the `G_*.pth` of a run that is to go on."""
    return _write_s2(path, small_vae(version, seed=seed).state_dict(), version, layout)


def write_s2d(path: Path, *, version: Version = "v2", seed: int = 0, layout: Layout = "pretrained") -> Path:
    """Write a small discriminator as upstream's `s2D*.pth`, or as `D_*.pth`."""
    return _write_s2(path, small_discriminator(version, seed=seed).state_dict(), version, layout)


def s2_document(version: Version = "v2") -> dict[str, Any]:
    """Return the `config` of an `s2` file, as a plain dictionary."""
    config = vae_config(version)
    kept = {key: value for key, value in config.model_dump().items() if key in _S2_MODEL}
    fixed = {"resblock": "1", "n_layers_q": 3, "use_spectral_norm": False, "semantic_frame_rate": "25hz"}
    return {
        "train": {"segment_size": config.segment_size, "c_mel": 45, "c_kl": 1.0, "text_low_lr_rate": 0.4},
        "data": {
            "max_wav_value": 32768.0,
            "sampling_rate": 32_000,
            "filter_length": 2048,
            "hop_length": 640,
            "win_length": 2048,
            "n_mel_channels": 128,
            "mel_fmin": 0.0,
            "mel_fmax": None,
            "add_blank": True,
            "n_speakers": 300,
            "cleaned_text": True,
        },
        "model": {**kept, **fixed, "version": version},
        "s2_ckpt_dir": "logs/s2/big2k1",
        "content_module": "cnhubert",
    }


_S2_MODEL = (
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout",
    "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_initial_channel",
    "upsample_kernel_sizes", "gin_channels", "freeze_quantizer",
)  # fmt: skip


def _write_s2(path: Path, weights: Mapping[str, Tensor], version: Version, layout: Layout) -> Path:
    if layout == "training":
        torch.save({"model": weights, "iteration": 3, "optimizer": None, "learning_rate": 1e-4}, path)
    else:
        torch.save({"weight": _halved(weights), "config": s2_document(version), "info": "pretrained"}, path)
    return path


def _halved(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((key, value.half()) for key, value in weights.items())


# ---------------------------------------------------------------- encoders in folders


def write_hubert(folder: Path) -> Path:
    """Write the toy HuBERT as a Hugging Face folder."""
    toy.toy_hubert().save_pretrained(folder)
    return folder


def write_bert(folder: Path) -> Path:
    """Write the toy BERT and its tokenizer as a Hugging Face folder."""
    net, tokenizer = toy.toy_bert()
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_speaker(path: Path, **changed: Any) -> Path:
    """Write an ERes2NetV2 with fixed weights under the published keys; one block a stage, unless `changed`."""
    from ttstrain.families.gpt_sovits.features.eres2net import SpeakerNet

    net = _seeded(lambda: SpeakerNet(**{"num_blocks": (1, 1, 1, 1), **changed}), 0)
    torch.save(net.state_dict(), path)
    return path


# ---------------------------------------------------------------- upstream's prepared folders


def write_project(
    folder: Path,
    recordings: Mapping[str, Path],
    phones: Mapping[str, tuple[str, ...]],
    *,
    codes: Mapping[str, list[int]] | None = None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    word2ph: Mapping[str, list[int]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a folder as GPT-SoVITS' own steps leave it.

    `tensors` maps `3-bert`, `4-cnhubert`, `7-sv_cn` to tensors by name; recordings are stored with 16 bits at 32 kHz.
    """
    (folder / "5-wav32k").mkdir(parents=True)
    for name, source in recordings.items():
        wav, rate = soundfile.read(source, dtype="float32")
        at_32k = torch.from_numpy(wav) if rate == 32_000 else resampler(rate, 32_000)(torch.from_numpy(wav))
        soundfile.write(folder / "5-wav32k" / name, at_32k.numpy(), 32_000, subtype="PCM_16", format="WAV")
    lines = [
        "\t".join([name, " ".join(said), str((word2ph or {}).get(name)), (texts or {}).get(name, f"text of {name}")])
        for name, said in phones.items()
    ]
    (folder / "2-name2text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if codes is not None:
        rows = ["item_name\tsemantic_audio", *(f"{name}\t{' '.join(map(str, row))}" for name, row in codes.items())]
        (folder / "6-name2semantic.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for below, named in (tensors or {}).items():
        (folder / below).mkdir()
        for name, tensor in named.items():
            torch.save(tensor, folder / below / f"{name}.pt")
    return folder


# ---------------------------------------------------------------- recipes


def recipe(task: str, *, data: Path | str = "package:demo", version: Version = "v2", **changed: Any) -> dict[str, Any]:
    """Return a recipe of a few quick steps of `gpt_sovits/<task>`; `changed` replaces whole sections."""
    written: dict[str, Any] = {
        "task": f"gpt_sovits/{task}",
        "model": model_section(task, version),
        "data": {"path": str(data), "holdout": 2, "batch_frames": 400, "max_clips": 4, "workers": 0},
        "optim": {"lr": 1e-3, "schedule": {"kind": "cosine", "warmup_steps": 1}},
        "train": {"steps": 4, "device": "cpu", "precision": "fp32"},
        "eval": {"every": 2},
        "sample": {"every": None},
        "checkpoint": {"every": 2, "keep_last": 9},
        "tracking": {"wandb": "off"},
    }
    return {**written, **changed}


def write_recipe(path: Path, task: str, **changed: Any) -> Path:
    """Write `recipe(task, **changed)` as a file."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe(task, **changed))), allow_unicode=True))
    return path
