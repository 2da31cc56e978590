"""A recipe of one's own: the shipped one that fits the answers, with the answers and remarks written into it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain.errors import RecipeError
from ttstrain.plan.catalog import CatalogEntry
from ttstrain.recipe.compose import load_yaml
from ttstrain.recipe.emit import scalar
from ttstrain.recipe.shipped import SCHEMA_LINE, schema_path, shipped

_GB = re.compile(r"_(\d+)gb$")
_KEY = re.compile(r"( *)([a-z_]+):( .*)?$")
REMARKS: Mapping[str, str] = {  # what a key is for, where the shipped recipe does not say more
    "data.path": "your recordings and their texts",
    "data.holdout": "clips, or a share of them, that are measured and never trained on",
    "data.batch_frames": "what goes through the net at once: lower it where memory runs out",
    "data.max_clips": "at most so many clips at once",
    "optim.lr": "peak of the learning rate: lower it where the voice gets worse",
    "optim.weight_decay": "pulls weights towards zero",
    "optim.betas": "memory of AdamW's two averages",
    "optim.max_grad_norm": "longest gradient; a longer one is scaled down",
    "optim.groups": "parts of the net with settings of their own",
    "optim.schedule": "how the learning rate rises and falls; `ttstrain plan` draws it",
    "train.steps": "updates; `auto`: from the hours of data, and `ttstrain plan` says how many",
    "train.epochs": "times that each clip is trained on",
    "train.accumulate": "micro-batches in one update",
    "train.step_frames": "frames of one update, on any number of GPUs",
    "train.early_stop": "stops where the held-out loss no longer falls",
    "ema": "an average over the last weights, often better than the last ones",
    "eval": "steps between two measurements of the held-out loss",
    "sample": "generated sentences: steps between two, and how many",
    "checkpoint": "when to save, how many to keep, and what `best` means",
    "lora": "trains small matrices beside the frozen weights",
    "guard": "what to do where a step goes wrong",
    "model": "settings of the net itself",
    "data": "recordings, and how they are read",
    "optim": "how the weights are changed",
    "train": "how long",
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """A config of a machine."""

    name: str  # "cpu", "single_gpu_24gb"
    memory_gb: int  # of one GPU; 0 without one
    about: str  # its first comment


@dataclass(frozen=True, slots=True)
class Answers:
    """What a person said."""

    data: str
    hardware: Hardware
    base: str | None = None  # None: the recipe's own


@dataclass(frozen=True, slots=True)
class Choice:
    """The shipped recipe that fits best, and why it may not."""

    entry: CatalogEntry
    note: str = ""


def hardware_configs() -> list[Hardware]:
    """List the configs of machines, the smallest first."""
    found = []
    for path in (shipped("configs") / "hardware").glob("*.yaml"):
        size = _GB.search(path.stem)
        about = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        found.append(Hardware(path.stem, int(size[1]) if size else 0, about))
    return sorted(found, key=lambda one: one.memory_gb)


def fitting_hardware(memory: int | None) -> Hardware:
    """Return the largest config for a GPU of so many bytes; None is a machine without one."""
    every = hardware_configs()
    gb = 0.0 if memory is None else memory / 1e9
    fits = [one for one in every if one.memory_gb <= gb]
    return fits[-1] if memory is not None and len(fits) > 1 else every[0]


def choose(entries: Sequence[CatalogEntry], *, family: str, goal: str, hardware: Hardware) -> Choice:
    """Choose among a family's recipes for a goal the one that makes the most of the hardware.

    Where none fits, the smallest is chosen, with a note. Raises RecipeError where the family has none for the goal.
    """
    own = [entry for entry in entries if entry.family == family and goal in entry.goals]
    if not own:
        others = sorted({entry.family for entry in entries if goal in entry.goals})
        raise RecipeError(f"`{family}` has no recipe for the goal `{goal}`", hint=f"there is one for {_list(others)}")
    fits = [entry for entry in own if entry.memory_gb <= hardware.memory_gb]
    if fits:
        return Choice(max(fits, key=lambda entry: entry.memory_gb))
    smallest = min(own, key=lambda entry: entry.memory_gb)
    machine = f"a GPU with {hardware.memory_gb} GB" if hardware.memory_gb else "no GPU"
    return Choice(
        smallest,
        f"`{smallest.name}` is made for a GPU with {smallest.memory_gb} GB, and you have {machine}: look at the memory "
        "that `ttstrain plan` shows before you start",
    )


def written(choice: Choice, answers: Answers, *, target: Path) -> str:
    """Return the recipe's text, for the file `target`."""
    entry = choice.entry
    lines = entry.path.read_text(encoding="utf-8").splitlines()
    body = [line for line in lines if not line.startswith("#")]
    if answers.base is not None:
        body = _without_key(body, "base")
    if choice.note:
        body = _without_key(body, "data.batch_frames")  # the hardware's own holds
    body = _with_data(body, answers.data)
    changed = list(_changed(body, answers))
    schema = Path(os.path.relpath(schema_path(), target.parent)).as_posix()
    head = [
        f"{SCHEMA_LINE}{schema}",
        f"# Made by `ttstrain new` from the recipe `{entry.name}`, for {answers.hardware.name}.",
        *(line for line in lines if line.startswith(("# For:", "# Data:", "# Hardware and time:"))),
        *([f"# Note: {choice.note}."] if choice.note else []),
        "# Every line may be changed; `ttstrain plan` on this file shows what follows from it.",
    ]
    return "\n".join([*head, "", *_remarked(changed)]) + "\n"


