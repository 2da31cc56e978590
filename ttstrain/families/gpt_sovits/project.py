"""Folders that upstream trains in: `logs/<name>/logs_s2_<version>/` with G and D, `logs_s1_<version>/ckpt/` with s1.

Upstream takes the file whose path contains the largest number, including digits of folder names. Here the counters
inside the files decide. Imports no torch at import time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain.contract.project import Chosen, ProjectSettings
from ttstrain.errors import CheckpointError

GENERATOR = re.compile(r"G_(\d+)\.pth")
LIGHTNING = re.compile(r"epoch=(\d+)-step=(\d+)\.ckpt")
PLACES = ("", "logs_s2_*", "ckpt", "logs_s1_*/ckpt", "logs_s1_*", "logs_s2")  # below what the user names


class SovitsProject:
    """What the rest of ttstrain asks about such folders."""

    settings_file = ""

    def choose(self, folder: Path) -> Chosen | None:
        """Choose the newest training file.

        Raises CheckpointError when a folder has training files of several nets, or none that can be read.
        """
        return choose(folder)

    def settings(self, *, task: str, data: Path | None) -> ProjectSettings | None:
        """Return nothing: upstream's prepared data decide no setting of a recipe."""
        return None

    def recipe(self, folder: Path) -> str | None:
        """Return nothing: upstream's web tool keeps no settings that are worth taking over."""
        return None


@dataclass(frozen=True, slots=True, order=True)
class _Reached:
    """The progress of a training file."""

    updates: int
    epoch: int
    written: float  # its time, where all else is equal

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", {self.updates:,} updates" if self.updates else "")


def choose(folder: Path) -> Chosen | None:
    """See `SovitsProject.choose`."""
    by_place = _files(folder)
    if not by_place:
        return None
    if len(by_place) > 1:
        raise CheckpointError(
            f"`{folder}` has training files of {len(by_place)} nets",
            hint=f"name one: {', '.join(str(place) for place in by_place)}",
        )
    (files,) = by_place.values()
    reached: dict[Path, _Reached] = {}
    remarks: list[str] = []
    for file in files:
        try:
            reached[file] = _reached(file)
        except CheckpointError as error:
            remarks.append(f"`{file.name}` cannot be read ({error.message.removeprefix(f'`{file}` ')})")
    if not reached:
        raise CheckpointError(f"no training file in `{folder}` can be read", hint="; ".join(remarks))
    best = max(reached, key=lambda file: reached[file])
    others = [f"`{file.name}` is of {at}" for file, at in reached.items() if file != best]
    return Chosen(best, "; ".join([f"`{best.name}` is the newest: {reached[best]}", *others, *remarks]))


def _files(folder: Path) -> dict[Path, list[Path]]:
    """Map each folder that holds training files to them."""
    found: dict[Path, list[Path]] = {}
    for pattern in PLACES:
        for place in sorted(folder.glob(pattern)) if pattern else [folder]:
            files = sorted(path for path in place.iterdir() if _is_training(path)) if place.is_dir() else []
            if files:
                found[place] = files
    return found


def _is_training(path: Path) -> bool:
    return bool(GENERATOR.fullmatch(path.name) or LIGHTNING.fullmatch(path.name)) and path.is_file()


def notes_on(path: Path) -> list[str]:
    """Return a note on a file's place among its folder's training files, if there are several."""
    siblings = [file for file in path.parent.iterdir() if _is_training(file)]
    if len(siblings) < 2 or path not in siblings:
        return []
    chosen = choose(path.parent)
    assert chosen is not None
    return [chosen.why if chosen.path == path else f"the folder's newest checkpoint is another file: {chosen.why}"]


def _reached(path: Path) -> _Reached:
    """Read the progress of a training file, without reading its tensors."""
    from ttstrain.tensors.contents import read_contents

    tree: Any = read_contents(path).tree
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"`{path}` is not a training file")
    written = path.stat().st_mtime
    if isinstance(tree.get("global_step"), int):
        return _Reached(tree["global_step"], int(tree.get("epoch", -1)) + 1, written)
    epoch = tree.get("iteration")
    return _Reached(_updates(tree), epoch if isinstance(epoch, int) else 0, written)


def _updates(tree: Mapping[str, Any]) -> int:
    from ttstrain.families.gpt_sovits.training_state import updates

    optimizer = tree.get("optimizer")
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    return updates(states) or 0 if isinstance(states, Mapping) else 0
