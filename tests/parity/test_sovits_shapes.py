"""What plans count is what upstream's nets hold: names and shapes at every official size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ttstrain.families.gpt_sovits.config import GptNetConfig, VaeNetConfig, Version
from ttstrain.families.gpt_sovits.shapes import discriminator_shapes, generator_shapes, gpt_shapes

CODEBOOK = "quantizer.vq.layers.0._codebook."  # buffers


def specification(fixtures_dir: Path, name: str) -> dict[str, Any]:
    path = fixtures_dir / "key_specs" / f"{name}.json.gz"
    if not path.is_file():
        pytest.skip(f"the compact fixtures hold no {name}")
    with gzip.open(path, "rt") as file:
        found: dict[str, Any] = json.load(file)
    return found


def our_vae(upstream: dict[str, Any], **more: Any) -> VaeNetConfig:
    ours = {name: upstream[name] for name in VaeNetConfig.model_fields if name in upstream}
    return VaeNetConfig.model_validate({**ours, **more})


@pytest.mark.parametrize("name", ["s1_s1longer", "s1_s1longer-v2"])
def test_gpt_has_the_published_parameters(fixtures_dir: Path, name: str) -> None:
    spec = specification(fixtures_dir, name)
    config = GptNetConfig(phoneme_vocab_size=spec["config"]["phoneme_vocab_size"])
    expected = {f"gpt.{key.removeprefix('model.')}": tuple(shape) for key, (shape, _) in spec["tensors"].items()}
    assert gpt_shapes(config) == expected


@pytest.mark.parametrize("version", ["v1", "v2", "v2Pro", "v2ProPlus"])
def test_generator_has_the_published_parameters(fixtures_dir: Path, version: Version) -> None:
    spec = specification(fixtures_dir, f"s2G_{version}")
    expected = {
        f"vae.{key}": tuple(shape) for key, (shape, _) in spec["tensors"].items() if not key.startswith(CODEBOOK)
    }
    config = our_vae(spec["config"]["model"], freeze_quantizer=False)
    assert generator_shapes(config, version) == expected
    frozen = our_vae(spec["config"]["model"])
    assert set(expected) - set(generator_shapes(frozen, version)) == {"vae.ssl_proj.weight", "vae.ssl_proj.bias"}


@pytest.mark.parametrize("version", ["v2", "v2Pro"])
def test_discriminator_has_the_published_parameters(fixtures_dir: Path, version: Version) -> None:
    spec = specification(fixtures_dir, f"s2D_{version}")
    expected = {f"discriminator.{key}": tuple(shape) for key, (shape, _) in spec["tensors"].items()}
    assert discriminator_shapes(VaeNetConfig(), version) == expected
