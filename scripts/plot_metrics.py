"""Draw curves out of runs' metrics.jsonl as one SVG picture. Needs nothing but Python.

python scripts/plot_metrics.py runs/a runs/b --key eval/loss/total --key eval/ema_loss/total -o curves.svg
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 36, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: tell apart for everyone
LABEL_ROOM = 150  # beside the legend's stroke
MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """One key of one run."""

    label: str
    points: list[tuple[float, float]]  # (step, value)


def read_curves(runs: Sequence[Path], keys: Sequence[str]) -> Iterator[Curve]:
    """Yield every key that a run logged. Raises SystemExit when a run has none of them."""
    for run in runs:
        path = run / "metrics.jsonl" if run.is_dir() else run
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = False
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
            if points:
                found = True
                yield Curve(f"{run.name} {key}" if len(runs) > 1 else key, sorted(points))
        if not found:
            raise SystemExit(f"error: `{path}` has none of {', '.join(keys)}")


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers within [low, high], at most six."""
    raw = (high - low) / (MOST_TICKS - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def round_values(low: float, high: float) -> list[float]:
    """Return the exponents of the numbers 1, 2 and 5 times a power of ten in [low, high], given as exponents."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    exponents = [power + math.log10(digit) for power in powers for digit in (1, 2, 5)]
    return [exponent for exponent in exponents if low <= exponent <= high]


def draw(curves: Sequence[Curve], *, title: str, logarithmic: bool) -> str:
    """Return an SVG document with one line for each curve."""
    steps = [step for curve in curves for step, _ in curve.points]
    values = [math.log10(value) if logarithmic else value for curve in curves for _, value in curve.points]
    low_x, high_x, low_y, high_y = min(steps), max(steps), min(values), max(values)
    pad = 0.05 * (high_y - low_y) or 1.0
    low_y, high_y = low_y - pad, high_y + pad

    def at(step: float, value: float) -> tuple[float, float]:
        across = (step - low_x) / ((high_x - low_x) or 1.0)
        up = ((math.log10(value) if logarithmic else value) - low_y) / (high_y - low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>',
    ]
    for tick in round_values(low_y, high_y) if logarithmic else ticks(low_y, high_y):
        value = 10.0**tick if logarithmic else tick
        _, y = at(low_x, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for tick in ticks(low_x, high_x):
        x, _ = at(tick, 10.0**low_y if logarithmic else low_y)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    longest = max(len(curve.label) for curve in curves)
    legend_x = WIDTH - RIGHT - max(LABEL_ROOM, 6.2 * longest) - 24
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in curve.points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        y = TOP + 14 + 16 * index
        parts.append(
            f'<line x1="{legend_x}" x2="{legend_x + 18}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{legend_x + 24}" y="{y + 4}">{escape(curve.label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders or metrics.jsonl files")
    parser.add_argument("--key", action="append", required=True, help="what to draw, as named in metrics.jsonl")
    parser.add_argument("--title", default="")
    parser.add_argument("--log", action="store_true", help="logarithmic values")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    curves = list(read_curves(arguments.runs, arguments.key))
    arguments.out.write_text(draw(curves, title=arguments.title, logarithmic=arguments.log), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
