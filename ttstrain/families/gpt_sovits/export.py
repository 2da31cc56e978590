"""Weights for GPT-SoVITS' web tool and API: the GPT as `.ckpt`, the VAE as `.pth`, and a base for further training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttstrain import __version__
from ttstrain.contract.export import Source, Written, WrittenFile
from ttstrain.contract.model import ModelConfig
from ttstrain.contract.task import Task
from ttstrain.errors import RecipeError
from ttstrain.families.gpt_sovits import export_files as files
from ttstrain.families.gpt_sovits.architecture import VAE_IDENTITY
from ttstrain.families.gpt_sovits.config import (
    FeaturesConfig,
    GptConfig,
    GptNetConfig,
    JointConfig,
    SovitsConfig,
    VaeConfig,
    VaeNetConfig,
)
from ttstrain.families.gpt_sovits.export_texts import readme, weight_folder
from ttstrain.families.gpt_sovits.features.tokens import from_weights
from ttstrain.families.gpt_sovits.gpt.documents import lay_out
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder
from ttstrain.families.gpt_sovits.shapes import SPEAKER_CHANNELS, SPEC_CHANNELS
from ttstrain.families.gpt_sovits.upstream import plain
from ttstrain.families.gpt_sovits.vae.quantizer import NUM_CODES
from ttstrain.families.gpt_sovits.vae.synthesizer import Synthesizer
from ttstrain.tensors.contents import read_contents

README = "README.md"
INFERENCE, PRETRAINED = "inference", "pretrained"
OWN = "ttstrain"  # entry of the files' configs with their origin
PROBE_PHONES, PROBE_TOKENS, PROBE_FRAMES = 20, 24, 60
_MOST_PHONES = 300  # ids that are in the table of every version


class _SovitsExporter:
    """Writes what a task of these nets trains."""

    formats: Mapping[str, str] = {INFERENCE: "for inference in the web tool and the API"}

    def write(self, source: Source, folder: Path, formats: Sequence[str]) -> Written:
        """Write the nets of each format, and how to use them."""
        config = _sovits(source.config)
        written: list[WrittenFile] = []
        notes: list[str] = []
        for wanted in formats:
            inside = folder / (PRETRAINED if wanted == PRETRAINED else "")
            inside.mkdir(exist_ok=True)
            for file in _files(source, config, pretrained=wanted == PRETRAINED):
                path = inside / file.name
                files.write(path, file.content, version=file.mark)
                if file.version is not None:
                    misjudged = files.misjudged(path, version=file.version, published_size=_is_published(config))
                    notes += [misjudged] if misjudged is not None else []
                written.append(
                    WrittenFile(
                        path.relative_to(folder).as_posix(),
                        holds="weights",
                        keys=frozenset(file.keys),
                        model=wanted,
                    )
                )
        names = [file.name for file in written]
        (folder / README).write_text(readme(source, config, names, notes), encoding="utf-8")
        use = [
            ["cp", f"{{folder}}/{name}", f"GPT-SoVITS/{weight_folder(name, config.version)}/"]
            for name in names
            if "/" not in name
        ]
        return Written(files=written, use=use, notes=notes)

    def config(self, folder: Path) -> SovitsConfig:
        """Read the settings from the files' own configs, as upstream's loaders do."""
        told = [_config_in(path) for path in sorted([*folder.rglob("*.ckpt"), *folder.rglob("*.pth")])]
        gpt = next((settings["model"] for settings in told if "phoneme_vocab_size" in settings["model"]), None)
        vae = next((settings for settings in told if "upsample_rates" in settings["model"]), None)
        features = FeaturesConfig(quantizer="not needed to load an export")
        sections: dict[str, Any] = {}
        version = "v2"
        if gpt is not None:
            sections["gpt"] = GptNetConfig(**{key: gpt[key] for key in GptNetConfig.model_fields if key in gpt})
            version = "v1" if gpt["phoneme_vocab_size"] == 512 else version
        if vae is not None:
            version = vae["model"]["version"]
            settings = {key: vae["model"][key] for key in (*VAE_IDENTITY, "p_dropout", "freeze_quantizer")}
            sections["vae"] = VaeNetConfig(
                **settings,
                segment_size=vae["train"]["segment_size"],
                discriminator=False,  # not needed for inference
                discriminator_channels=vae[OWN]["discriminator_channels"],
            )
        kinds: Mapping[frozenset[str], type[SovitsConfig]] = {
            frozenset({"gpt"}): GptConfig,
            frozenset({"vae"}): VaeConfig,
            frozenset({"gpt", "vae"}): JointConfig,
        }
        return kinds[frozenset(sections)](version=version, features=features, **sections)

    @torch.no_grad()
    def probe(self, task: Task) -> Tensor:
        """Return the nets' outputs for fixed input, concatenated."""
        computed = []
        for net in task.exported().children():
            if isinstance(net, Text2SemanticDecoder):
                computed.append(_logits(net.eval()))
            elif isinstance(net, Synthesizer):
                computed.append(_sound(net.eval()))
        return torch.cat([numbers.flatten() / numbers.abs().max().clamp_min(1e-6) for numbers in computed])


class GptExporter(_SovitsExporter):
    """Writes the GPT."""


class VaeExporter(_SovitsExporter):
    """Writes the VAE."""

    formats: Mapping[str, str] = {
        **_SovitsExporter.formats,
        PRETRAINED: "s2G and s2D, as a base for training in upstream's web tool",
    }


