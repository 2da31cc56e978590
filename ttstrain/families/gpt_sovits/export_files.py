"""Files as upstream's `process_ckpt` writes them: half precision, a plain config, and two bytes for the version.

Facts hold for upstream's revision of 2026-08. Its loaders take a config of plain dicts as they take their own class.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.architecture import VAE_IDENTITY
from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SAMPLE_RATE, GptNetConfig, SamplingConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.versions import WRITTEN_HEADS, as_upstream_tells

GPT, VAE, DISCRIMINATOR = "gpt.", "vae.", "discriminator."
POSTERIOR = "enc_q"  # upstream drops every key that contains this
WINDOW = 2048
MAX_SEC = 54  # longest clip of upstream's GPT
LR_DECAY = 0.999875


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor, buffers too, in half precision. Raises CheckpointError if one is not finite then."""
    halves = {key: tensor.detach().to("cpu", torch.float16).contiguous() for key, tensor in weights.items()}
    if broken := [key for key, tensor in halves.items() if not bool(torch.isfinite(tensor).all())]:
        before = [key for key in broken if not bool(torch.isfinite(weights[key]).all())]
        raise CheckpointError(
            f"{len(broken)} tensors are not finite in half precision, such as `{broken[0]}`: it would generate noise",
            hint="the weights are NaN or infinite: export an earlier checkpoint"
            if before
            else "values exceed 65504, so the training has diverged: export an earlier checkpoint",
        )
    return halves


def gpt_file(weights: Mapping[str, Tensor], config: Mapping[str, Any], *, info: str) -> dict[str, Any]:
    """Return the content of an s1 file; `weights` under the task's names."""
    halves = halved({key: tensor for key, tensor in weights.items() if key.startswith(GPT)})
    weight = OrderedDict((f"model.{key.removeprefix(GPT)}", tensor) for key, tensor in halves.items())
    return {"weight": weight, "config": dict(config), "info": info}


def vae_file(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], *, info: str, posterior: bool = False
) -> dict[str, Any]:
    """Return the content of an s2 file: without the posterior encoder for inference, with it as a base."""
    own = {key: tensor for key, tensor in weights.items() if key.startswith(VAE)}
    kept = {key: tensor for key, tensor in own.items() if posterior or POSTERIOR not in key}
    weight = {key.removeprefix(VAE): tensor for key, tensor in halved(kept).items()}
    return {"weight": weight, "config": dict(config), "info": info}


def discriminator_file(weights: Mapping[str, Tensor], config: Mapping[str, Any], *, info: str) -> dict[str, Any]:
    """Return the content of an s2D file."""
    own = {key: tensor for key, tensor in weights.items() if key.startswith(DISCRIMINATOR)}
    weight = {key.removeprefix(DISCRIMINATOR): tensor for key, tensor in halved(own).items()}
    return {"weight": weight, "config": dict(config), "info": info}


def write(path: Path, content: Mapping[str, Any], *, version: str | None = None) -> None:
    """Write a file; for versions that upstream marks, replace the first two bytes by the marker."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getbuffer()
    if version in WRITTEN_HEADS:
        data[:2] = WRITTEN_HEADS[version]
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def misjudged(path: Path, *, version: str, published_size: bool) -> str | None:
    """Return a note if upstream's rules detect another version for a written file; None if they are right.

    Raises CheckpointError where a net of the published size would be taken for another version.
    """
    with path.open("rb") as file:
        head = file.read(2)
    told = as_upstream_tells(path, head=head)
    if told.version == version:
        return None
    what = f"upstream's tools would load `{path.name}` as {told.version}, by {told.by}, but it is {version}"
    if published_size:
        raise CheckpointError(what, hint="nothing was exported; please report this")
    return f"{what}. Upstream's rule is for nets of the published size"


# ---------------------------------------------------------------- configs, as upstream's own files have them


def gpt_config(config: GptNetConfig, sampling: SamplingConfig, *, name: str) -> dict[str, Any]:
    """Return upstream's `s1longer` settings with this net's sizes; its loaders read `data`, `model` and `inference`."""
    return {
        "train": {"seed": 1234, "epochs": 20, "batch_size": 8, "precision": "16-mixed", "exp_name": name},
        "optimizer": {"lr": 0.01, "lr_init": 1e-5, "lr_end": 1e-4, "warmup_steps": 2000, "decay_steps": 40_000},
        "data": {"max_eval_sample": 8, "max_sec": MAX_SEC, "num_workers": 4, "pad_val": config.vocab_size - 1},
        "model": {
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
        },
        "inference": {"top_k": sampling.top_k},
    }


def vae_config(config: VaeNetConfig, *, version: str, name: str) -> dict[str, Any]:
    """Return upstream's `s2.json` with this net's sizes; its constructor takes `model` as it is."""
    return {
        "train": {
            "seed": 1234,
            "learning_rate": 1e-4,
            "betas": [0.8, 0.99],
            "eps": 1e-9,
            "fp16_run": True,
            "lr_decay": LR_DECAY,
            "segment_size": config.segment_size,
            "init_lr_ratio": 1,
            "warmup_epochs": 0,
            "c_mel": config.c_mel,
            "c_kl": config.c_kl,
            "text_low_lr_rate": 0.4,
            "grad_ckpt": False,
        },
        "data": {
            "max_wav_value": 32768.0,
            "sampling_rate": SAMPLE_RATE,
            "filter_length": WINDOW,
            "hop_length": HOP_LENGTH,
            "win_length": WINDOW,
            "n_mel_channels": 128,
            "mel_fmin": 0.0,
            "mel_fmax": None,
            "add_blank": True,
            "n_speakers": 300,
            "cleaned_text": True,
        },
        "model": {
            **{key: getattr(config, key) for key in VAE_IDENTITY},
            "p_dropout": config.p_dropout,
            "resblock": "1",
            "n_layers_q": 3,
            "use_spectral_norm": False,
            "semantic_frame_rate": "25hz",
            "freeze_quantizer": config.freeze_quantizer,
            "version": version,
        },
        "content_module": "cnhubert",
        "name": name,
        "version": version,
    }
