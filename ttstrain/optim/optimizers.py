"""The optimizers of a run, by name: sets LRs, measures and clips gradients, updates weights, keeps optimizer state.

The LR is written into the parameter groups right before the update and read back from there; it is never stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ttstrain.errors import CheckpointError
from ttstrain.optim.groups import GradClip, Group, GroupTable
from ttstrain.optim.kinds import make
from ttstrain.optim.measured import Moves, measure_in_pieces, measure_whole
from ttstrain.optim.new_embeddings import NewEmbeddings
from ttstrain.optim.part import Part
from ttstrain.optim.stages import Curriculum, Stage, check_groups
from ttstrain.optim.without_schedule import check_never_frozen
from ttstrain.tensors import sharded
from ttstrain.tensors.host_copy import zeros_on_host

NO_FACTORS: Mapping[str, float] = {}
_NORM_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
_RESET_HINT = "resume with fresh optimizer state: `ttstrain resume --reset-optimizer`"


@dataclass(frozen=True, slots=True)
class GradNorms:
    """2-norms of one optimizer's gradients, on their device."""

    total: Tensor  # ()
    groups: Mapping[str, Tensor]  # group -> ()


@dataclass(slots=True)
class _Optimizer:
    """One name's torch optimizers and parameters."""

    parts: list[Part]
    max_grad_norm: float | None  # of the groups without a clip of their own
    clips: dict[str, GradClip]  # group -> its own
    names: dict[str, tuple[nn.Parameter, Part]]  # parameter's name -> the parameter and its torch optimizer
    groups: dict[str, list[nn.Parameter]]  # group -> its parameters, with and without weight decay
    frozen: frozenset[str] = frozenset()  # groups that are frozen in this update
    waiting: dict[str, list[str]] = field(default_factory=dict)  # group -> names of what had no gradient so far
    updates: Counter[str] = field(default_factory=Counter)  # of groups that hold such parameters

    @property
    def live(self) -> dict[str, list[nn.Parameter]]:
        """The groups that this update trains."""
        return {name: own for name, own in self.groups.items() if name not in self.frozen}

    def clipped(self) -> list[tuple[float | None, list[str]]]:
        """List the norms to clip to, each with the live groups that are clipped together."""
        scopes: dict[GradClip | None, list[str]] = {}
        for name in self.live:
            scopes.setdefault(self.clips.get(name), []).append(name)
        return [(self.max_grad_norm if clip is None else clip.max_grad_norm, own) for clip, own in scopes.items()]

    def look_for_gradients(self) -> None:
        """Note which parameters have a gradient for the first time."""
        for group in [group for group in self.waiting if group not in self.frozen]:
            self.updates[group] += 1
            self.waiting[group] = [name for name in self.waiting[group] if self.names[name][0].grad is None]
            if not self.waiting[group]:
                del self.waiting[group]

    @property
    def parameters(self) -> Iterator[nn.Parameter]:
        return chain.from_iterable(self.groups.values())

    def torch_groups(self) -> Iterator[tuple[Group, dict[str, Any], Part]]:
        """Pair each group with the dict that torch's optimizer reads, and its part."""
        for part in self.parts:
            for group, torch_group in zip(part.groups, part.optimizer.param_groups, strict=True):
                yield group, torch_group, part


