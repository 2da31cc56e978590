"""Draw what scripts/manifest_scale.py measured as one SVG picture: seconds and memory by the number of rows.

plot_manifest_scale.py scripts/bench/results/manifest-scale-*.json -o docs/img/manifest_scale.svg

Where several files measured one size, the last one counts. Bars have a logarithmic scale of seconds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 720, 250, 90, 15, 12, 48
LOW, HIGH = 0.1, 1000.0  # seconds
COLOURS = {"time": "#0072b2", "again": "#009e73"}
SHOWN = (  # where a figure is, what it is called, its colour
    (("first_plan", "seconds"), "first plan", "time"),
    (("second_plan", "seconds"), "plan again", "again"),
    (("training", "first_batch_s"), "loader opened, first batch", "time"),
    (("training", "resume_s"), "resume in epoch 20", "time"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    sizes: dict[int, dict[str, Any]] = {}
    for path in given.results:
        for one in json.loads(path.read_text(encoding="utf-8"))["sizes"]:
            sizes[one["rows"]] = {**sizes.get(one["rows"], {}), **one}
    given.out.write_text(draw([sizes[rows] for rows in sorted(sizes)]), encoding="utf-8")


def draw(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG document with a group of bars for each size."""
    parts: list[str] = []
    y = TOP
    for one in sizes:
        parts.append(f'<text x="12" y="{y + 12}" font-weight="bold">{one["rows"]:,} rows</text>')
        for (step, key), label, colour in SHOWN:
            value = one.get(step, {}).get(key)
            parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
            if value is None:
                parts.append(f'<text x="{LEFT + 4}" y="{y + 12}" fill="#777777">not measured</text>')
            else:
                length = _across(value) - LEFT
                parts.append(
                    f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[colour]}"/>'
                    f'<text x="{LEFT + length + 6:.1f}" y="{y + 12}">{_shown(one[step], key)}</text>'
                )
            y += BAR + 3
        y += GAP
    ticks = [10.0**power for power in range(round(math.log10(LOW)), round(math.log10(HIGH)) + 1)]
    lines = [
        f'<line x1="{_across(tick):.1f}" x2="{_across(tick):.1f}" y1="{TOP - 6}" y2="{y}" stroke="#dddddd"/>'
        f'<text x="{_across(tick):.1f}" y="{TOP - 12}" text-anchor="middle">{tick:g} s</text>'
        for tick in ticks
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
        '<text x="12" y="18" font-size="13">What a table costs by its rows (logarithmic)</text>'
    )
    return "\n".join([head, *lines, *parts, "</svg>"]) + "\n"


def _across(seconds: float) -> float:
    share = math.log10(min(max(seconds, LOW), HIGH) / LOW) / math.log10(HIGH / LOW)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _shown(step: Mapping[str, Any], key: str) -> str:
    memory = f", {step['peak_mb'] / 1000:.2g} GB" if key == "seconds" else ""
    return f"{step[key]:.3g} s{memory}"


if __name__ == "__main__":
    main()
