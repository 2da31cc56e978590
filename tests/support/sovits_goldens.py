"""The VAE's golden fixtures, `s2_v2` and `s2_v2Pro`, as our own nets and batches."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.contract.task import Loss
from ttstrain.families.gpt_sovits.batch import SovitsBatch, num_tokens
from ttstrain.families.gpt_sovits.config import FeaturesConfig, VaeConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.vae.task import VaeTask
from ttstrain.families.gpt_sovits.vae.training import starts_at, vae_losses
from ttstrain.modules.dropout import Dropout

PREFIXES = {"G": "vae", "D": "discriminator"}


class PinnedTask(VaeTask):
    """Takes its noise from a fixture, one tensor for each step."""

    noises: Iterator[Tensor]

    def losses(self, batch: SovitsBatch) -> Iterator[Loss]:
        yield from vae_losses(self.parts, batch, updates="generator", noise=next(self.noises))

    def draw(self, batch: SovitsBatch) -> SovitsBatch:
        return batch


@dataclass(frozen=True)
class Golden:
    """One fixture folder."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config")

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        return load_file(self.folder / "expected.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())

    def net_config(self, **changes: Any) -> VaeNetConfig:
        model = self.config["model"]
        ours = {name: model[name] for name in VaeNetConfig.model_fields if name in model}
        return VaeNetConfig.model_validate({**ours, "segment_size": self.config["train"]["segment_size"], **changes})

    def task(self, **changes: Any) -> PinnedTask:
        """Build both nets with the fixture's weights and without dropout, in training mode."""
        config = VaeConfig(
            version=self.config["model"]["version"],
            features=FeaturesConfig(quantizer="the fixture's own"),
            vae=self.net_config(**changes),
        )
        with torch.device("meta"):
            task = PinnedTask(config)
        task.to_empty(device="cpu")
        task.spectrograms = type(task.spectrograms)()  # its tables are not among the weights
        weights = {key: tensor for net in PREFIXES for key, tensor in self.weights(net).items()}
        task.load_state_dict(weights, strict=True)
        for module in task.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        return task

    def weights(self, net: str) -> dict[str, Tensor]:
        recipe = _golden_recipe(self.folder.parent)
        seed = self.config[f"recipe_seed_{net}"]
        return {
            f"{PREFIXES[net]}.{key}": torch.from_numpy(recipe.recipe(key, shape, seed))
            for key, (shape, _) in self.json("state_dict_spec")[net].items()
        }

    def batch(self, *, draw: str = "draw", codes: Tensor | None = None) -> SovitsBatch:
        """Return the fixture's batch with the pieces of one draw."""
        given = self.inputs
        frames = tuple(given["spec_lengths"].tolist())
        batch = SovitsBatch(
            ids=tuple(str(i) for i in range(len(frames))),
            weight=float(len(frames)),
            num_frames=sum(frames),
            num_padded=given["spec"].shape[2] * len(frames),
            phones=given["text"],
            phone_lengths=tuple(given["text_lengths"].tolist()),
            bert=None,
            codes=self.expected["codes"][:, 0] if codes is None else codes,
            code_lengths=tuple(map(num_tokens, frames)),
            wav=given["wav"][:, 0],
            wav_lengths=tuple(given["wav_lengths"].tolist()),
            frame_lengths=frames,
            ssl=given["ssl"],
            speaker=given.get("sv_emb"),
        )
        return replace(batch, segment_starts=starts_at(given[f"{draw}.rand"], batch, self.net_config()))


def goldens(fixtures_dir: Path, name: str) -> Golden:
    """Open a fixture, or skip where only the compact ones are."""
    if not (fixtures_dir / name).is_dir():
        pytest.skip(f"the compact fixtures hold no {name}")
    return Golden(fixtures_dir / name)


def _golden_recipe(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("golden_recipe", folder / "golden_recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(weights: Mapping[str, Tensor], golden: Golden, net: str) -> list[str]:
    """List the tensors whose sums are not those that the fixture was made with."""
    recipe = _golden_recipe(golden.folder.parent)
    wrong = []
    for key, (shape, total, size) in golden.json("weights_check")[net].items():
        found = recipe.check_entry(weights[f"{PREFIXES[net]}.{key}"].numpy())
        if found[0] != shape or abs(found[1] - total) > 1e-6 * max(1.0, size) or abs(found[2] - size) > 1e-6 * size:
            wrong.append(key)
    return wrong
