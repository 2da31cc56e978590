"""What was measured, as one SVG picture: memory over the budget, the wait for data, the gain over the LR."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ttstrain.plan.render import shown_bytes
from ttstrain.trial.fit import Fit
from ttstrain.trial.lr import Curve
from ttstrain.trial.lr_choice import smoothed
from ttstrain.trial.tune import Tuned
from ttstrain.trial.workers import Waited, processes

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 720, 236, 70, 20, 50, 36
LINE = 18  # between two lines of text
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-weight:600;fill:#111}.axis{stroke:#999}"
    ".line{fill:none;stroke:#2563eb;stroke-width:2}.dot{fill:#2563eb}.bad{fill:#c2410c}"
    ".mark{stroke:#15803d;stroke-width:2}.limit{stroke:#c2410c;stroke-dasharray:5 4}"
    "@media(prefers-color-scheme:dark){svg{background:#111}text{fill:#bbb}.title{fill:#eee}.line{stroke:#60a5fa}"
    ".dot{fill:#60a5fa}.bad{fill:#fb923c}.limit{stroke:#fb923c}.mark{stroke:#4ade80}}"
)


def draw(tuned: Tuned) -> str:
    """Return the picture as a whole SVG file, which needs nothing else."""
    panels = [
        *([] if tuned.fit is None else [_of_memory(tuned.fit)]),
        *([_of_waits(tuned.waits, tuned.workers)] if len(tuned.waits) > 1 else []),  # one point needs no picture
        *(_of_lr(curve) for curve in tuned.curves if curve.lrs),
    ]
    height = PANEL * len(panels)
    body = "".join(f'<g transform="translate(0,{PANEL * i})">{panel.svg()}</g>' for i, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<title>{html.escape(tuned.name)}</title><style>{STYLE}</style>{body}</svg>\n"
    )


@dataclass(slots=True)
class _Panel:
    """Points over two axes that begin and end at the given values."""

    title: str
    xs: tuple[float, float]
    ys: tuple[float, float]
    x_ends: tuple[str, str]
    y_ends: tuple[str, str]
    shapes: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.xs
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.ys
        return PANEL - BOTTOM - (value - low) / ((high - low) or 1.0) * (PANEL - BOTTOM - TOP)

    def line(self, points: Sequence[tuple[float, float]]) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.shapes.append(f'<polyline class="line" points="{path}"/>')

    def dot(self, x: float, y: float, label: str, *, good: bool = True) -> None:
        kind = "dot" if good else "bad"
        self.shapes.append(
            f'<circle class="{kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4"><title>{html.escape(label)}'
            "</title></circle>"
        )

    def across(self, y: float, kind: str = "limit") -> None:
        at = f"{self.y(y):.1f}"
        self.shapes.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')

    def zero(self) -> None:
        """Draw where y is 0, and say so beside the axis where there is room between its ends."""
        self.across(0.0, "axis")
        at = self.y(0.0)
        if min(at - TOP, PANEL - BOTTOM - at) > LINE:
            self.shapes.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">0</text>')

    def mark(self, x: float, label: str, *, good: bool = True) -> None:
        at, kind = f"{self.x(x):.1f}", "mark" if good else "limit"
        self.shapes.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{TOP}" y2="{PANEL - BOTTOM}"/>')
        side = "end" if self.x(x) > WIDTH / 2 else "start"
        gap = -6 if side == "end" else 6
        self.shapes.append(f'<text x="{float(at) + gap:.1f}" y="{TOP - 6}" text-anchor="{side}">{label}</text>')

    def svg(self) -> str:
        bottom, right = PANEL - BOTTOM, WIDTH - RIGHT
        return (
            f'<text class="title" x="{LEFT}" y="20">{html.escape(self.title)}</text>'
            f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
            f'<text x="{LEFT}" y="{bottom + 18}">{self.x_ends[0]}</text>'
            f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{self.x_ends[1]}</text>'
            f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{self.y_ends[0]}</text>'
            f'<text x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{self.y_ends[1]}</text>' + "".join(self.shapes)
        )


def _of_memory(found: Fit) -> _Panel:
    tried = sorted(found.tried, key=lambda one: one.budget)
    most = max([found.room, *(one.memory for one in tried)])
    panel = _Panel(
        "memory over the budget, largest micro-batches",
        (0, tried[-1].budget),
        (0, most),
        ("0", f"{tried[-1].budget:,} frames"),
        ("0", shown_bytes(most)),
    )
    panel.line([(one.budget, one.memory) for one in tried if not one.failed])
    for one in tried:
        good = not one.failed and one.memory <= found.room
        panel.dot(one.budget, one.memory, f"{one.budget:,} frames: {shown_bytes(one.memory)}", good=good)
    panel.across(found.room)
    panel.mark(found.budget, f"{found.budget:,}")
    return panel


def _of_waits(waits: Sequence[Waited], chosen: int) -> _Panel:
    most = max(*(one.share for one in waits), 0.02)
    last = max(*(one.workers for one in waits), 1)
    panel = _Panel(
        "share of a step that waits for data, over loader processes",
        (0, last),
        (0, most),
        ("0", processes(last)),
        ("0 %", f"{100 * most:.1f} %"),
    )
    panel.line([(one.workers, one.share) for one in waits])
    for one in waits:
        panel.dot(one.workers, one.share, f"{processes(one.workers)}: {100 * one.share:.1f} %")
    panel.mark(chosen, f"{chosen}")
    return panel


def _of_lr(curve: Curve) -> _Panel:
    """Draw how far the loss fell at each LR, and its mean; the LR that is proposed, and the one it was taken from."""
    means = smoothed(curve.gains)
    high = max([*means, *curve.gains[: len(means)], 0.01])
    low = max(min([*curve.gains[: len(means)], 0.0]), -high)  # where the loss explodes, the rest would be flat
    tens = [math.log10(lr) for lr in curve.lrs]
    panel = _Panel(
        f"{curve.key}: how far the loss falls, over the LR (recipe: {curve.planned:.1e})",
        (tens[0], tens[-1]),
        (low, high),
        (f"{curve.lrs[0]:.1e}", f"{curve.lrs[-1]:.1e}"),
        (f"{100 * low:+.1f} %", f"{100 * high:+.1f} %"),
    )
    panel.zero()
    panel.line([(ten, max(mean, low)) for ten, mean in zip(tens, means, strict=False)])
    for lr, ten, gain in zip(curve.lrs, tens, curve.gains[: len(means)], strict=False):
        panel.dot(ten, min(max(gain, low), high), f"{lr:.1e}: {100 * gain:+.1f} %", good=gain >= low)
    if curve.choice.how == "worse" and curve.choice.at is not None:
        panel.mark(math.log10(curve.choice.at), f"worse from {curve.choice.at:.1e}", good=False)
    if curve.choice.lr is not None:
        panel.mark(math.log10(curve.choice.lr), f"{curve.choice.lr:.1e}")
    return panel
