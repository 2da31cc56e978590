"""The texts of an export: settings for upstream's tools, commands that use them, and the README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttstrain.contract.export import FOLDER, Source
from ttstrain.families.flow.config import HOP_LENGTH, SAMPLE_RATE, FlowConfig
from ttstrain.families.flow.upstream import F5Format
from ttstrain.families.flow.vocab import PUBLISHED, load_vocab
from ttstrain.recipe.emit import emit
from ttstrain.recipe.shipped import PACKAGE
from ttstrain.shell import quoted

BACKBONES = {"dit": "DiT", "unett": "UNetT"}
WINDOW = 1024  # samples, of all published nets
UPSTREAM_MELS = 100  # bins that upstream's inference is fixed to
_ALWAYS = ("dim", "depth", "heads", "ff_mult", "text_dim", "text_mask_padding", "conv_layers", "pe_attn_head")
# Defaults of upstream's classes.
_ASSUMED = {
    "dim_head": 64,
    "dropout": 0.1,
    "qk_norm": None,
    "attn_mask_enabled": False,
    "long_skip_connection": False,
    "text_embedding_average_upsampling": False,
    "skip_connect_type": "concat",
    "checkpoint_activations": False,
}


def arch(config: FlowConfig) -> dict[str, Any]:
    """Return the arguments of upstream's class; defaults are left out, for older releases."""
    values = {key: getattr(config, key) for key in _ALWAYS}
    return values | {key: getattr(config, key) for key, assumed in _ASSUMED.items() if getattr(config, key) != assumed}


def settings_yaml(config: FlowConfig, source: Source) -> str:
    """Return what `f5-tts_infer-cli --model_cfg` reads."""
    model = {
        "name": source.name,
        "tokenizer": "custom",
        "tokenizer_path": "vocab.txt",
        "backbone": BACKBONES[config.backbone],
        "arch": arch(config),
        "mel_spec": {
            "target_sample_rate": SAMPLE_RATE,
            "n_mel_channels": config.n_mels,
            "hop_length": HOP_LENGTH,
            "win_length": WINDOW,
            "n_fft": WINDOW,
            "mel_spec_type": config.mel,
        },
    }
    return f"# For `f5-tts_infer-cli --model_cfg`. {title(source)}.\n" + emit({"model": model}, lambda _key: None)


def web_json(config: FlowConfig) -> str | None:
    """Return the line for the custom model of `f5-tts_infer-gradio`; None where that tool cannot load the net."""
    if config.backbone != "dit" or config.mel != "vocos":
        return None
    return json.dumps(arch(config))


def infer_command(config: FlowConfig, source: Source, *, file: str, folder: str = FOLDER) -> list[str]:
    """Return the command that generates speech with the exported files."""
    return [
        "f5-tts_infer-cli",
        *("--model", source.name),
        *("--model_cfg", f"{folder}/model.yaml"),
        *("--ckpt_file", f"{folder}/{file}"),
        *("--vocab_file", f"{folder}/vocab.txt"),
        *("--vocoder_name", config.mel),
        *("--ref_audio", "REFERENCE.wav"),
        *("--ref_text", "What the reference says."),
        *("--gen_text", "What to say."),
    ]


def title(source: Source) -> str:
    """Name run, step and weights."""
    return f"Run {source.name}, step {source.step:,}, weights: {source.chosen}"


def limits(config: FlowConfig) -> tuple[str, ...]:
    """Return notes on what upstream's tools cannot do with this net."""
    notes = []
    if config.n_mels != UPSTREAM_MELS:
        notes.append(f"upstream's inference is fixed to {UPSTREAM_MELS} mel bins; this net has {config.n_mels}")
    if config.tokenizer == "char":
        notes.append(
            "trained on plain characters (`tokenizer: char`), but upstream's inference sends every text through its "
            "pinyin function, which puts spaces after accented letters: generate with `ttstrain sample`, or train with "
            "`tokenizer: custom`"
        )
    if config.backbone != "dit":
        notes.append("upstream's web tool loads custom models of class DiT only; use the command line")
    elif config.mel != "vocos":
        notes.append("upstream's web tool uses Vocos for all custom models; use the command line")
    return tuple(notes)


# ---------------------------------------------------------------- README


