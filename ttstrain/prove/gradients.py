"""Which term of which loss reaches which parameter group, and whether the terms add up to what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ttstrain.contract.proof import Proof
from ttstrain.contract.task import Loss
from ttstrain.modules import lora
from ttstrain.prove.finding import Finding
from ttstrain.train.run import Run

SEED = 20_250_612
OFF = {"cpu": 1e-5, "cuda": 1e-3}  # of the loss: terms that are summed in another order, or in TF32, differ by less
SHOWN = 3


@dataclass(slots=True)
class Reached:
    """Gradient norms by term and group, and the parameters that some term reaches."""

    norms: dict[str, dict[str, float]] = field(default_factory=dict)  # term -> group -> norm
    parameters: set[str] = field(default_factory=set)


def check_gradients(
    run: Run, proof: Proof | None, batch: object, *, trained: bool
) -> tuple[list[Finding], list[list[str]]]:
    """Return the findings and the table of gradient norms; `trained` says that the net is past its first steps."""
    drawn = _drawn(run, batch)
    losses = _losses(run, drawn)
    torch.manual_seed(SEED)
    terms = proof.terms(drawn) if proof is not None else {loss.label: {loss.label: loss.value} for loss in losses}
    findings = [_check_sums(losses, terms, off=OFF[run.device.type])]
    reached = _reach(run, terms)
    idle = {} if proof is None else proof.idle(drawn)
    findings.append(_check_reach(run, reached, idle, trained=trained))
    return findings, _table(run, reached)


def _drawn(run: Run, batch: object) -> object:
    torch.manual_seed(SEED)
    drawn = run.task.draw(batch)
    return drawn.to(run.device)


def _losses(run: Run, drawn: object) -> list[Loss]:
    run.task.eval()
    torch.manual_seed(SEED)
    return list(run.task.losses(drawn))


# ---------------------------------------------------------------- the sum


def _check_sums(losses: Sequence[Loss], terms: Mapping[str, Mapping[str, Tensor]], *, off: float) -> Finding:
    values = {loss.label: float(loss.value.detach()) for loss in losses}
    numbers = {label: {name: float(term.detach()) for name, term in parts.items()} for label, parts in terms.items()}
    if missing := [label for label in terms if label not in values]:
        return Finding("terms", "FAULT", f"the loss `{missing[0]}` is not trained: it is never yielded", numbers)
    if unknown := [label for label in values if label not in terms]:
        return Finding("terms", "FAULT", f"the loss `{unknown[0]}` is trained, and no definition has it", numbers)
    for label, parts in numbers.items():
        total, value = sum(parts.values()), values[label]
        if abs(total - value) > off * max(abs(total), abs(value), 1e-6):
            return Finding("terms", "FAULT", _mismatch(label, parts, value, off=off), numbers)
    named = ", ".join(name for parts in terms.values() for name in parts)
    return Finding("terms", "ok", f"the trained losses are the sums of their terms: {named}", numbers)


def _mismatch(label: str, parts: Mapping[str, float], value: float, *, off: float) -> str:
    total = sum(parts.values())
    said = f"the loss `{label}` is {value:.6g}, but its terms add up to {total:.6g}"
    gap = total - value
    lost = [name for name, part in parts.items() if part and abs(gap - part) < off * max(abs(total), abs(part))]
    return f"{said}: the term `{lost[0]}` is left out" if lost else said


# ---------------------------------------------------------------- the reach


def _reach(run: Run, terms: Mapping[str, Mapping[str, Tensor]]) -> Reached:
    groups = _by_group(run)
    trained = {
        lora.plain_name(name): parameter for name, parameter in run.task.named_parameters() if parameter.requires_grad
    }
    owner = {name: key for key, names in groups.items() for name in names}
    reached = Reached()
    flat = [(name, term) for parts in terms.values() for name, term in parts.items()]
    for name, term in flat:
        gradients = _gradients(term, trained.values())
        sums = dict.fromkeys(groups, 0.0)
        for parameter, size in zip(trained, _sizes(gradients), strict=True):
            if parameter not in owner:
                continue
            sums[owner[parameter]] += size**2
            if size > 0:
                reached.parameters.add(parameter)
        reached.norms[name] = {key: total**0.5 for key, total in sums.items()}
    return reached


def _by_group(run: Run) -> dict[str, list[str]]:
    """Map `<optimizer>/<group>` to its parameters' names; those with and without weight decay are one group."""
    found: dict[str, list[str]] = {}
    for group in run.optimizers.table.groups:
        found.setdefault(f"{group.optimizer}/{group.name}", []).extend(group.names)
    return found


def _gradients(term: Tensor, parameters: Iterable[nn.Parameter]) -> list[Tensor | None]:
    every = list(parameters)
    if not term.requires_grad:
        return [None] * len(every)
    return list(torch.autograd.grad(term, every, retain_graph=True, allow_unused=True))


def _sizes(gradients: Sequence[Tensor | None]) -> list[float]:
    return [0.0 if one is None else float(torch.linalg.vector_norm(one.float())) for one in gradients]


def _check_reach(run: Run, reached: Reached, idle: Mapping[str, str], *, trained: bool) -> Finding:
    now = run.progress.step
    live = [group for group in run.optimizers.table.groups if run.optimizers.lr_of(group, now) > 0]
    numbers: dict[str, object] = {"norms": reached.norms}
    for term, norms in reached.norms.items():
        if not any(norms.values()):
            return Finding("gradients", "FAULT", f"the term `{term}` reaches no parameter: it trains nothing", numbers)
    for group in live:
        key = f"{group.optimizer}/{group.name}"
        if not any(norms[key] > 0 for norms in reached.norms.values()):
            return Finding("gradients", "FAULT", f"no term reaches the group `{key}`: it is not trained", numbers)
    named = [name for group in live for name in group.names]
    silent = [name for name in named if name not in reached.parameters]
    excused = [name for name in silent if any(fnmatchcase(name, pattern) for pattern in idle)]
    dead = [name for name in silent if name not in excused]
    numbers["unreached"] = dead
    why = "; ".join(dict.fromkeys(reason for pattern, reason in idle.items() if _any(excused, pattern)))
    if dead and trained:
        more = f" and {len(dead) - SHOWN} more" if len(dead) > SHOWN else ""
        return Finding(
            "gradients",
            "FAULT",
            f"no term reaches {', '.join(f'`{name}`' for name in dead[:SHOWN])}{more}: the forward that is trained "
            "leaves it out",
            numbers,
        )
    said = f"every term trains something, and {len(named) - len(silent)} of {len(named)} parameters are reached"
    if excused:
        said += f"; {len(excused)} rest as expected: {why}"
    if dead:
        said += f"; {len(dead)} have no gradient before the first steps, which did not fit the time"
    return Finding("gradients", "ok", said, numbers)


def _any(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _table(run: Run, reached: Reached) -> list[list[str]]:
    """Return a header and a row for each group, with the norm of each term's gradient in it."""
    rows = [["group", *reached.norms]]
    for key, names in _by_group(run).items():
        rows.append([f"{key} ({len(names)})", *(f"{norms[key]:.2g}" for norms in reached.norms.values())])
    for group in run.optimizers.table.frozen_groups:
        rows.append([f"{group.name} ({len(group.names)})", *("frozen" for _ in reached.norms)])
    return rows
