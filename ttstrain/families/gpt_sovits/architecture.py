"""What a file's tensors and its config tell of the nets' settings. Keys of shapes are upstream's. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

# Settings that decide what weights mean, rather than how they are trained or used.
GPT_IDENTITY = ("embedding_dim", "hidden_dim", "head", "n_layer", "vocab_size", "phoneme_vocab_size")
VAE_IDENTITY = (
    "inter_channels",
    "hidden_channels",
    "filter_channels",
    "n_heads",
    "n_layers",
    "kernel_size",
    "resblock_kernel_sizes",
    "resblock_dilation_sizes",
    "upsample_rates",
    "upsample_initial_channel",
    "upsample_kernel_sizes",
    "gin_channels",
)


def identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """Pick from a complete `model:` section what decides what weights mean."""
    told: dict[str, Any] = {}
    for name, keys in (("gpt", GPT_IDENTITY), ("vae", VAE_IDENTITY)):
        section = model.get(name)
        if isinstance(section, Mapping):  # a path names the file of a net that is only used for samples
            told[name] = {key: section[key] for key in keys if key in section}
    return {"version": model.get("version"), **told} if "vae" in told else told


def gpt_section(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the GPT's settings: off the shapes, and the number of heads out of the file's config."""
    table = shapes["model.ar_text_embedding.word_embeddings.weight"]
    section: dict[str, Any] = {
        "embedding_dim": table[1],
        "hidden_dim": table[1],
        "n_layer": _count(shapes, "model.h.layers."),
        "phoneme_vocab_size": table[0],
    }
    if (tokens := shapes.get("model.ar_audio_embedding.word_embeddings.weight")) is not None:
        section["vocab_size"] = tokens[0]
    model = config.get("model")
    if isinstance(model, Mapping) and "head" in model:
        section["head"] = model["head"]
    return section


def vae_section(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the VAE's settings: off the shapes, and what they do not tell out of the file's config."""
    model = config.get("model")
    told = dict(model) if isinstance(model, Mapping) else {}
    section = {key: told[key] for key in VAE_IDENTITY if key in told}
    section |= _read_off(shapes)
    return {key: section[key] for key in VAE_IDENTITY if key in section}


def _read_off(shapes: Shapes) -> dict[str, Any]:
    """Read what a whole VAE's shapes tell; empty for a file that is no whole VAE."""
    needed = ("enc_p.encoder_text.attn_layers.0.emb_rel_k", "enc_p.encoder_text.ffn_layers.0.conv_1.weight")
    if any(key not in shapes for key in (*needed, "dec.cond.weight", "flow.flows.0.pre.weight")):
        return {}
    relative, inner = shapes[needed[0]], shapes[needed[1]]
    stages = _count(shapes, "dec.ups.")
    blocks = _count(shapes, "dec.resblocks.") // max(stages, 1)
    return {
        "inter_channels": 2 * shapes["flow.flows.0.pre.weight"][1],
        "hidden_channels": inner[1],
        "filter_channels": inner[0],
        "n_heads": inner[1] // relative[2],
        "n_layers": _count(shapes, "enc_p.encoder_text.attn_layers."),
        "kernel_size": inner[2],
        "resblock_kernel_sizes": [shapes[f"dec.resblocks.{block}.convs1.0.weight_v"][2] for block in range(blocks)],
        "upsample_initial_channel": shapes["dec.conv_pre.weight"][0],
        "upsample_kernel_sizes": [shapes[f"dec.ups.{stage}.weight_v"][2] for stage in range(stages)],
        "gin_channels": shapes["dec.cond.weight"][1],
    }


def discriminator_section(shapes: Shapes) -> dict[str, Any]:
    """Read the most channels of a layer of the discriminator."""
    return {"discriminator_channels": max((shape[0] for shape in shapes.values() if shape), default=0)}


def _count(shapes: Iterable[str], stem: str) -> int:
    return len({key[len(stem) :].partition(".")[0] for key in shapes if key.startswith(stem)})
