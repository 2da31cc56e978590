"""The losses of raw weights, EMA weights and blends of both on a run's held-out clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttstrain import registry
from ttstrain.contract.data import Batch, Clip
from ttstrain.contract.model import ModelConfig, ResolvedRecipe
from ttstrain.contract.task import Mean, Task
from ttstrain.data import sampler
from ttstrain.data.cache import FeatureCache
from ttstrain.data.location import cache_root
from ttstrain.data.manifest import read_manifest
from ttstrain.errors import DataError
from ttstrain.tensors.loading import load_weights
from ttstrain.train.evaluation_loop import Pieces, evaluate_batches, mean_losses, weighted

BLENDS = (0.0, 0.5, 1.0, 1.5)  # shares k of raw + k (ema - raw): 0 is raw, 1 is EMA
HELD_OUT = Path("data") / "held_out.jsonl"  # in a run's folder


def blend_name(share: float) -> str:
    """Name a blend: `blend 0.5` is halfway between raw and EMA weights."""
    named = {0.0: "online", 1.0: "ema"}
    return named.get(share, f"blend {share:g}")


@dataclass(frozen=True, slots=True)
class Compared:
    """Held-out losses of blends."""

    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    losses: Mapping[float, float]  # share of the EMA weights -> loss
    num_clips: int

    def weights(self, share: float) -> dict[str, Tensor]:
        """Return one blend's tensors; tensors that are not floating-point are the raw weights' own."""
        return _blended(self.raw, self.ema, share)


def compare_blends(
    task: Task,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    recipe: ResolvedRecipe,
    run: Path,
    shares: Sequence[float] = BLENDS,
) -> Compared:
    """Evaluate each blend on the clips that the run held out, with the noise of the run's own evaluations.

    Raises DataError when the recordings are no longer there.
    """
    path = run / HELD_OUT
    clips = read_manifest(path)[: recipe.eval.max_clips] if path.is_file() else []
    if not clips:
        raise DataError(f"`{run}` lists no held-out clips", hint="export without `--compare`")
    batches = _batches(clips, config, recipe)
    losses = {}
    for share in shares:
        load_weights(task.exported(), _blended(raw, ema, share), source=blend_name(share))
        losses[share] = _loss(task, batches)
    return Compared(raw=raw, ema=ema, losses=losses, num_clips=len(clips))


def _blended(raw: Mapping[str, Tensor], ema: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    return {
        key: torch.lerp(tensor.float(), ema[key].float(), share) if tensor.is_floating_point() else tensor
        for key, tensor in raw.items()
    }


def _batches(clips: Sequence[Clip], config: ModelConfig, recipe: ResolvedRecipe) -> list[Pieces]:
    task_data = registry.find_task(recipe.task).data(config)
    cache = FeatureCache(cache_root(recipe.data.cache_dir) / "features", task_data, place="disk")
    report = cache.build(clips)
    if report.failed:
        clip, why = next(iter(report.failed.items()))
        raise DataError(f"the held-out clip `{clip}` cannot be read: {why}", hint="export without `--compare`")
    lengths = [task_data.length(clip) for clip in clips]
    chosen = sampler.in_order(lengths, budget=recipe.data.batch_frames, max_clips=recipe.data.max_clips)
    return [[task_data.collate([task_data.example(clips[i], cache.get(clips[i])) for i in batch])] for batch in chosen]


def _loss(task: Task, batches: Sequence[Pieces]) -> float:
    def losses(batch: Batch, generator: torch.Generator) -> dict[str, Mean]:
        return weighted(task.evaluate(batch, generator), batch.weight)

    cpu = torch.device("cpu")
    return mean_losses(evaluate_batches(task, batches, losses, device=cpu), device=cpu)["total"]
