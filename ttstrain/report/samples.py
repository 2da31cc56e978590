"""The grid of samples: a row for each text; its recording, the base, and what each sampled step said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from ttstrain import documents
from ttstrain.contract.data import Clip
from ttstrain.data.riff import check_riff
from ttstrain.errors import DataError, first_line
from ttstrain.report.sound import Shelf, keep_recording

NUMBERS = "numbers.json"
MOST_STEPS = 40  # of one run on the page: the first, the last and those between them, spread evenly
By = Literal["recording", "base", "online", "ema"]
_FIGURES = ("voice", "words", "cer", "mos", "pace")


@dataclass(frozen=True, slots=True)
class Cell:
    """One sound of the grid."""

    by: By
    step: int | None  # None for a recording and for the base
    seconds: float
    address: str = ""
    picture: str = ""  # address of its mel; empty where there is none
    figures: Mapping[str, float] | None = None
    asked: bool = False  # it was asked for during the run, by the file `SAMPLE`


@dataclass(frozen=True, slots=True)
class Row:
    """One text and all that was said of it."""

    name: str
    text: str
    voice_text: str  # of the reference clip
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Grid:
    """The samples of a run."""

    rows: Sequence[Row] = ()
    steps: Sequence[int] = ()  # the sampled steps that are shown
    left_out: int = 0  # sampled steps that are not shown
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Sound:
    cell: Cell
    path: Path


def read_grid(run: Path, shelf: Shelf, *, best: int | None = None, clips: Sequence[Clip] = ()) -> Grid:
    """Read a run's samples; `clips` are the held-out ones. What is missing or damaged is left out, with a note."""
    notes: list[str] = []
    numbered = (path for path in sorted((run / "samples").glob("step-*")) if path.name[5:].isdecimal())
    folders = {int(path.name[5:]): path for path in numbered}
    shown = spread(sorted(folders), best=best)
    texts: dict[tuple[str, str], dict[str, Any]] = {}
    sounds: dict[tuple[str, str], list[_Sound]] = {}
    for step in shown:
        for entry in _entries(folders[step], notes):
            key = (entry["name"], entry["text"])
            texts.setdefault(key, entry)
            sounds.setdefault(key, []).extend(_sounds(entry, folders[step], step))
    rows = []
    for (name, text), found in sounds.items():
        recording = _recording(run, texts[name, text], clips, notes)
        every = [*([recording] if recording else []), *_base_once(found)]
        rows.append(Row(name, text, str(texts[name, text].get("voice_text") or ""), [one.cell for one in every]))
        sounds[name, text] = every
    drawn = _with_addresses(list(sounds.values()), shelf, best=best, notes=notes)
    rows = [replace(row, cells=cells) for row, cells in zip(rows, drawn, strict=True)]
    return Grid(rows, shown, len(folders) - len(shown), list(dict.fromkeys(notes)))


def spread(steps: Sequence[int], *, best: int | None) -> list[int]:
    """Choose the steps to show: the first, the last, the best, and others spread evenly."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    chosen = {steps[round(number * (len(steps) - 1) / (MOST_STEPS - 1))] for number in range(MOST_STEPS)}
    return sorted(chosen | ({best} & set(steps) if best is not None else set()))


def _entries(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    try:
        values = documents.read_object(folder / NUMBERS, error=DataError, keys={"previews": list}, numbers="any")
    except DataError as error:
        if (folder / NUMBERS).exists():  # else the run is at this step just now
            notes.append(error.message)
        return
    for entry in values["previews"]:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("text"), str):
            yield entry


def _sounds(entry: Mapping[str, Any], folder: Path, step: int) -> Iterator[_Sound]:
    by: By
    for by in ("base", "online", "ema"):
        found = entry.get(by)
        if not isinstance(found, Mapping) or not isinstance(found.get("file"), str):
            continue
        path = folder / Path(found["file"]).name  # a name in the folder, whatever the file says
        if not path.is_file() or (by == "online" and step == 0 and "base" in entry):  # step 0 is the base
            continue
        seconds = found.get("seconds")
        cell = Cell(
            by,
            None if by == "base" else step,
            float(seconds) if _is_finite(seconds) else 0.0,
            figures=_figures(found),
            asked=bool(entry.get("asked")),
        )
        yield _Sound(cell, path)


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    judge = found.get("judge")
    values: dict[str, Any] = {"mel distance": found.get("mel_distance"), "length ratio": found.get("duration_ratio")}
    values |= {name: judge.get(name) for name in _FIGURES} if isinstance(judge, Mapping) else {}
    numbers = found.get("numbers")
    values |= dict(numbers) if isinstance(numbers, Mapping) else {}
    return {name: round(float(value), 4) for name, value in values.items() if _is_finite(value)}


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _base_once(found: Sequence[_Sound]) -> list[_Sound]:
    """Keep one sound of the base: every step's folder has a copy. The judge's figures come with a later one."""
    base = [one for one in found if one.cell.by == "base"]
    most = max(base, key=lambda one: len(one.cell.figures or ()), default=None)
    return [*([most] if most else []), *(one for one in found if one.cell.by != "base")]


def _recording(run: Path, entry: Mapping[str, Any], clips: Sequence[Clip], notes: list[str]) -> _Sound | None:
    """Find the recording of a preview's text among the held-out clips, by its text and its length."""
    seconds = entry.get("recorded_s")
    if not _is_finite(seconds):
        return None
    alike = [clip for clip in clips if clip.text == entry["text"] and abs(clip.duration_s - seconds) < 1e-3]
    if not alike:
        return None
    try:
        path = keep_recording(run, Path(entry["name"]).name, alike[0])
    except Exception as error:  # libsndfile's, or the system's: the grid is whole without it
        notes.append(f"the recording of {entry['name']} cannot be shown: {first_line(error)}")
        return None
    return _Sound(Cell("recording", None, float(seconds)), path)


def _with_addresses(
    rows: Sequence[Sequence[_Sound]], shelf: Shelf, *, best: int | None, notes: list[str]
) -> list[list[Cell]]:
    """Give every cell its address, and pictures to those that matter most, as far as the page has room."""
    last = max((one.cell.step or 0 for row in rows for one in row), default=0)

    def rank(one: _Sound) -> tuple[int, int]:
        step = one.cell.step
        return (0 if step is None else 1 if step in (last, best) else 2), -(step or 0)

    pictures: dict[int, str] = {}
    addresses: dict[int, str] = {}
    for one in sorted((one for row in rows for one in row), key=rank):
        try:  # libsndfile's errors, and the system's: the grid is whole without this sound
            if fault := check_riff(one.path):
                notes.append(f"{one.path.name} is damaged: {fault.why}")
            pictures[id(one)] = shelf.picture(one.path)
        except Exception as error:
            notes.append(f"{one.path.name} cannot be drawn: {first_line(error)}")
        try:
            addresses[id(one)] = shelf.address(one.path)
        except Exception as error:
            notes.append(f"{one.path.name} cannot be put into the page: {first_line(error)}")
    if "" in pictures.values():
        notes.append(f"{list(pictures.values()).count('')} sounds have no picture: the page stays under its size")
    return [
        [replace(one.cell, address=addresses.get(id(one), ""), picture=pictures.get(id(one), "")) for one in row]
        for row in rows
    ]
