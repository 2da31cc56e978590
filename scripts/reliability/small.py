"""A run of a second or two to break things in: short clips, a net of one layer, and commands in their own processes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

import ttstrain
from reliability import programs
from ttstrain.checkpoint import pointers, store
from ttstrain.errors import UserError
from ttstrain.tracking import jsonl

TIMED = ("time/", "perf/", "judge/share_of_time")
COUNTED = "debug/"  # of injected faults
DEMO = Path(ttstrain.__file__).parent / "_demo"
RECIPE = """
task: flow
model:
  {dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 16, conv_layers: 1, tokenizer: char, dropout: 0.1,
   sampling: {steps: 2}}
data: {path: DATA, holdout: 2, batch_frames: 300, workers: 0}
optim: {lr: 1e-3, schedule: {kind: cosine, warmup_steps: 2}}
train: {steps: 8, device: cpu, precision: fp32}
eval: {every: 4}
sample: {every: null}
judge: {enabled: false}
checkpoint: {every: 2, keep_last: 2}
tracking: {wandb: off}
"""


def write_recipe(folder: Path, *, count: int = 8) -> Path:
    """Write the starts of `count` demo clips, from 0.8 s on and of different lengths, and a recipe for them."""
    data = folder / "data"
    (data / "wavs").mkdir(parents=True)
    rows = []
    lines = (DEMO / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for number, clip in enumerate(json.loads(line) for line in lines[:count]):
        wav, rate = soundfile.read(DEMO / clip["audio"])
        kept = rate * (8 + 2 * (number % 4)) // 10
        soundfile.write(data / "wavs" / f"{clip['id']}.wav", wav[:kept], rate)
        rows.append(f"{clip['id']}|{clip['text'][: len(clip['text']) * kept // len(wav)]}")
    (data / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(data)), encoding="utf-8")
    return recipe


@dataclass(frozen=True)
class Bench:
    """A recipe of eight steps, and the run that nothing disturbed."""

    folder: Path
    recipe: Path
    whole: Path
    runs: Path  # where its runs lie
    more: tuple[str, ...] = ()  # settings of all its runs
    ranks: tuple[str, ...] = ()  # `--nproc 2`, where they have several processes

    def settings(self, name: str) -> tuple[str, ...]:
        """Return the words after `ttstrain` that start a run of this name."""
        return ("finetune", str(self.recipe), *self.more, f"run_dir={self.runs}", f"name={name}", *self.ranks)

    def run(self, name: str) -> Path:
        return self.runs / name


def make_bench(folder: Path, *more: str) -> Bench:
    """Write the recipe, and train the undisturbed run. Raises RuntimeError where that fails."""
    runs = folder / "runs"
    bench = Bench(folder, write_recipe(folder), runs / "whole", runs, more)
    ended = programs.run(*bench.settings("whole"), cwd=folder)
    if ended.code != 0:
        raise RuntimeError(f"the undisturbed run failed, {ended.brief}")
    return bench


def differs(run: Path, whole: Path) -> str | None:
    """Say how a run differs from the undisturbed one: in a number of a step, or in a bit of its last checkpoint."""
    try:
        rows, expected = metrics(run), metrics(whole)
    except UserError as error:
        return error.message
    if rows != expected:
        wrong = [one["step"] for one, other in zip(rows, expected, strict=False) if one != other]
        return f"{len(rows)} lines of metrics for {len(expected)}, the steps {wrong[:5]} differ"
    return weights_differ(run, whole)


def weights_differ(run: Path, whole: Path) -> str | None:
    """Say how the last checkpoint of a run differs from that of the undisturbed one."""
    try:
        place, wanted = (pointers.read_pointer(one / "checkpoints", "last") for one in (run, whole))
        if place is None or wanted is None:
            return "it has no checkpoint"
        state, right = store.load(place), store.load(wanted)
    except UserError as error:
        return error.message
    if place.name != wanted.name:
        return f"its last checkpoint is {place.name}, not {wanted.name}"
    ours, theirs = flat(state.state), flat(right.state)
    if odd := sorted(key for key in ours.keys() | theirs.keys() if not same(ours.get(key), theirs.get(key))):
        return f"`{odd[0]}` and {len(odd) - 1} more values of its last checkpoint differ"
    return None


def metrics(run: Path) -> list[dict[str, float | None]]:
    """Read the steps of a run, without what depends on the machine's speed, and without the number of faults."""
    left_out = (*TIMED, COUNTED)
    return [
        {key: None if math.isnan(value) else value for key, value in row.items() if not key.startswith(left_out)}
        for row in jsonl.read(run / jsonl.FILE_NAME)
    ]


def flat(tree: Any, at: str = "") -> dict[str, Any]:
    """Return the leaves of a state under their paths."""
    if isinstance(tree, Mapping):
        inner = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        inner = [(str(number), value) for number, value in enumerate(tree)]
    else:
        return {at: tree}
    return {place: leaf for key, value in inner for place, leaf in flat(value, f"{at}/{key}").items()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def last_step(run: Path) -> int:
    """Read the step in the last complete line of a run's metrics; 0 before there is one."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 20_000))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return 0
    whole = [line for line in lines if line.startswith(b'{"step"') and line.endswith(b"\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0
