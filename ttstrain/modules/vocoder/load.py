"""Finds a vocoder's files, checks that it is for the model's mel, and loads it strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain import documents
from ttstrain.errors import CheckpointError, first_line
from ttstrain.modules.mel import MelKind
from ttstrain.modules.vocoder.bigvgan import BigVgan, BigVganConfig, fold_weight_norm
from ttstrain.modules.vocoder.vocos import Vocos, VocosConfig
from ttstrain.places import expanded
from ttstrain.recipe import yaml12
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.hub import HUB, fetch_repository
from ttstrain.tensors.loading import build_to_fit, check_finite
from ttstrain.tensors.tensorfile import StoredTensor, read_tree

SAMPLE_RATE, N_FFT, HOP_LENGTH = 24_000, 1024, 256  # of every mel that ttstrain makes
_MOST_LAYERS = 256
TOLERANCE = 1e-4  # between a file's mel filters and ours: float32 of two libraries


@dataclass(frozen=True, slots=True)
class _Kind:
    """Files and entries of one kind of vocoder."""

    label: str
    config: str
    weights: tuple[str, ...]  # in the order of preference
    published: str


_KINDS: Mapping[MelKind, _Kind] = {
    "vocos": _Kind("Vocos", "config.yaml", ("model.safetensors", "pytorch_model.bin"), "charactr/vocos-mel-24khz"),
    "bigvgan": _Kind(
        "BigVGAN",
        "config.json",
        ("bigvgan_generator.safetensors", "bigvgan_generator.pt"),
        "nvidia/bigvgan_v2_24khz_100band_256x",
    ),
}


@dataclass(frozen=True, slots=True)
class Vocoder:
    """A trained vocoder in eval mode."""

    name: str  # "Vocos" or "BigVGAN"
    source: str  # what the user called it
    net: nn.Module

    @torch.no_grad()
    def vocode(self, log_mel: Tensor) -> Tensor:
        """Return the waveform (t,) on the CPU of a log-mel (n, m), computed where the mel is."""
        self.net.to(log_mel.device)
        wav: Tensor = self.net(log_mel.float().T[None])[0]
        return wav.float().cpu()


def published(mel: MelKind) -> tuple[str, str]:
    """Name the vocoder for a mel and its place on the Hub."""
    return _KINDS[mel].label, f"{HUB}{_KINDS[mel].published}"


def load_vocoder(spec: str, *, mel: MelKind, n_mels: int = 100) -> Vocoder:
    """Load the vocoder in a folder, a weights file with its configuration beside it, or `hf://owner/repo[@revision]`.

    Nothing in the files is executed. Raises CheckpointError when there is none, when it was trained on another mel
    than `mel`, or when a tensor is missing or left over.
    """
    folder, weights = _locate(spec, mel)
    kind, config = _configuration(spec, folder, mel)
    if kind != mel:
        raise CheckpointError(
            f"`{spec}` is {_KINDS[kind].label}, which is for {kind} mels; this model makes {mel} mels",
            hint=f"use {_KINDS[mel].label}, such as {HUB}{_KINDS[mel].published}; the mels are not compatible",
        )
    path = weights or _first(folder, _KINDS[kind].weights)
    if path is None:
        raise CheckpointError(f"`{spec}` holds no weights", hint=f"looked for {' and '.join(_KINDS[kind].weights)}")
    tensors = _read_tensors(path)
    described = str(folder / _KINDS[kind].config)
    net: nn.Module
    if kind == "vocos":
        net = build_to_fit(lambda: _vocos(config, n_mels), tensors, source=str(path), config=described)
    else:
        net = build_to_fit(lambda: _bigvgan(config, n_mels), tensors, source=str(path), config=described)
    _check_filters(net, tensors, path)
    check_finite(tensors, source=str(path))
    net.load_state_dict(tensors)
    return Vocoder(name=_KINDS[kind].label, source=spec, net=net.eval().requires_grad_(requires_grad=False))


def _locate(spec: str, mel: MelKind) -> tuple[Path, Path | None]:
    """Return the folder of the configuration, and the weights where the user named the file."""
    if spec.startswith(HUB):
        # A repository of the other kind must be recognised as such, so its configuration is asked for too.
        wanted = [kind.config for kind in _KINDS.values()]
        return fetch_repository(spec, [*wanted, *_KINDS[mel].weights]), None
    path = expanded(spec)
    if not path.exists():
        label, place = published(mel)
        raise CheckpointError(
            f"the vocoder `{spec}` does not exist", hint=f"a folder, a file or {place} ({label} fits this model's mels)"
        )
    return (path, None) if path.is_dir() else (path.parent, path)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _configuration(spec: str, folder: Path, mel: MelKind) -> tuple[MelKind, dict[str, Any]]:
    """Read the configuration in a folder, and tell whose it is."""
    ordered: list[MelKind] = sorted(_KINDS, key=lambda kind: kind != mel)
    for kind in ordered:
        path = folder / _KINDS[kind].config
        if not path.is_file():
            continue
        read = yaml12.read_file if path.suffix == ".yaml" else documents.read_object
        return kind, read(path, error=CheckpointError)
    files = " or ".join(f"`{kind.config}` ({kind.label})" for kind in _KINDS.values())
    raise CheckpointError(f"`{spec}` is not a vocoder: no {files} in `{folder}`", hint="it lies beside the weights")


def _require(key: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise ValueError(f"`{key}` is {value!r}, but this model needs {wanted!r}")


def _vocos(config: Mapping[str, Any], n_mels: int) -> Vocos:
    parts = {}
    for part, name in (
        ("feature_extractor", "MelSpectrogramFeatures"),
        ("backbone", "VocosBackbone"),
        ("head", "ISTFTHead"),
    ):
        _require(f"{part}.class_path", str(config[part]["class_path"]).rpartition(".")[2], name)
        parts[part] = config[part]["init_args"]
    features, backbone, head = parts["feature_extractor"], parts["backbone"], parts["head"]
    # What is left out is upstream's default, the mel of 24 kHz.
    for key, wanted in (("sample_rate", SAMPLE_RATE), ("n_fft", N_FFT), ("hop_length", HOP_LENGTH), ("n_mels", n_mels)):
        _require(f"feature_extractor.{key}", features.get(key, wanted), wanted)
    for part in (features, head):
        _require("padding", part.get("padding", "center" if part is features else "same"), "center")
    _require("backbone.adanorm_num_embeddings", backbone.get("adanorm_num_embeddings"), None)
    for key, wanted in (("n_fft", N_FFT), ("hop_length", HOP_LENGTH), ("dim", backbone["dim"])):
        _require(f"head.{key}", head[key], wanted)
    _require("backbone.input_channels", backbone["input_channels"], n_mels)
    return Vocos(
        VocosConfig(
            n_mels=n_mels,
            dim=int(backbone["dim"]),
            intermediate_dim=int(backbone["intermediate_dim"]),
            num_layers=_layers(backbone["num_layers"]),
            n_fft=N_FFT,
            hop_length=HOP_LENGTH,
            sample_rate=SAMPLE_RATE,
        )
    )


def _layers(number: Any) -> int:
    if not 0 < int(number) <= _MOST_LAYERS:
        raise ValueError(f"`num_layers` is {number!r}")
    return int(number)


def _bigvgan(config: Mapping[str, Any], n_mels: int) -> BigVgan:
    for key, wanted in (
        ("sampling_rate", SAMPLE_RATE),
        ("n_fft", N_FFT),
        ("hop_size", HOP_LENGTH),
        ("win_size", N_FFT),
        ("num_mels", n_mels),
        ("fmin", 0),
        ("activation", "snakebeta"),
    ):
        _require(key, config[key], wanted)
    if config["fmax"] is not None:
        _require("fmax", config["fmax"], SAMPLE_RATE // 2)
    _require("resblock", str(config["resblock"]), "1")
    shape = BigVganConfig(
        n_mels=n_mels,
        initial_channels=int(config["upsample_initial_channel"]),
        upsample_rates=[int(rate) for rate in config["upsample_rates"]],
        upsample_kernels=[int(kernel) for kernel in config["upsample_kernel_sizes"]],
        block_kernels=[int(kernel) for kernel in config["resblock_kernel_sizes"]],
        block_dilations=[[int(step) for step in steps] for steps in config["resblock_dilation_sizes"]],
        log_scale=bool(config["snake_logscale"]),
        final_bias=bool(config.get("use_bias_at_final", True)),
        final_tanh=bool(config.get("use_tanh_at_final", True)),
    )
    product = 1
    for rate in shape.upsample_rates:
        product *= rate
    _require("upsample_rates, multiplied,", product, HOP_LENGTH)
    return BigVgan(shape)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict: bare, or under `generator` as BigVGAN keeps it."""
    contents = read_contents(path)
    refuse_unsafe(contents)
    tree = contents.tree
    if isinstance(tree, Mapping) and isinstance(tree.get("generator"), Mapping):
        tree = tree["generator"]
    if not isinstance(tree, Mapping) or not all(isinstance(value, StoredTensor) for value in tree.values()):
        raise CheckpointError(f"`{path}` is not the state dict of a vocoder")
    read: dict[str, Tensor] = read_tree({str(key): value for key, value in tree.items()})
    try:
        return fold_weight_norm(read)
    except (RuntimeError, IndexError) as error:  # shapes of a magnitude and a direction that do not belong together
        raise CheckpointError(f"the weight norm in `{path}` cannot be folded: {first_line(error)}") from error


def _check_filters(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compare the mel filters that Vocos keeps in its file with ours: equal shapes do not mean an equal mel scale."""
    for key, ours in net.state_dict().items():
        if key.startswith("feature_extractor.") and (ours - tensors[key]).abs().max() > TOLERANCE:
            raise CheckpointError(f"`{path}` was trained on another mel than this model's: `{key}` differs")
