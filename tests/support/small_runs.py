"""Runs of a second or two: a few short clips, a net of one layer, and the ways to start and read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import forked
import soundfile
import torch
from torch import Tensor

from ttstrain.checkpoint import store
from ttstrain.checkpoint.upstream import load_own
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start
from ttstrain.tracking import jsonl

DEMO = Path(__file__).resolve().parents[2] / "ttstrain" / "_demo"

RECIPE = """
task: flow
model:
  {dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 16, conv_layers: 1, tokenizer: char, dropout: 0.1,
   sampling: {steps: 2}}
data: {path: DATA, holdout: 2, batch_frames: 300, workers: 0}
optim: {lr: 1e-3, schedule: {kind: cosine, warmup_steps: 2}}
train: {steps: 8, accumulate: 2, device: cpu, precision: fp32}
eval: {every: 2}
sample: {every: null}
checkpoint: {every: 1, keep_last: 99}
tracking: {wandb: off}
"""


def write_clips(folder: Path, *, count: int = 8) -> Path:
    """Write the starts of `count` demo clips, from 0.8 s on and of different lengths, as an LJSpeech folder."""
    rows = []
    (folder / "wavs").mkdir(parents=True)
    for number, clip in enumerate(_demo_clips()[:count]):
        wav, rate = soundfile.read(DEMO / clip["audio"])
        kept = rate * (8 + 2 * (number % 4)) // 10
        soundfile.write(folder / "wavs" / f"{clip['id']}.wav", wav[:kept], rate)
        rows.append(f"{clip['id']}|{clip['text'][: len(clip['text']) * kept // len(wav)]}")
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@lru_cache(maxsize=1)
def _demo_clips() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def write_recipe(path: Path, *, data: Path, text: str = RECIPE) -> Path:
    path.write_text(text.replace("DATA", str(data)), encoding="utf-8")
    return path


def finetune(recipe: Path, run_dir: Path, *overrides: str) -> Path:
    """Train in this process and return the run's folder."""
    return start(compose(recipe, [*overrides, f"run_dir={run_dir}"]))


def write_base(root: Path) -> Path:
    """Train a base into `root/net`, and return a recipe without warmup that adapters over it can be trained with."""
    text = RECIPE.replace("warmup_steps: 2", "warmup_steps: 0")
    recipe = write_recipe(root / "r.yaml", data=write_clips(root / "speech"), text=text)
    base = finetune(recipe, root / "bases", "name=base", "optim.lr=1e-2", "train.steps=2")
    shutil.copytree(base / "checkpoints" / "step-00000002", root / "net")
    return recipe


def ttstrain(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program's entry point in a process of its own, and wait for it.

    Its modules are imported already: a variable that a library reads when it is imported comes too late, and `command`
    starts an interpreter that obeys it.
    """
    return forked.run([*map(str, arguments)], environment={**os.environ, **environment}, cwd=cwd)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ttstrain", *map(str, arguments)]


# ---------------------------------------------------------------- what a run left behind

TIMED = ("time/", "perf/", "judge/share_of_time")


def metrics(run: Path, *, after: int = -1) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl, without what depends on the machine's speed."""
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMED)}
        for row in jsonl.read(run / jsonl.FILE_NAME)
        if row["step"] > after
    ]


def cut_off(run: Path, *, after: int) -> Path:
    """Leave a run's folder as it was when `after` was its last step."""
    root = run / "checkpoints"
    for folder in root.glob("step-*"):
        if int(folder.name[-8:]) > after:
            shutil.rmtree(folder)
    (root / "last").write_text(f"step-{after:08d}\n")
    best = min(
        (row for row in metrics(run) if "eval/loss/total" in row and 0 < row["step"] <= after),
        key=lambda row: row["eval/loss/total"],
        default=None,
    )
    (root / "best").unlink(missing_ok=True)
    if best is not None:
        (root / "best").write_text(f"step-{int(best['step']):08d}\n")
    return run


def checkpoint(run: Path, step: int) -> store.Loaded:
    """Read a checkpoint, whole."""
    return load_own(run / "checkpoints" / f"step-{step:08d}")


def flat(tree: Any, at: str = "") -> dict[str, Any]:
    """Flatten a state tree to dotted leaves."""
    if isinstance(tree, Mapping):
        items: Sequence[tuple[Any, Any]] = list(tree.items())
    elif isinstance(tree, list | tuple):
        items = list(enumerate(tree))
    else:
        return {at: tree}
    return {
        key: leaf for name, inner in items for key, leaf in flat(inner, f"{at}.{name}" if at else str(name)).items()
    }


def differences(one: Any, other: Any) -> list[str]:
    """Name the leaves of two state trees that are not equal, bit for bit."""
    a, b = flat(one), flat(other)
    return sorted(key for key in a.keys() | b.keys() if key not in a or key not in b or not same(a[key], b[key]))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
