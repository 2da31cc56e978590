"""Make the bands of reference curves again: the first steps of three runs of each shipped recipe, on two cores.

    python scripts/make_bands.py                    every recipe that brings its data and needs no GPU
    python scripts/make_bands.py quickstart         this one; do it after its base, its data or its recipe has changed

A band is `recipes/bands/RECIPE.json`. The runs go to a temporary folder and end after the steps that are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "disabled")

import torch

import ttstrain
from ttstrain.bands.band import COMPARED, LR, SEEDS, STEPS, Band, Curves, band_path, write_band
from ttstrain.bands.facts import Facts
from ttstrain.bands.tracker import BandTracker
from ttstrain.plan.catalog import CatalogEntry, read_catalog
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import recipe_name
from ttstrain.runs.assemble import Ready
from ttstrain.runs.banded import facts_of
from ttstrain.runs.new import begin
from ttstrain.runs.processes import join_processes
from ttstrain.runs.tracked import tracked
from ttstrain.tracking.tracker import RunInfo, Tracker
from ttstrain.train.loop import train
from ttstrain.train.prepare import no_progress

QUIET = ("sample.every=null", "checkpoint.best=eval/loss/total", "checkpoint.every=100000", "tracking.wandb=off")


@dataclass
class Recorder(Tracker):
    """Keeps what a run logs in its first steps, and asks it to stop after them."""

    folder: Path = Path()
    points: dict[str, dict[int, float]] = field(default_factory=dict)

    def start(self, info: RunInfo) -> None:
        self.folder = info.run_dir

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step <= STEPS:
            for key, value in values.items():
                if key.startswith((*COMPARED, LR)):
                    self.points.setdefault(key, {})[step] = value
        if step == STEPS and any(key.startswith(LR) for key in values):
            (self.folder / "STOP").touch()

    def incident(self, step: int, kind: str, message: str) -> None:
        print(f"    step {step}: {kind}: {message}", file=sys.stderr)


def record(recipe: str | Path, overrides: Sequence[str], *, seed: int, folder: Path) -> tuple[Recorder, Ready]:
    """Take the first steps of a recipe, which are compared with its band; return what was logged, and the run."""
    composed = compose(recipe, [*QUIET, f"train.seed={seed}", f"run_dir={folder}", f"name=seed-{seed}", *overrides])
    recorder = Recorder()
    with join_processes() as here:
        ready = begin(composed, composed.name, here, show=no_progress)
        ready.run.trackers[:] = [BandTracker(ready.run.trackers), recorder]
        with tracked(ready, here) as training:
            training.status = train(ready.run, training.held_out, training.snapshots)
    return recorder, ready


def make(entry: CatalogEntry) -> Band:
    """Run a recipe with every seed."""
    runs: list[Curves] = []
    lrs: dict[str, dict[int, float]] = {}
    facts: Facts | None = None
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as scratch:
            recorder, ready = record(entry.name, [], seed=seed, folder=Path(scratch))
            facts = facts_of(ready)
        lrs = {key: points for key, points in recorder.points.items() if key.startswith(LR)}
        runs.append(Curves(seed, {key: points for key, points in recorder.points.items() if key.startswith(COMPARED)}))
    assert facts is not None
    steps = max(max(points) for points in lrs.values())
    return Band(recipe_name(entry.path), steps, facts, runs, lrs)


def main() -> None:
    entries = {entry.name: entry for entry in read_catalog() if entry.ships_data and entry.memory_gb == 0}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"one of {', '.join(entries)}")
    chosen = parser.parse_args().recipes or list(entries)
    if unknown := [name for name in chosen if name not in entries]:
        parser.error(f"no recipe `{unknown[0]}` that brings its data and needs no GPU: {', '.join(entries)}")
    made_with = {
        "ttstrain": ttstrain.__version__,
        "torch": torch.__version__.partition("+")[0],
        "processor": platform.machine(),
    }
    for name in chosen:
        path = band_path(recipe_name(entries[name].path))
        band = make(entries[name])
        write_band(path, band, made_with=made_with)
        print(f"{name}: {len(band.runs)} runs of {band.steps} steps, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
