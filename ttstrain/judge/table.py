"""The figures of several sides in a table of 80 columns, and the remarks on single clips in one line for each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttstrain.judge.figures import gain, meaning
from ttstrain.judge.rule import Standing, words_change
from ttstrain.layout import WIDTH
from ttstrain.terminal import on_one_line

COLUMNS: Mapping[str, str] = {  # figure -> title
    "voice": "voice",
    "words": "words",
    "cer": "CER",
    "mos": "MOS",
    "pace": "pace",
    "mcd": "MCD",
    "repeats": "twice",
    "too_short": "short",
    "too_long": "long",
}
ALWAYS = ("voice", "words", "cer", "mos", "pace", "mcd")  # shown where measured; the others where they are not 0
BETTER, WORSE = "▲", "▼"


@dataclass(frozen=True, slots=True)
class Remark:
    """What could not be measured of one clip, or was done to it."""

    side: str  # short name
    words: str


def lay_out(rows: Sequence[tuple[str, Standing]], base: Standing | None) -> list[str]:
    """Lay the means out, a line for each short name; one that does not fit has a line of its own."""
    shown = [
        name
        for name in COLUMNS
        if any((mean := one.mean(name)) is not None and (name in ALWAYS or mean > 0) for _, one in rows)
    ]
    width = WIDTH - 8 * len(shown)
    lines = [f"{'':{width}}" + "".join(f"{COLUMNS[name]:>7} " for name in shown)]
    for name, one in rows:
        title = on_one_line(name)
        if len(title) >= width:
            lines.append(title)
            title = ""
        lines.append(f"{title:{width}}" + "".join(_cell(one, figure, base) for figure in shown))
    return [line.rstrip() for line in lines]


def _cell(standing: Standing, name: str, base: Standing | None) -> str:
    mean = standing.mean(name)
    if mean is None:
        return f"{'-':>7} "
    words = standing.words
    value = f"{words.found}/{words.of}" if name == "words" and words is not None else _shown(name, mean)
    return f"{value:>7}{_mark(standing, name, base)}"


def _mark(standing: Standing, name: str, base: Standing | None) -> str:
    """Return the sign of a figure that differs from the base's by more than the interval, and visibly; else a space."""
    if name == "words":
        return {"gained": BETTER, "lost": WORSE, "none": " "}[words_change(standing.against_base)]
    before = None if base is None else base.mean(name)
    difference, after = standing.against_base.get(name), standing.mean(name)
    if difference is None or before is None or after is None or difference.holds_zero:
        return " "
    better = gain(name, before=before, after=after)
    if not better or _shown(name, before) == _shown(name, after):
        return " "
    return BETTER if better > 0 else WORSE


def _shown(name: str, mean: float) -> str:
    return f"{mean:.{meaning(name).digits}f}"


def merged(remarks: Iterable[Remark]) -> list[str]:
    """Return one line for each kind of remark, with the number of clips and whose they are."""
    kinds: dict[str, Counter[str]] = {}
    for remark in remarks:
        kinds.setdefault(remark.words, Counter())[remark.side] += 1
    return [
        f"{words} (clips: {', '.join(f'{side} {count}' for side, count in sides.items())})"
        for words, sides in kinds.items()
    ]