def base_of(entry: CatalogEntry) -> str:
    """Return the weights that a recipe starts from by itself, for people."""
    values = load_yaml(entry.path)
    for name in reversed(values.get("extends") or []):
        values.setdefault("base", load_yaml(shipped("configs") / f"{name}.yaml").get("base"))
        if values["base"] is None:
            values.pop("base")
    base: Any = values.get("base")
    return " and ".join(base) if isinstance(base, list) else str(base or "none: from scratch")


def _changed(body: Sequence[str], answers: Answers) -> Iterator[str]:
    for line in body:
        if line.startswith("extends:"):
            names = [name.strip() for name in line.partition("[")[2].rpartition("]")[0].split(",")]
            machine = f"hardware/{answers.hardware.name}"
            own = [machine if name.startswith("hardware/") else name for name in names]
            yield f"extends: [{', '.join(own if machine in own else [*own, machine])}]  # the net, and this machine"
        elif line.startswith("task:"):
            yield line
            if answers.base is not None:
                yield f"base: {scalar(answers.base)}  # the weights to start from"
        else:
            yield line


def _with_data(body: Sequence[str], data: str) -> list[str]:
    """Set `data.path`, in a `data:` section that is there or a new one."""
    body = _without_key(body, "data.path")
    path = f"  path: {scalar(data)}"
    if "data:" in body:
        at = body.index("data:")
        return [*body[: at + 1], path, *body[at + 1 :]]
    at = next(n for n, line in enumerate(body) if line.startswith("task:")) + 1
    while at < len(body) and not _KEY.match(body[at]):
        at += 1
    return [*body[:at], "data:", path, *body[at:]]


def _without_key(body: Sequence[str], key: str) -> list[str]:
    """Leave out a key and what stands below it."""
    kept: list[str] = []
    below: int | None = None
    for line, dotted in _dotted(body):
        indent = len(line) - len(line.lstrip())
        if below is not None and (indent > below or not line.strip()):
            continue
        below = indent if dotted == key else None
        if below is None:
            kept.append(line)
    return kept


def _dotted(body: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each line with the dotted key that it sets, "" for one that sets none; of two levels."""
    section = ""
    for line in body:
        match = _KEY.match(line)
        if match is None:
            yield line, ""
        elif not match[1]:
            section = match[2]
            yield line, section
        else:
            yield line, f"{section}.{match[2]}" if len(match[1]) == 2 else ""


def _remarked(body: Sequence[str]) -> Iterator[str]:
    """Write what a key is for behind its line, or above it where the line is long."""
    previous = ""
    for line, dotted in _dotted(body):
        top = dotted and "." not in dotted
        if top and previous and (line.endswith(":") or previous.startswith(" ")):
            yield ""
        remark = REMARKS.get(dotted, "")
        if not remark or "  # " in line:
            yield line
        elif len(line) + len(remark) + 4 <= 100:
            yield f"{line}  # {remark}"
        else:
            yield f"{line[: len(line) - len(line.lstrip())]}# {remark[:1].upper()}{remark[1:]}."
            yield line
        previous = line


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no family"
