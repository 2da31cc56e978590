"""Whether the base is in the net, and whether the EMA follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights, OpenedCheckpoint
from ttstrain.modules import lora
from ttstrain.optim.ema import Ema
from ttstrain.prove.finding import Finding
from ttstrain.tensors.tensorfile import StoredTensor
from ttstrain.train.run import Run

MOST_SCALARS = 20_000_000  # of the tensors whose average is computed a second time
ROUNDING = 1e-4  # of the largest weight; the two sums run in another order


def check_base(run: Run, base: OpenedCheckpoint | None) -> Finding:
    """Compare every weight of the net with the base's file, tensor by tensor, before the first step."""
    if base is None:
        return Finding("base", "skipped", "the recipe has no `base`: every weight is newly initialized")
    fitted = run.task.fitted(base)
    own = {lora.plain_name(key): tensor for key, tensor in run.task.state_dict().items() if not lora.is_adapter(key)}
    differing = [name for name in own if not _is_from(fitted, name, own[name])]
    numbers = {"tensors": len(own), "differing": len(differing)}
    if differing:
        return Finding(
            "base",
            "FAULT",
            f"{len(differing)} of {len(own)} tensors of the net are not those of `{base.title}`, such as "
            f"`{differing[0]}`: the base was not loaded",
            numbers,
        )
    if run.ema is not None and (apart := _apart(run.ema, run.task.exported())):
        return Finding("base", "FAULT", f"the EMA does not start from the base: `{apart}` differs", numbers)
    return Finding("base", "ok", f"{len(own)} tensors of the net equal those of `{base.title}`", numbers)


def _is_from(fitted: AdaptedWeights, name: str, own: Tensor) -> bool:
    stored = fitted.weights.get(name)
    if stored is None or tuple(stored.shape) != tuple(own.shape):
        return False
    tensor = stored.read() if isinstance(stored, StoredTensor) else stored
    found, wanted = own.detach().cpu(), tensor.detach().cpu().to(own.dtype)
    if new := fitted.new_embeddings.get(name):  # rows of tokens that the base does not have
        old = torch.ones(len(found), dtype=torch.bool)
        old[list(new)] = False
        found, wanted = found[old], wanted[old]
    return torch.equal(found, wanted)


def _apart(ema: Ema, module: nn.Module) -> str | None:
    """Name a tensor of which the average is another than the module's own; None where all are equal."""
    own = module.state_dict()
    average = ema.state_dict()["weights"]
    return next((key for key in own if not torch.equal(average[key].to(own[key].dtype), own[key])), None)


class EmaRecord:
    """Averages some weights step by step beside the run's own EMA, by the formula that the recipe documents."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._average = {name: tensor.detach().float().clone() for name, tensor in self._watched()}
        self.updates = 0

    def _watched(self) -> Iterator[tuple[str, Tensor]]:
        room = MOST_SCALARS
        for name, parameter in self._run.task.exported().named_parameters():
            if parameter.requires_grad and parameter.numel() <= room:
                room -= parameter.numel()
                yield name, parameter

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after one more step."""
        settings, decay = self._run.plan.recipe.ema, self._run.plan.ema_decay
        step = self._run.progress.step
        if decay is None or (step > settings.start_step and step % settings.every):
            return
        n = step - settings.start_step
        # TensorFlow's ExponentialMovingAverage: min(decay, (1 + n) / (10 + n))
        kept = 0.0 if n <= 0 else min(decay, (1 + n) / (10 + n)) ** settings.every
        self.updates += 1
        for name, tensor in self._watched():
            self._average[name].mul_(kept).add_(tensor.detach().float(), alpha=1 - kept)

    def check(self) -> Finding:
        """Compare the run's EMA with these averages and with the weights themselves."""
        run = self._run
        if not run.plan.recipe.ema.enabled:
            return Finding("ema", "skipped", "`ema.enabled: false`: there is no average")
        if run.ema is None:
            return Finding("ema", "FAULT", "the recipe asks for an EMA, and the run has none")
        if not self.updates:
            return Finding("ema", "skipped", f"no update in the first steps: `ema.every: {run.plan.recipe.ema.every}`")
        kept: Mapping[str, Tensor] = run.ema.state_dict()["weights"]
        gaps = {name: _gap(kept[name], average) for name, average in self._average.items()}
        worst = max(gaps, key=lambda name: gaps[name])
        numbers = {"updates": self.updates, "tensors": len(gaps), "difference": gaps[worst]}
        if gaps[worst] > ROUNDING:
            return Finding(
                "ema",
                "FAULT",
                f"after {self.updates} updates the EMA of `{worst}` is off by {gaps[worst]:.2g} of its size: it is "
                "not updated as the recipe says",
                numbers,
            )
        return Finding("ema", "ok", f"{self.updates} updates, equal to the formula computed a second time", numbers)


def _gap(found: Tensor, wanted: Tensor) -> float:
    size = float(wanted.abs().max())
    return float((found.detach().float() - wanted).abs().max()) / max(size, 1e-12)
