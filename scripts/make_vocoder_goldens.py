"""Make tests/parity/data/vocoders.safetensors: what the published code of Vocos and BigVGAN makes of a small mel.

Run it where `vocos` and `bigvgan` from PyPI are installed; ttstrain is not needed, and no weights are downloaded:

    python scripts/make_vocoder_goldens.py tests/parity/data/vocoders.safetensors

The nets are small and their weights follow a recipe, `recipe_weights`, which the test follows too.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NUM_FRAMES = 9
VOCOS: dict[str, Any] = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"},
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {"input_channels": 100, "dim": 48, "intermediate_dim": 96, "num_layers": 3},
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": 48, "n_fft": 1024, "hop_length": 256, "padding": "center"},
    },
}
# The 24 kHz generator of BigVGAN v2 with fewer channels.
BIGVGAN: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 128,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
    "activation": "snakebeta",
    "snake_logscale": True,
    "num_mels": 100,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 24000,
    "fmin": 0,
    "fmax": None,
}


def noise(shape: Iterable[int], *, seed: int) -> Tensor:
    """Return numbers in [-1, 1) that depend on nothing but arithmetic in double precision."""
    shape = tuple(shape)
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    values = torch.sin((steps + 1) * 12.9898 + 78.233 * (seed + 1)) * 43758.5453
    return ((values - values.floor()) * 2 - 1).float().reshape(shape)


def recipe_weights(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """Fill a state dict of these shapes, except for fixed filters and windows: they stay as the code makes them."""
    filled = {}
    for seed, key in enumerate(sorted(shapes)):
        shape = tuple(shapes[key])
        if key.endswith(("filter", "window", "fb")):
            continue
        values = noise(shape, seed=seed)
        if key.endswith("weight_g"):  # small enough that the sum of residuals is not clamped
            values = 0.25 * (1 + 0.3 * values)
        elif key.endswith(("gamma", "norm.weight")):
            values = 1 + 0.3 * values
        elif len(shape) > 1:
            values = values * (3 / math.prod(shape[1:])) ** 0.5
        else:
            values = 0.2 * values
        filled[key] = values
    return filled


def log_mel(*, seed: int) -> Tensor:
    """Return a log-mel (1, 100, n) with values as speech has them."""
    return 4 * noise((1, 100, NUM_FRAMES), seed=seed) - 4


def main(target: Path) -> None:
    import bigvgan
    from safetensors.torch import save_file
    from vocos.pretrained import Vocos, instantiate_class

    vocos = Vocos(*(instantiate_class((), VOCOS[part]) for part in ("feature_extractor", "backbone", "head")))
    generator = bigvgan.BigVGAN(bigvgan.AttrDict(BIGVGAN))
    tensors, metadata = {}, {}
    for name, net in (("vocos", vocos), ("bigvgan", generator)):
        shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
        left = net.load_state_dict(recipe_weights(shapes), strict=False)
        assert not left.unexpected_keys and all(k.endswith(("filter", "window", "fb")) for k in left.missing_keys)
        mel = log_mel(seed=len(name))
        with torch.no_grad():
            wav = net.eval().decode(mel) if name == "vocos" else net.eval()(mel)[:, 0]
        tensors[name] = wav[0].contiguous()
        fixed = next(key for key in left.missing_keys if not key.endswith("fb"))
        tensors[f"{name}/{fixed}"] = net.state_dict()[fixed].clone()
        metadata[f"{name}_shapes"] = json.dumps(shapes)
        print(f"{name}: {len(shapes)} tensors, {len(wav[0])} samples, rms {float(wav.square().mean().sqrt()):.4f}")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata=metadata)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