class Optimizers:
    """All optimizers of a run. A `Stateful`: its state is the optimizer state, by parameter name."""

    def __init__(
        self,
        table: GroupTable,
        parts: Mapping[str, list[Part]],
        *,
        curriculum: Curriculum,
        new_embeddings: NewEmbeddings | None = None,
    ) -> None:
        self.table = table
        self.new_embeddings = new_embeddings
        self._new_embeddings_alone = False
        self.curriculum = curriculum
        self._optimizers = {name: _index(own, table.settings[name].max_grad_norm) for name, own in parts.items()}
        self.set_lr(0)

    @classmethod
    def build(
        cls,
        table: GroupTable,
        *,
        total_steps: int,
        steps_per_epoch: float,
        seed: int = 0,
        new_embeddings: NewEmbeddings | None = None,
    ) -> Self:
        """Build every optimizer of the table for a run of one part. The parameters must be on their device already."""
        whole = Curriculum([Stage("", steps=total_steps, steps_per_epoch=steps_per_epoch)])
        return cls.build_staged(table, curriculum=whole, seed=seed, new_embeddings=new_embeddings)

    @classmethod
    def build_staged(
        cls, table: GroupTable, *, curriculum: Curriculum, seed: int, new_embeddings: NewEmbeddings | None = None
    ) -> Self:
        """Build every optimizer of the table; which groups train, and at which LR, also depends on the stage.

        `seed` is that of stochastic rounding, the same on every process of a run.
        Raises RecipeError for a stage that names a group which is not there, or one that its optimizer cannot freeze.
        """
        check_groups(curriculum.stages, table.groups)
        parts = {
            name: make(
                [group for group in table.groups if group.optimizer == name],
                settings,
                embeddings=table.embeddings,
                seed=seed,
            )
            for name, settings in table.settings.items()
        }
        for part in chain.from_iterable(parts.values()):
            if part.schedule_free:
                check_never_frozen(part.groups, curriculum.stages)
        return cls(table, parts, curriculum=curriculum, new_embeddings=new_embeddings)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._optimizers)

    # ------------------------------------------------------------ learning rate

    def set_lr(self, step: int, *, factor: float = 1.0, factors: Mapping[str, float] = NO_FACTORS) -> dict[str, float]:
        """Write the LR of the update after `step` finished ones into every parameter group.

        `factor` is that of all groups; `factors` maps `<optimizer>/<group>` to one more. Also decides which groups are
        frozen in that update; their LR is 0. Returns `<optimizer>/<group>` -> LR.
        """
        for optimizer in self._optimizers.values():
            for group, torch_group, part in optimizer.torch_groups():
                planned = self._planned(group, step, factor=factor * factors.get(group.key, 1.0))
                torch_group["lr"] = planned if part.found_lr is None else planned / group.lr
            optimizer.frozen = frozenset(
                group.name for group, _, _ in optimizer.torch_groups() if self._is_frozen(group, step)
            )
        if self.new_embeddings is not None:
            self._enter_stage(self.new_embeddings, step)
        return self.logged_lrs()

    def _enter_stage(self, new_embeddings: NewEmbeddings, step: int) -> None:
        self._new_embeddings_alone = step < new_embeddings.steps
        if not self._new_embeddings_alone and not new_embeddings.over:
            for optimizer in self._optimizers.values():
                for parameter, part in optimizer.names.values():
                    if any(parameter is table for table in new_embeddings.tables.values()):
                        part.optimizer.state.pop(parameter, None)
        new_embeddings.over = not self._new_embeddings_alone

    def lr_of(self, group: Group, step: int, *, factor: float = 1.0) -> float:
        """Return a group's LR for the update after `step` finished ones; 0 while it is frozen.

        Where the optimizer finds its LR, that is the one found so far, times the schedule's factor.
        """
        planned = self._planned(group, step, factor=factor)
        for own, torch_group, part in self._optimizers[group.optimizer].torch_groups():
            if own is group and part.found_lr is not None:
                return planned / group.lr * float(torch_group[part.found_lr])
        return planned

    def _planned(self, group: Group, step: int, *, factor: float) -> float:
        """Return the LR that the plan sets; for an optimizer that finds its LR, the factor of what it finds."""
        if self._is_frozen(group, step):
            return 0.0
        return factor * self.curriculum.lr_of(group, step)

    def _is_frozen(self, group: Group, step: int) -> bool:
        return group.frozen_at(step) or not self.curriculum.at(step).stage.trains(group)

    def logged_lrs(self) -> dict[str, float]:
        """Read `<optimizer>/<group>` -> LR from the parameter groups, where the next update takes it from."""
        return {
            group.key: float(torch_group["lr"]) * (1.0 if part.found_lr is None else float(torch_group[part.found_lr]))
            for optimizer in self._optimizers.values()
            for group, torch_group, part in optimizer.torch_groups()
        }

    # ------------------------------------------------------------ one update

    def params(self, name: str) -> list[Tensor]:
        """List the parameters that this update trains."""
        return list(chain.from_iterable(self._optimizers[name].live.values()))

    def mask(self) -> None:
        """Zero the gradients of old embeddings while only new ones train; call after summing and before measuring."""
        if self._new_embeddings_alone and self.new_embeddings is not None:
            self.new_embeddings.mask_gradients()

    def norms(self, name: str) -> GradNorms:
        """Measure the gradients of this update's parameters, each once, without waiting for the device."""
        live = self._optimizers[name].live
        gradients = {group: [p.grad for p in own if p.grad is not None] for group, own in live.items()}
        every = list(chain.from_iterable(gradients.values()))
        if not every:
            zero = torch.zeros((), device=next(self._optimizers[name].parameters).device)
            return GradNorms(total=zero, groups=dict.fromkeys(live, zero))
        norms = sharded.norms(every)  # (tensors,)
        parts = torch.split(norms, [len(own) for own in gradients.values()])
        return GradNorms(
            total=torch.linalg.vector_norm(norms),
            groups={group: torch.linalg.vector_norm(part) for group, part in zip(gradients, parts, strict=True)},
        )

    def grad_norms(self, name: str) -> dict[str, Tensor]:
        """Return group -> norm of its gradients."""
        return dict(self.norms(name).groups)

    @torch.no_grad()
    def clip(self, name: str, *, norms: GradNorms | None = None) -> Tensor:
        """Scale the gradients down to the optimizer's `max_grad_norm`, those of groups that have one of their own to
        that; return the total norm of all before.

        `norms` saves measuring them again. A norm that is not finite makes the clipped gradients non-finite:
        check the total before `step`.
        """
        optimizer = self._optimizers[name]
        norms = self.norms(name) if norms is None else norms
        scopes = optimizer.clipped()
        for max_norm, groups in scopes:
            every = [p for group in groups for p in optimizer.groups[group]]
            gradients = [sharded.held(p.grad) for p in every if p.grad is not None]
            if max_norm is None or not gradients:
                continue
            alone = len(scopes) == 1
            norm = norms.total if alone else torch.linalg.vector_norm(torch.stack([norms.groups[g] for g in groups]))
            factor = torch.clamp(max_norm / (norm + _NORM_EPS), max=1.0)
            if not (factor.is_cpu and factor == 1.0):  # reading it costs nothing here, multiplying by one does
                torch._foreach_mul_(gradients, factor)
        return norms.total

    def step(self, name: str) -> None:
        """Update the weights. Frozen groups keep weights and optimizer state, whatever their gradients, and so do old
        embeddings while only new ones train.
        """
        optimizer = self._optimizers[name]
        _drop_frozen(optimizer)
        optimizer.look_for_gradients()
        alone = self.new_embeddings if self._new_embeddings_alone else None
        with nullcontext() if alone is None else alone.old_rows_kept():
            for part in optimizer.parts:
                part.optimizer.step()

    def measured_step(self, name: str) -> dict[str, Tensor]:
        """Like `step`, but return group -> norm of the change over norm of the weights before.

        Copies weights: all of them if updates depend on each other, else a few at a time.
        """
        optimizer, moves = self._optimizers[name], Moves()
        if self._new_embeddings_alone or not all(part.apart for part in optimizer.parts):
            measure_whole(optimizer.groups, lambda: self.step(name), moves)
            return moves.ratios()
        _drop_frozen(optimizer)
        optimizer.look_for_gradients()
        for part in optimizer.parts:
            measure_in_pieces(part, moves)
        return moves.ratios()

    def take_without_gradient(self, *, after: int) -> list[str]:
        """Name the parameters that had no gradient in the first `after` updates of their group, each once.

        Counts from when this object was made, and only updates that train the group.
        """
        found: list[str] = []
        for optimizer in self._optimizers.values():
            for group in [group for group in optimizer.waiting if optimizer.updates[group] >= after]:
                found += optimizer.waiting.pop(group)
        return found

    def zero_grad(self, name: str) -> None:
        """Drop the gradients of every parameter, frozen ones too."""
        for parameter in self._optimizers[name].parameters:
            parameter.grad = None

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put schedule-free optimizers' evaluation weights into the model; does nothing for other optimizers."""
        parts = [part for own in self._optimizers.values() for part in own.parts if part.schedule_free]
        before = [[(p, p.detach().clone()) for group in part.groups for p in group.parameters] for part in parts]
        for part in parts:
            package_optimizer: Any = part.optimizer
            package_optimizer.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for part, saved in zip(parts, before, strict=True):
                    for parameter, weights in saved:
                        parameter.copy_(weights)  # switching back as the package does would round
                    for torch_group in part.optimizer.param_groups:
                        torch_group["train_mode"] = True

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return optimizer -> parameter's name -> its live optimizer state; empty before its first step."""
        return {
            name: {key: _state_of(parameter, part) for key, (parameter, part) in optimizer.names.items()}
            for name, optimizer in self._optimizers.items()
        }

    def misfit(self, state_dict: Mapping[str, Any], /) -> str | None:
        """Return why optimizer state is of another kind of optimizer; None if all of it fits this run's."""
        for name, optimizer in self._optimizers.items():
            for key, (_, part) in optimizer.names.items():
                saved = set(state_dict[name][key])
                if saved and not part.state_keys <= saved <= part.known_keys:
                    kind = type(part.optimizer).__name__
                    return f"the file's is of another kind of optimizer than {kind}"
        return None

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Restore the optimizer state. LR, weight decay and betas stay the plan's.

        Raises CheckpointError, before it changes anything, when the parameters or the kind of optimizer differ.
        """
        _same_names("set of optimizers", state_dict, self._optimizers)
        for name, optimizer in self._optimizers.items():
            _same_names(f"optimizer state of `{name}`", state_dict[name], optimizer.names)
            for key, (parameter, part) in optimizer.names.items():
                _check(key, state_dict[name][key], parameter, part)
        for name, optimizer in self._optimizers.items():
            for part in optimizer.parts:
                _reset_scalars(part)
            for key, (parameter, part) in optimizer.names.items():
                _restore(state_dict[name][key], parameter, part)


def _index(parts: list[Part], max_grad_norm: float | None) -> _Optimizer:
    names: dict[str, tuple[nn.Parameter, Part]] = {}
    groups: dict[str, list[nn.Parameter]] = {}
    for part in parts:
        for group in part.groups:
            groups.setdefault(group.name, []).extend(group.parameters)
            for name, parameter in zip(group.names, group.parameters, strict=True):
                names[name] = (parameter, part)
    clips = {group.name: group.clip for part in parts for group in part.groups if group.clip is not None}
    waiting: dict[str, list[str]] = {}
    for group in chain.from_iterable(part.groups for part in parts):
        waiting.setdefault(group.name, []).extend(group.names)
    return _Optimizer(parts, max_grad_norm, clips, names, groups, waiting=waiting)


def _drop_frozen(optimizer: _Optimizer) -> None:
    """Remove the gradients of frozen groups, so that no optimizer updates them."""
    for group in optimizer.frozen:
        for parameter in optimizer.groups[group]:
            parameter.grad = None


def _state_of(parameter: nn.Parameter, part: Part) -> dict[str, Any]:
    state = {key: value for key, value in part.optimizer.state.get(parameter, {}).items() if value is not None}
    if state and part.scalars:
        torch_group = _torch_group(parameter, part)
        state |= {key: torch_group[key] for key in part.scalars}
    return state


def _torch_group(parameter: nn.Parameter, part: Part) -> dict[str, Any]:
    return next(group for group in part.optimizer.param_groups if any(parameter is own for own in group["params"]))


def _same_names(what: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    missing, unexpected = [key for key in wanted if key not in saved], [key for key in saved if key not in wanted]
    if missing or unexpected:
        parts = {"missing": missing, "unexpected": unexpected}
        found = [f"{len(keys)} {word}, such as `{keys[0]}`" for word, keys in parts.items() if keys]
        raise CheckpointError(f"the {what} does not fit this run: {'; '.join(found)}", hint=_RESET_HINT)


def _check(name: str, saved: Mapping[str, Any], parameter: nn.Parameter, part: Part) -> None:
    if not saved:
        return
    if not part.state_keys <= set(saved) <= part.known_keys:
        raise CheckpointError(
            f"the saved state of `{name}` is {', '.join(sorted(saved))}, but {type(part.optimizer).__name__} keeps "
            f"{', '.join(sorted(part.state_keys)) or 'none'}",
            hint=_RESET_HINT,
        )
    for key in part.state_keys - {"step"}:
        if saved[key].shape not in (parameter.shape, sharded.held(parameter).shape):
            raise CheckpointError(
                f"`{key}` of `{name}` has shape {tuple(saved[key].shape)}, the parameter {tuple(parameter.shape)}",
                hint=_RESET_HINT,
            )


def _reset_scalars(part: Part) -> None:
    """Reset what a package counts per torch group, which a state from before the first step lacks."""
    for torch_group in part.optimizer.param_groups:
        torch_group.update({key: part.optimizer.defaults[key] for key in part.scalars})


@torch.no_grad()
def _restore(saved: Mapping[str, Any], parameter: nn.Parameter, part: Part) -> None:
    """Copy, never alias: a snapshot must survive the steps that follow its use."""
    present = part.optimizer.state.pop(parameter, {})
    if not saved:
        return
    scalars = {key: saved[key] for key in part.scalars}
    every = part.optimizer.param_groups
    for torch_group in () if not scalars else (_torch_group(parameter, part),) if part.found_lr is None else every:
        torch_group.update(scalars)
    part.optimizer.state[parameter] = {
        key: _copied(key, value, present.get(key), parameter, part)
        for key, value in saved.items()
        if key not in scalars
    }


def _copied(key: str, value: Any, present: Any, parameter: nn.Parameter, part: Part) -> Any:
    if not isinstance(value, Tensor):
        return value
    if isinstance(present, Tensor) and present.dtype == value.dtype:
        rows = sharded.cut(value, present)
        if rows.shape == sharded.held(present).shape:
            sharded.held(present).copy_(rows)
            return present
    if key == "step" and not (part.optimizer.defaults.get("fused") and parameter.is_cuda):
        return value.detach().to("cpu", copy=True)  # torch keeps the count on the host unless the kernel reads it
    trained = sharded.held(parameter)
    if value.shape in (parameter.shape, trained.shape):
        if part.on_host:
            return zeros_on_host(trained, dtype=value.dtype).copy_(value)
        fresh = torch.empty_like(trained, dtype=value.dtype)  # memory laid out as the parameter's
        return sharded.like_own(fresh.copy_(sharded.cut(value, parameter)), parameter)
    return value.detach().to(parameter.device, copy=True)
