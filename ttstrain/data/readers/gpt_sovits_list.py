"""What GPT-SoVITS' own tools and its users' editors do to a list of `path|speaker|language|text`.

Its slicer writes recordings to `<output>/<name>/`, its recogniser the list of them to `<output>/asr_opt/<name>.list`,
with the absolute paths of that machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from ttstrain.data.readers.lines import Line

LISTS = "asr_opt"
BAR = "|"
LOOKALIKES = "｜￨│┃∣ǀ¦"  # full-width and half-width forms, box drawing, "divides", a click, the broken bar
_LOOKALIKE = re.compile(f"[{LOOKALIKES}]")
_COLUMNS = 4


def with_plain_bars(lines: Sequence[Line], *, is_list: bool) -> tuple[list[Line], frozenset[int]]:
    """Put `|` for bars that only look like it; return the lines, and the numbers of those that were changed.

    A line is changed that has no `|`, no tab, and no comma before its first bar; of a list also one that has four
    columns only with them.
    """
    changed = frozenset(line.number for line in lines if _is_meant(line.text, is_list=is_list))
    plain = [
        Line(line.number, _LOOKALIKE.sub(BAR, line.text)) if line.number in changed else line
        for line in lines
    ]  # fmt: skip
    return plain, changed


def _is_meant(text: str, *, is_list: bool) -> bool:
    before, *more = _LOOKALIKE.split(text)
    if not more:
        return False
    if BAR not in text:
        return "," not in before and "\t" not in text
    return is_list and text.count(BAR) < _COLUMNS - 1 == text.count(BAR) + len(more)


def list_in(folder: Path) -> list[Path]:
    """Find the lists that upstream's recogniser wrote: below its output folder, or beside a folder of recordings."""
    below = sorted((folder / LISTS).glob("*.list"))
    beside = folder.parent / LISTS / f"{folder.resolve().name}.list"
    return below or ([beside] if beside.is_file() else [])


def folders_beside(table: Path, *, written: str, speaker: str) -> Iterator[Path]:
    """Yield where the recordings of a list may lie that has moved with them: by the folder they had, and its names."""
    above = (table.parent, table.parent.parent)
    names = (PureWindowsPath(written).parent.name, table.stem, speaker)
    for name in dict.fromkeys(name for name in names if _is_one_name(name)):
        for folder in above:
            if (folder / name).is_dir():
                yield folder / name


def _is_one_name(name: str) -> bool:
    return bool(name.strip(".")) and PureWindowsPath(name).name == name
