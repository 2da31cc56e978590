"""Say whether two runs are equal, bit for bit, or name the first difference.

    compare_runs.py RUN_A RUN_B            two run folders
    compare_runs.py RUNS_A RUNS_B          two folders that --make has filled
    compare_runs.py --make RUNS            train every smoke recipe and 60 steps of `quickstart` into RUNS first

A change that only moves code makes runs that are equal: the same rows in metrics.jsonl, but for time and speed, and the
same tensors in every file of the last checkpoint. Both sides must be made on one machine, with one number of threads.
Only files are read, never the package, so that runs of any two versions can be compared. Exit code 0: equal; 1: not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import safe_open

TIMED = ("time/", "perf/")  # what depends on the machine's speed
LONGER = {"quickstart": ("train.steps=60", "sample.every=null")}  # shortened: a whole one takes minutes
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--make", action="store_true", help="train the reference runs into the one folder given")
    given = parser.parse_args()
    if given.make:
        (folder,) = given.runs
        make(folder)
        return 0
    first, second = given.runs
    pairs = list(matched(first, second))
    unequal = 0
    for name, a, b in pairs:
        found = difference(a, b)
        print(f"{name}: {'equal' if found is None else found}")
        unequal += found is not None
    print(f"{len(pairs) - unequal} of {len(pairs)} equal")
    return 1 if unequal else 0


def make(folder: Path) -> None:
    """Train each reference run with the installed program, one thread each: rounding depends on their number."""
    recipes = {f"smoke/{path.stem}": () for path in sorted((ROOT / "recipes" / "smoke").glob("*.yaml"))}
    for recipe, overrides in {**recipes, **LONGER}.items():
        run = folder / recipe.replace("/", "-")
        command = [sys.executable, "-m", "ttstrain", "finetune", recipe, "--run-dir", str(run)]
        command += ["tracking.wandb=off", *overrides]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        print(f"made {run}")


def matched(first: Path, second: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield name and both folders of every pair of runs. Exits where one side lacks a run."""
    if (first / "metrics.jsonl").is_file():
        yield first.name, first, second
        return
    sides = [
        {path.parent.parent.name: path.parent for path in side.glob("*/*/metrics.jsonl")} for side in (first, second)
    ]
    if not any(sides):
        sys.exit(f"`{first}` and `{second}` hold no runs")
    for name in sorted(sides[0].keys() | sides[1].keys()):
        a, b = (side.get(name, folder / name) for side, folder in zip(sides, (first, second), strict=True))
        yield name, a, b


def difference(a: Path, b: Path) -> str | None:
    """Return the first difference between two runs in words; None where there is none."""
    for run in (a, b):
        if not (run / "metrics.jsonl").is_file():
            return f"`{run}` is not a run"
    return differing_row(a, b) or differing_tensor(last_checkpoint(a), last_checkpoint(b))


def differing_row(a: Path, b: Path) -> str | None:
    for number, (row, other) in enumerate(zip_longest(rows(a), rows(b)), start=1):
        if row is None or other is None:
            return f"metrics.jsonl: one ends before line {number}"
        if row.keys() != other.keys():
            return f"metrics.jsonl, line {number}: only one has {', '.join(sorted(row.keys() ^ other.keys()))}"
        for key, value in row.items():
            if value != other[key] and not (math.isnan(value) and math.isnan(other[key])):
                return f"metrics.jsonl, line {number}: {key} is {value!r} and {other[key]!r}"
    return None


def rows(run: Path) -> Iterator[dict[str, float]]:
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        yield {key: value for key, value in json.loads(line).items() if not key.startswith(TIMED)}


def last_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "last").read_text(encoding="utf-8").strip()


def differing_tensor(a: Path, b: Path) -> str | None:
    if a.name != b.name:
        return f"the last checkpoints are {a.name} and {b.name}"
    files = {path.name for side in (a, b) for path in side.glob("*.safetensors")}
    for name in sorted(files):
        if not ((a / name).is_file() and (b / name).is_file()):
            return f"{a.name}/{name}: only one has it"
        with safe_open(a / name, "pt") as one, safe_open(b / name, "pt") as other:
            if set(one.keys()) != set(other.keys()):
                return f"{a.name}/{name}: only one has {sorted(set(one.keys()) ^ set(other.keys()))[0]}"
            for key in sorted(one.keys()):
                if not same_bits(one.get_tensor(key), other.get_tensor(key)):
                    return f"{a.name}/{name}: {key} differs"
    return None


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


if __name__ == "__main__":
    sys.exit(main())