def readme(source: Source, config: FlowConfig, files: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return the folder's README; `files` are the formats and the name of each one's file."""
    sections = [
        f"# {source.name}",
        _what(source, config),
        _files(files),
        _use(source, config, files),
        _front_end(source, config),
        *(["## Mind\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Licence\n\n" + _licence(source),
    ]
    return "\n\n".join(sections) + "\n"


def _what(source: Source, config: FlowConfig) -> str:
    label = F5Format().label(config.model_dump(mode="json"))
    losses = "".join(f"| held-out loss, {name} | {value:.4f} |\n" for name, value in source.losses.items())
    return (
        f"A {label.model} ({label.version}) net for F5-TTS's tools, exported by ttstrain.\n\n"
        "| | |\n|---|---|\n"
        f"| run | {source.name} |\n| step | {source.step:,} |\n| weights | {source.chosen}: "
        f"{'; '.join(source.reasons)} |\n{losses}"
        f"| base | {source.base or 'none: trained from scratch'} |\n"
        f"| mel | {config.mel}, {config.n_mels} bins, {SAMPLE_RATE} Hz |\n\n"
        "Read back before this folder was made: every tensor equal, and the forward pass too."
    )


def _files(files: Mapping[str, str]) -> str:
    everywhere = "For every tool, and as a base"
    meanings = {
        "inference": f"weights as F5-TTS publishes them: `ema_model.*`, `initted`, `step`. {everywhere}",
        "half": f"weights under the names that F5-TTS publishes, in half precision (fp16). {everywhere}",
        "plain": "the same weights without the prefix",
        "training": "raw weights, EMA weights, optimizer state and step, for F5-TTS's trainer",
    }
    lines = [f"- `{name}`: {meanings[wanted]}" for wanted, name in files.items()]
    return "\n".join(
        [
            "## Files",
            "",
            *lines,
            "- `vocab.txt`: one token per line; its last newline matters",
            "- `model.yaml`: the architecture. v0 and v1 nets have the same tensors: with the other's settings they "
            "load without an error and generate gibberish",
        ]
    )


def _use(source: Source, config: FlowConfig, files: Mapping[str, str]) -> str:
    parts = ["## Use", "", "In this folder:", ""]
    inference = next((name for name in files.values() if "/" not in name), None)
    if inference is not None:
        parts += ["```", quoted(*infer_command(config, source, file=inference, folder=".")), "```", ""]
        line = web_json(config)
        if line is not None:
            parts += [
                f"In `f5-tts_infer-gradio` choose Custom, give the paths of `{inference}` and `vocab.txt`, and this:",
                "",
                "```",
                line,
                "```",
                "",
            ]
        parts += [
            "As a base in ttstrain: `--base .`; its settings are in the file. In F5-TTS's trainer: copy it to "
            f"`ckpts/NAME/pretrained_{inference}`.",
            "",
        ]
    if "training" in files:
        parts += [training_text(source), ""]
    return "\n".join(parts).rstrip()


def training_text(source: Source) -> str:
    """Describe how to continue in F5-TTS's trainer."""
    return (
        "To continue in F5-TTS's trainer, copy `training/model_last.pt` to `ckpts/NAME/` and `training/vocab.txt` to "
        f"the project's data folder, and start training on the same data. It resumes from update {source.step:,}. Its "
        "learning rate is in the file, stays as it is and overrides what you give on the command line. Give `--epochs` "
        f"more than {source.step:,} updates take, or it ends at once. `f5-tts_infer-cli` uses its EMA weights."
    )


def _front_end(source: Source, config: FlowConfig) -> str:
    vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
    known = " (the published one)" if config.vocab == PUBLISHED else ""
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items())
    return (
        "## Front end\n\n"
        f"Tokenizer `{config.tokenizer}`, {len(vocab.tokens):,} tokens{known}, sha256 of the vocab `{vocab.sha256}`"
        + (f"; {versions}" if versions else "")
        + ". Characters that the vocab lacks are read as spaces."
    )


def _licence(source: Source) -> str:
    if source.base is None:
        return "Trained from scratch: its permitted uses depend on the recordings it was trained on."
    if source.base.startswith(PACKAGE):
        return (
            f"Fine-tuned from `{source.base}`, which ships with ttstrain: its folder there states the licences of the "
            "recordings it was trained on. A cloned voice also needs its speaker's consent."
        )
    return (
        f"Fine-tuned from `{Path(source.base).name if '://' not in source.base else source.base}`. The weights that "
        "F5-TTS and E2-TTS publish are CC-BY-NC-4.0: what is fine-tuned from them is for non-commercial use. A cloned "
        "voice also needs its speaker's consent."
    )
