"""Keep a small run of this release for each task: every later release must load it and go on to equal losses.

    python scripts/make_stored_runs.py

Writes one archive for each task that has none of this release yet into tests/stored_runs; what an earlier release has
written stays. `tests/integration/test_stored_runs.py` resumes all of them. Large tensors are frozen and made of a short
pattern, so that the archives stay small.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from make_fixtures import pack
from reliability.tasks import SMALLER, SMOKE, find
from torch import Tensor

import ttstrain
from ttstrain import registry
from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import Meta
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start
from ttstrain.tracking import jsonl

DESTINATION = Path(__file__).resolve().parents[1] / "tests" / "stored_runs"
STORED, STEPS = 2, 3  # the step whose checkpoint is kept, and the one whose losses it must lead to
TOO_LARGE = ("_vae", "_joint")  # their codebook has 3 MB, and a base must hold that of the toy's tokens
LARGE = 500  # elements
PERIOD = 61  # of the pattern, which divides no width of a layer
SETTINGS = (
    *("data.path=package:demo", "data.max_s=2.7", "data.holdout=2", "data.batch_frames=300", "data.workers=0"),
    *(f"train.steps={STEPS}", "train.device=cpu", "train.precision=fp32", "eval.every=1", "sample.every=null"),
    *("judge.enabled=false", "checkpoint={every: 1, keep_last: 9}", "tracking.wandb=off", "ema.enabled=true"),
)


def main() -> None:
    for name in (name for name in find() if not name.endswith(TOO_LARGE)):
        archive = DESTINATION / f"{name}-{ttstrain.__version__}.tar.xz"
        if not archive.exists():
            DESTINATION.mkdir(exist_ok=True)
            archive.write_bytes(made(name))
            print(f"{archive.stat().st_size:>9,} {archive.name}")


def made(name: str) -> bytes:
    """Train a run of one task, and pack its checkpoint in the middle with the metrics of the step after it."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the run's recipe names its base by a relative path
        try:
            run = trained(f"{SMOKE}{name}", [*SETTINGS, *SMALLER.get(name, ())])
            return packed(run, Path(folder, name))
        finally:
            os.chdir(here)


def trained(smoke: str, settings: list[str]) -> Path:
    recipe = parse(compose(smoke, settings))
    torch.manual_seed(0)
    task = registry.find_task(recipe.task).build(recipe.model)
    state = {key: patterned(tensor) for key, tensor in task.state_dict().items()}
    meta = Meta(family=recipe.task.split("/")[0], task=recipe.task, model=recipe.section(), recipe=smoke, step=0)
    store.save(Path("base"), {"task": state}, meta)
    large = [key for key, parameter in task.named_parameters() if parameter.numel() > LARGE]
    groups = json.dumps([{"name": "large", "match": large, "frozen": True}])
    return start(compose(smoke, [*settings, "base=base", f"optim.groups={groups}", "run_dir=runs", "name=run"]))


def patterned(tensor: Tensor) -> Tensor:
    """Repeat the first values of a large tensor in all of it."""
    if tensor.numel() <= LARGE or not tensor.is_floating_point():
        return tensor
    flat = tensor.flatten()
    return flat[torch.arange(flat.numel()) % PERIOD].reshape(tensor.shape).contiguous()


def packed(run: Path, to: Path) -> bytes:
    kept = to / "checkpoints" / f"step-{STORED:08d}"
    kept.parent.mkdir(parents=True)
    (run / "checkpoints" / kept.name).rename(kept)
    (kept.parent / "last").write_text(f"{kept.name}\n", encoding="utf-8")
    (run / "recipe.yaml").rename(to / "recipe.yaml")
    (to / "expected.json").write_text(json.dumps(losses(run), indent=1) + "\n", encoding="utf-8")
    return pack(to)


def losses(run: Path) -> Mapping[str, float]:
    """Return what the step after the kept checkpoint must give: losses, held-out losses and gradient norms."""
    (row,) = (row for row in jsonl.read(run / jsonl.FILE_NAME) if row["step"] == STEPS)
    return {
        key: value for key, value in row.items() if key.startswith(("train/loss/", "eval/loss/", "optim/grad_norm"))
    }


if __name__ == "__main__":
    main()