class JointExporter(VaeExporter):
    """Writes both."""


def _sovits(config: ModelConfig) -> SovitsConfig:
    assert isinstance(config, SovitsConfig)
    return config


def _config_in(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = plain(read_contents(path).tree["config"])
    return settings


# ---------------------------------------------------------------- which files


class _File:
    """A file to write."""

    def __init__(
        self,
        name: str,
        content: Mapping[str, Any],
        keys: Sequence[str],
        *,
        mark: str | None = None,
        version: str | None = None,
    ) -> None:
        self.name = name
        self.content = content
        self.keys = keys
        self.mark = mark  # version whose marker bytes it starts with
        self.version = version  # version that upstream's rules should detect


def _files(source: Source, config: SovitsConfig, *, pretrained: bool) -> list[_File]:
    epoch = source.epoch or 0  # unknown for an upstream file
    gpt_name = f"{source.name}-e{epoch}" if epoch else f"{source.name}-s{source.step}"
    vae_name = f"{source.name}_e{epoch}_s{source.step}" if epoch else f"{source.name}_s{source.step}"
    info = f"{epoch}epoch_{source.step}iteration"
    held = {**source.weights, **source.others}
    found: list[_File] = []
    if isinstance(config, GptConfig | JointConfig):
        settings = files.gpt_config(config.gpt, config.sampling, name=source.name)
        content = files.gpt_file(held, {**settings, OWN: _origin(source, config)}, info=f"GPT-e{epoch}")
        found.append(_File(f"{gpt_name}.ckpt", content, _keys(held, files.GPT)))
    if not isinstance(config, VaeConfig | JointConfig):
        return found
    settings = files.vae_config(config.vae, version=config.version, name=source.name)
    settings[OWN] = _origin(source, config)
    vae = files.vae_file(held, settings, info=info, posterior=pretrained)
    keys = [key for key in _keys(held, files.VAE) if pretrained or files.POSTERIOR not in key]
    if not pretrained:
        return [*found, _File(f"{vae_name}.pth", vae, keys, mark=config.version, version=config.version)]
    discriminator = _keys(held, files.DISCRIMINATOR)
    if not discriminator:
        raise RecipeError(
            "no discriminator to export: the run trained without one",
            hint="leave out `--format pretrained`; the published s2D goes with the published s2G",
        )
    content = files.discriminator_file(held, settings, info=info)
    return [
        *found,
        _File(f"s2G-{source.name}.pth", vae, keys),
        _File(f"s2D-{source.name}.pth", content, discriminator),
    ]


def _keys(held: Mapping[str, Tensor], start: str) -> list[str]:
    return [key for key in held if key.startswith(start)]


def _origin(source: Source, config: SovitsConfig) -> dict[str, Any]:
    """Return the file's entry on its origin and its quantizer."""
    origin: dict[str, Any] = {
        "ttstrain": __version__,
        "run": source.name,
        "step": source.step,
        "weights": source.chosen,
        "version": config.version,
    }
    if source.blend is not None:
        origin["blend"] = source.blend
    if isinstance(config, VaeConfig | JointConfig):
        origin["discriminator_channels"] = config.vae.discriminator_channels
        origin["quantizer"] = from_weights(source.weights, source=str(source.checkpoint)).digest
    return origin


def _is_published(config: SovitsConfig) -> bool:
    """Tell whether the VAE has the sizes that upstream's rule for v1 and v2 is made for."""
    if not isinstance(config, VaeConfig | JointConfig):
        return False
    published = VaeNetConfig()
    return all(getattr(config.vae, key) == getattr(published, key) for key in VAE_IDENTITY)


# ---------------------------------------------------------------- what they compute


def _logits(net: Text2SemanticDecoder) -> Tensor:
    """Return the logits of every token of one clip, part of whose phonemes have features of BERT."""
    generator = torch.Generator().manual_seed(0)
    table = net.ar_text_embedding.word_embeddings.weight
    phones = torch.randint(min(len(table), _MOST_PHONES), (PROBE_PHONES,), generator=generator)
    bert = torch.randn(PROBE_PHONES, net.bert_proj.in_features, generator=generator)
    bert[PROBE_PHONES // 2 :] = 0
    codes = torch.randint(net.eos, (PROBE_TOKENS,), generator=generator)
    documents = lay_out([torch.arange(PROBE_PHONES)], [torch.arange(PROBE_TOKENS)], device=torch.device("cpu"))
    logits: Tensor = net.ar_predict_layer(net(phones, bert, codes, documents))
    return logits


def _sound(net: Synthesizer) -> Tensor:
    """Return the sound of fixed tokens in the style of a fixed spectrogram."""
    generator = torch.Generator().manual_seed(0)
    rows = len(net.enc_p.text_embedding.weight)
    codes = torch.randint(NUM_CODES, (1, PROBE_TOKENS), generator=generator)
    phones = torch.randint(min(rows, _MOST_PHONES), (1, PROBE_PHONES), generator=generator)
    reference = torch.rand(1, SPEC_CHANNELS, PROBE_FRAMES, generator=generator)
    speaker = torch.randn(1, SPEAKER_CHANNELS, generator=generator) if net.is_pro else None
    return net.decode(codes, phones, reference, speaker=speaker, generator=generator)
