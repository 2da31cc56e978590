"""Checkpoints that changed on the disk: a bit, a cut, a file that is gone. None may be loaded in silence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from reliability.frame import Limits, Part, Row, Tally
from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import EmaMeta, Meta
from ttstrain.errors import CheckpointError

TRIES = {"short": 40, "full": 1000}  # of each kind


def flip(path: Path, rng: random.Random) -> str:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"byte {place} of {path.name}"


def cut(path: Path, rng: random.Random) -> str:
    """End a file early, as a full disk or a broken copy does."""
    kept = rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(kept)
    return f"{path.name} ends after {kept} bytes"


def remove(path: Path, rng: random.Random) -> str:
    """Remove a file."""
    path.unlink()
    return f"{path.name} is gone"


def zero(path: Path, rng: random.Random) -> str:
    """Overwrite up to 512 bytes with zeros, as a lost sector does; the file's length stays."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    lost = content[place : place + 512]
    content[place : place + 512] = bytes(len(lost)) if any(lost) else b"\1" * len(lost)
    path.write_bytes(content)
    return f"{len(lost)} bytes from {place} on in {path.name}"


DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "one bit of one file changes": flip,
    "one file ends early": cut,
    "one file is missing": remove,
    "512 bytes of one file are lost": zero,
}


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with every kind of file that a run writes."""
    torch.manual_seed(0)
    weights = {"layer.weight": torch.randn(16, 16), "layer.bias": torch.randn(16)}
    state = {
        "task": weights,
        "ema": {"weights": {name: value * 0.5 for name, value in weights.items()}, "updates": 7},
        "optimizers": {"model": {"state": {0: {"exp_avg": torch.randn(16, 16), "step": 7}}}},
        "progress": {"step": 7, "clips": 56},
    }
    meta = Meta(family="any", task="any", model={"vocab": "v"}, recipe="r", step=7, ema=EmaMeta(present=True, step=7))
    store.save(folder, state, meta, per_rank=[{"rng": torch.arange(8)}], texts={"vocab": "a\nb\nc\n"})
    return folder


def try_one(sound: Path, broken: Path, damage: Callable[[Path, random.Random], str], rng: random.Random) -> str | None:
    """Damage a copy and load it; return what was wrong with that, or None."""
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(sound, broken)
    what = damage(rng.choice(sorted(broken.iterdir())), rng)
    try:
        meta = store.load(broken).meta
        for name in meta.files:  # what `load` leaves to the task: the copied vocabulary
            if name.endswith(".txt"):
                store.verified_text(broken, meta, name)
    except CheckpointError:
        return None
    except Exception as error:
        return f"{what}: {type(error).__name__} instead of a named error: {error}"
    return f"{what}: loaded in silence"


def count(limits: Limits) -> Iterator[Row]:
    sound = write_checkpoint(limits.scratch / "step-00000007")
    store.load(sound)
    for kind, damage in DAMAGES.items():
        tally, rng = Tally(kind, "refused with exit code 4, never loaded in silence"), random.Random(limits.seed)
        for _ in range(TRIES[limits.form]):
            if limits.over:
                break
            tally.add(try_one(sound, limits.scratch / "step-00000008", damage, rng))
        yield tally.row


PART = Part(
    title="Damaged checkpoints",
    method=(
        "A try damages one file of a small checkpoint, chosen at random, and loads it as `resume` does. It survives if "
        "the checkpoint is refused by a named error."
    ),
    count=count,
    minutes=1,
)
