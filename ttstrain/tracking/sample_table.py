"""The table of a sampling step: a row for each sentence, with the sound and the mel of base, raw and EMA weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ttstrain.tracking.tracker import Spoken, SpokenBy

TITLES: Mapping[SpokenBy, str] = {"base": "base", "online": "raw", "ema": "EMA"}  # in the order of the columns


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence at one step."""

    step: int
    name: str
    text: str
    spoken: Mapping[SpokenBy, Spoken]


class SampleTable:
    """Collects the rows of the sampling step that is going on."""

    def __init__(self) -> None:
        self.step: int | None = None  # None: no row is waiting
        self._rows: list[Row] = []

    def add(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        """Add a sentence. Its sounds and mels are not held in memory: their files stay."""
        self.step = step
        files = {weights: replace(one, sample=None) for weights, one in spoken.items()}
        self._rows.append(Row(step, name, text, files))

    def taken(self) -> Sequence[Row]:
        """Return the rows, and begin anew."""
        rows, self._rows, self.step = self._rows, [], None
        return rows


def for_wandb(rows: Sequence[Row]) -> Any:
    """Make W&B's table of the rows; the columns of sounds and pictures are the same at every step."""
    import wandb

    figures = sorted({(title, name) for row in rows for title, name in _figures(row)})
    media = [f"{title} {kind}" for title in TITLES.values() for kind in ("audio", "mel")]
    table = wandb.Table(columns=["step", "name", "text", *media, *(" ".join(key) for key in figures)])
    for row in rows:
        cells: list[Any] = [row.step, row.name, row.text]
        for weights in TITLES:
            cells += _media(row.spoken.get(weights))
        own = _figures(row)
        table.add_data(*cells, *(own.get(key) for key in figures))
    return table


def _media(one: Spoken | None) -> list[Any]:
    import wandb

    if one is None or not one.path.is_file():
        return [None, None]
    picture = one.path.with_suffix(".png")
    return [wandb.Audio(str(one.path)), wandb.Image(str(picture)) if picture.is_file() else None]


def _figures(row: Row) -> dict[tuple[str, str], float]:
    """Return the figures of a row by (weights, name of the figure)."""
    found: dict[tuple[str, str], float] = {}
    for weights, title in TITLES.items():
        one = row.spoken.get(weights)
        if one is None:
            continue
        named = {"mel distance": one.mel_distance, "duration ratio": one.duration_ratio, **one.numbers}
        found |= {(title, name): float(value) for name, value in named.items() if value is not None}
    return found
