"""The table of `ttstrain eval RUN --blend`, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ttstrain.layout import labelled
from ttstrain.terminal import on_one_line

if TYPE_CHECKING:
    from ttstrain.judge.dial import Dial, Mark
    from ttstrain.judge.evaluate import Evaluation

TITLES = ("voice", "likeness", "words", "pace", "retention", "forgotten", "undone")


def print_dial(dial: Dial, found: Evaluation) -> None:
    """Print a line for each blend, the knee in words and the command that exports it."""
    for note in found.notes:
        print(on_one_line(f"note: {note}"), file=sys.stderr)
    heard = f"{len(found.sentences)} sentences"
    measured = f"; retention: mean loss of {dial.clips} clips, {dial.source}" if dial.clips else ""
    print("\n".join(labelled("", heard + measured, column=0)))
    print("\n".join(table(dial)))
    full = next(mark for mark in dial.marks if mark.blend == 1)
    for fault in full.standing.faults:
        print("\n".join(labelled("not usable", f"the fine-tune itself: {fault.words}", column=12)))
    print("\n".join(labelled("knee", dial.words, column=12)))
    if dial.command is not None:  # not wrapped, so that it can be copied
        print(f"{'export':12}{on_one_line(dial.command)}")
    sys.stdout.flush()


def table(dial: Dial) -> list[str]:
    """Lay the blends out in 80 columns; columns without a value are left out."""
    rows = [_cells(mark) for mark in dial.marks]
    shown = [title for title in TITLES if any(row[title] for row in rows)]
    widths = {title: len(title) + 2 for title in shown}
    lines = [f"{'blend':<6}" + "".join(f"{title:>{widths[title]}}" for title in shown)]
    for mark, row in zip(dial.marks, rows, strict=True):
        end = "  knee" if mark is dial.knee else "  base" if mark.blend == 0 else ""
        cells = "".join(f"{row[title] or '-':>{widths[title]}}" for title in shown)
        lines.append(f"{mark.blend:<6g}{cells}{end}")
    return lines


def _cells(mark: Mark) -> dict[str, str]:
    means = {name: mark.standing.mean(name) for name in ("voice", "words", "pace")}
    cells = {name: "" if mean is None else f"{mean:.2f}" for name, mean in means.items()}
    cells["likeness"] = "" if mark.likeness is None else f"{100 * mark.likeness:.0f} %"
    cells["retention"] = "" if mark.retention is None else f"{mark.retention.mean:.4f}"
    cells["forgotten"] = "" if mark.forgotten is None else f"{mark.forgotten.mean:+.4f}"
    cells["undone"] = "" if mark.undone is None else f"{100 * mark.undone:.0f} %"
    return cells
