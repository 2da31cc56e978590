"""Say whether two runs are equal, bit for bit, or name the first difference.

    compare_runs.py RUN_A RUN_B            two run folders
    compare_runs.py RUNS_A RUNS_B          two folders that --make has filled
    compare_runs.py --make RUNS            train every smoke recipe and 60 steps of `from_scratch` into RUNS first

A change that only moves code makes runs that are equal: the same files; the same rows in metrics.jsonl, but for time
and speed; the same tensors and values in every file of every checkpoint; the same best and last of them; the same clips
trained and held out; the same samples. What is told of the machine, the hour and the folder may differ.
Both sides must be made on one machine, with one number of threads. Only files are read, never the package, so that runs
of any two versions can be compared. Exit code 0: equal; 1: not.
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
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

TIMED = ("time/", "perf/")  # what depends on the machine's speed
TOLD = (  # of the machine and the hour
    *("env.json", "plan.json", "recipe.yaml", "report.html", "forecast.json", "sessions", "incidents"),
)
OTHERS = ("wandb", "tensorboard")  # what other programs write, under names of their own
ELSEWHERE = {"time", "ttstrain", "torch", "digest", "files"}  # of meta.json: the hour, versions, and sums of its files
LONGER = {"from_scratch": ("train.steps=60", "sample.every=null")}  # shortened: a whole one takes minutes
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
    sides = []
    for side in (first, second):
        runs = sorted(path.parent for path in side.glob("*/*/metrics.jsonl"))
        if doubled := [run for run, before in zip(runs[1:], runs, strict=False) if run.parent == before.parent]:
            sys.exit(
                f"`{doubled[0].parent}` holds more than one run: which is meant? Make them into a folder of their own"
            )
        sides.append({run.parent.name: run for run in runs})
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
    if (found := differing_row(a, b)) is not None:
        return found
    files = [{path.relative_to(run) for path in run.rglob("*") if path.is_file()} for run in (a, b)]
    if lacking := sorted(path for path in files[0] ^ files[1] if path.parts[0] not in OTHERS):
        return f"only one has {lacking[0]}"
    for path in sorted(files[0]):
        if path.parts[0] in (*TOLD, *OTHERS, "metrics.jsonl"):
            continue
        if (found := differing_content(a / path, b / path)) is not None:
            return f"{path.relative_to('checkpoints') if path.parts[0] == 'checkpoints' else path}: {found}"
    return None


def differing_content(a: Path, b: Path) -> str | None:
    """Return the first difference between two files of one name."""
    if a.suffix == ".safetensors":
        return differing_tensor(a, b)
    if a.suffix in (".json", ".jsonl"):
        return next(differing_values(*(values_of(file) for file in (a, b))), None)
    if a.suffix == ".png":  # which may be packed another way
        return differing_picture(a, b)
    return None if a.read_bytes() == b.read_bytes() else "differs"


def differing_picture(a: Path, b: Path) -> str | None:
    """Return whether two pictures show something else."""
    with Image.open(a) as one, Image.open(b) as other:
        if one.size != other.size:
            return f"has {one.size} pixels and {other.size}"
        return None if one.convert("RGB").tobytes() == other.convert("RGB").tobytes() else "shows something else"


def values_of(file: Path) -> Any:
    """Read what must be equal of a JSON file, or of all lines of one of JSON lines."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":  # of clips, which may lie in another folder
        clips = [json.loads(line) for line in text.splitlines()]
        return [{**clip, "path": Path(clip["path"]).name} if "path" in clip else clip for clip in clips]
    values = json.loads(text)
    return {key: value for key, value in values.items() if key not in ELSEWHERE} if file.name == "meta.json" else values


def differing_values(a: Any, b: Any, *, at: str = "") -> Iterator[str]:
    """Yield each difference between two JSON documents, with the keys that lead to it."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            where = f"{at}/{key}" if at else str(key)
            if key not in a or key not in b:
                yield f"only one has {where}"
            else:
                yield from differing_values(a[key], b[key], at=where)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differing_values(one, other, at=f"{at}/{number}" if at else str(number))
    elif not same_value(a, b):
        yield f"{at} is {a!r} and {b!r}"


def same_value(a: Any, b: Any) -> bool:
    """Tell whether two values are the same; two NaN are."""
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def differing_row(a: Path, b: Path) -> str | None:
    for number, (row, other) in enumerate(zip_longest(rows(a), rows(b)), start=1):
        if row is None or other is None:
            return f"metrics.jsonl: one ends before line {number}"
        if row.keys() != other.keys():
            return f"metrics.jsonl, line {number}: only one has {', '.join(sorted(row.keys() ^ other.keys()))}"
        for key, value in row.items():
            if not same_value(value, other[key]):
                return f"metrics.jsonl, line {number}: {key} is {value!r} and {other[key]!r}"
    return None


def rows(run: Path) -> Iterator[dict[str, float]]:
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        yield {key: value for key, value in json.loads(line).items() if not key.startswith(TIMED)}


def differing_tensor(a: Path, b: Path) -> str | None:
    with safe_open(a, "pt") as one, safe_open(b, "pt") as other:
        if set(one.keys()) != set(other.keys()):
            return f"only one has {sorted(set(one.keys()) ^ set(other.keys()))[0]}"
        for key in sorted(one.keys()):
            if not same_bits(one.get_tensor(key), other.get_tensor(key)):
                return f"{key} differs"
        return None if one.metadata() == other.metadata() else "its metadata differ"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


if __name__ == "__main__":
    sys.exit(main())
