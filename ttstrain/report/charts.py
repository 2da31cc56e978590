"""The charts of a run: which metrics stand in which chart, and their points.

Every metric is drawn somewhere: what no chart asks for stands in a chart of its own kind at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ttstrain.judge.figures import MEANINGS
from ttstrain.registry import unit_of
from ttstrain.report.planned import planned_lrs
from ttstrain.report.reference import Shade
from ttstrain.report.series import Metrics, align, running_median, thin, written

MOST_POINTS = 1200  # rows of one chart, about
MOST_LINES = 24  # of one chart; a model with more terms gets several charts
Style = Literal["line", "faint", "planned", "limit"]
Whose = Literal["", "online", "ema", "base"]
Section = Literal["losses", "heard", "optimizer", "speed", "other"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    key: str  # of its metric
    label: str
    style: Style = "line"
    whose: Whose = ""  # the weights that it belongs to, where a chart compares them


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over the same steps."""

    id: str
    section: Section
    title: str
    note: str = ""  # what is shown, and what is good
    unit: str = ""
    log: bool = False  # drawn on a logarithmic axis at first
    lines: Sequence[Line] = ()
    steps: Sequence[int] = ()
    values: Sequence[Sequence[float | None]] = ()  # a row for each line
    thinned: int = 0  # rows that were logged, where not all of them are drawn
    shades: Sequence[Shade] = ()  # bands of reference runs, under the lines


@dataclass(slots=True)
class _Metrics:
    """A run's metrics, and which of them are drawn already."""

    metrics: Metrics
    shades: Mapping[str, Shade]
    drawn: set[str] = field(default_factory=set)

    def lines(self, prefix: str, label: Callable[[str], str] = str, *, whose: Whose = "") -> list[Line]:
        """Return a line for each metric that begins with `prefix`."""
        return [
            Line(key, label(key.removeprefix(prefix)), whose=whose)
            for key in self.metrics.keys(prefix)
            if key not in self.drawn
        ]

    def chart(self, chart: Chart, lines: Sequence[Line], *, smooth: bool = False) -> Iterator[Chart]:
        """Yield the chart with the points of its lines; several where there are many lines, none without any."""
        known = [line for line in lines if line.key in self.metrics.series]
        self.drawn |= {line.key for line in known}
        for number, first in enumerate(range(0, len(known), MOST_LINES), start=1):
            own = chart
            if number > 1:
                own = replace(chart, id=f"{chart.id}-{number}", title=f"{chart.title} ({number})")
            lines = known[first : first + MOST_LINES]
            shades = [self.shades[line.key] for line in lines if line.key in self.shades]
            yield replace(_filled(own, lines, self.metrics, smooth=smooth), shades=shades)


def _filled(chart: Chart, lines: Sequence[Line], metrics: Metrics, *, smooth: bool) -> Chart:
    steps, values = align([metrics.series[line.key] for line in lines])
    every = list(lines)
    if smooth:
        every = [replace(line, style="faint") for line in lines]
        every += [replace(line, label=f"{line.label}, median of 25") for line in lines]
        values = np.concatenate([values, np.stack([running_median(row) for row in values])])
    kept = thin(values, most=MOST_POINTS)
    return replace(
        chart,
        lines=every,
        steps=steps[kept].tolist(),
        values=[written(row[kept]) for row in values],
        thinned=len(steps) if len(kept) < len(steps) else 0,
    )


def build_charts(metrics: Metrics, plan: Mapping[str, Any], shades: Mapping[str, Shade]) -> list[Chart]:
    """Build all charts of a run from its metrics and its `plan.json`; those without a point are left out.

    `shades` are the bands of metrics by their keys.
    """
    own = _Metrics(metrics, shades)
    return [*_losses(own), *_heard(own), *_optimizer(own, plan), *_speed(own, plan), *_rest(own)]


# ---------------------------------------------------------------- losses


def _losses(own: _Metrics) -> Iterator[Chart]:
    held_out = Chart(
        "held-out",
        "losses",
        "Held-out loss",
        "On recordings that are never trained on. Lower is better; step 0 is the base.",
    )
    main = "total" if "eval/loss/total" in own.metrics.series else _first(own, "eval/loss/")
    yield from own.chart(
        held_out,
        [Line(f"eval/loss/{main}", "raw weights", whose="online"), Line(f"eval/ema_loss/{main}", "EMA", whose="ema")],
    )
    terms = [line for line in own.lines("eval/loss/") if line.label != main]
    note = "The parts of the held-out loss, with the raw weights: terms of the model, or bins of time or of slots."
    yield from own.chart(Chart("held-out-terms", "losses", "Held-out loss, by term", note), terms)
    yield from own.chart(
        Chart("held-out-terms-ema", "losses", "Held-out loss of the EMA, by term"), own.lines("eval/ema_loss/")
    )
    yield from own.chart(
        Chart("stage", "losses", "Held-out loss of the stage", "On the held-out clips of the running stage's data."),
        own.lines("eval/stage/"),
    )
    yield from own.chart(
        Chart(
            "retention", "losses", "Retention", "Loss on held-out clips of the replayed data; a rise means forgetting."
        ),
        own.lines("eval/retention/"),
    )
    yield from own.chart(
        Chart("train", "losses", "Training loss", "Of every logged step, and its running median."),
        own.lines("train/loss/"),
        smooth=True,
    )
    yield from own.chart(Chart("train-metrics", "losses", "Training metrics"), own.lines("train/metric/"))


def _first(own: _Metrics, prefix: str) -> str:
    return next((key.removeprefix(prefix) for key in own.metrics.keys(prefix)), "total")


# ---------------------------------------------------------------- what is heard

_BY_WEIGHTS: Sequence[tuple[str, str, Whose]] = (
    ("", "raw weights", "online"),
    ("ema_", "EMA", "ema"),
    ("base_", "base", "base"),
)


def _heard(own: _Metrics) -> Iterator[Chart]:
    score = "By which the judge chooses: the voice similarity, less 1 where the speech is not usable. Higher is better."
    yield from own.chart(Chart("judge-score", "heard", "Judge: score", score), _by_weights("judge/", "score"))
    own.drawn.add("judge/chosen_score")
    for meaning in MEANINGS:
        better = {"higher": "Higher is better.", "lower": "Lower is better.", "neither": ""}.get(
            meaning.better, f"Best at {meaning.aim:g}." if meaning.aim is not None else ""
        )
        explanation = f"{meaning.explanation[:1].upper()}{meaning.explanation[1:]}."
        chart = Chart(
            f"judge-{meaning.name}",
            "heard",
            f"Judge: {meaning.title}",
            f"{explanation} {better}".strip(),
            meaning.unit,
        )
        yield from own.chart(chart, _by_weights("judge/", meaning.name))
    yield from own.chart(
        Chart(
            "mel-distance",
            "heard",
            "Mel distance of the samples",
            "To the recordings of the same sentences. Lower is better.",
        ),
        _by_weights("sample/", "mel_distance", "/mean"),
    )
    yield from own.chart(
        Chart("duration-ratio", "heard", "Length of the samples", "Over the recordings' length. Best at 1."),
        [Line("sample/duration_ratio/mean", "raw weights", whose="online")],
    )
    own.drawn |= {key for key in own.metrics.keys("sample/") if not key.endswith("/mean")}  # those are in the grid


def _by_weights(place: str, name: str, ending: str = "") -> list[Line]:
    return [Line(f"{place}{prefix}{name}{ending}", label, whose=whose) for prefix, label, whose in _BY_WEIGHTS]


# ---------------------------------------------------------------- the optimizer


def _optimizer(own: _Metrics, plan: Mapping[str, Any]) -> Iterator[Chart]:
    lr = Chart(
        "lr",
        "optimizer",
        "Learning rate of every group",
        "Lines: what each update used. Dashes: what was planned.",
        log=False,
    )
    for chart in own.chart(lr, own.lines("optim/lr/")):
        yield _with_planned(chart, plan)
    norms = Chart(
        "grad-norm",
        "optimizer",
        "Gradient norm",
        "Before clipping. The dashes are the limit, `optim.max_grad_norm`.",
        log=True,
    )
    for chart in own.chart(norms, own.lines("optim/grad_norm/")):
        yield _with_limit(chart, plan)
    yield from own.chart(
        Chart("group-norm", "optimizer", "Gradient norm by group", "Before clipping.", log=True),
        own.lines("optim/group_norm/"),
    )
    ratio = "‖Δw‖/‖w‖ of an update. Where it falls to 0, a group no longer learns."
    yield from own.chart(
        Chart("update-ratio", "optimizer", "Update ratio", ratio, log=True), own.lines("optim/update_ratio/")
    )
    yield from own.chart(
        Chart("ema-distance", "optimizer", "EMA distance", "How far the averaged weights are from the raw ones."),
        [Line("ema/distance", "distance")],
    )
    yield from own.chart(Chart("ema-decay", "optimizer", "EMA decay"), [Line("ema/decay", "decay")])


def _with_planned(chart: Chart, plan: Mapping[str, Any]) -> Chart:
    planned = planned_lrs(plan, chart.steps)
    lines, values = list(chart.lines), list(chart.values)
    for line in chart.lines:
        name = line.key.removeprefix("optim/lr/")
        if name in planned:
            lines.append(replace(line, label=f"{line.label}, planned", style="planned"))
            values.append(written(planned[name]))
    missing = [line.label for line in chart.lines if line.key.removeprefix("optim/lr/") not in planned]
    note = f"{chart.note} Not in the plan: {', '.join(missing)}." if missing else chart.note
    return replace(chart, lines=lines, values=values, note=note)


def _with_limit(chart: Chart, plan: Mapping[str, Any]) -> Chart:
    recipe = plan.get("recipe")
    optim = recipe.get("optim") if isinstance(recipe, Mapping) else None
    limit = optim.get("max_grad_norm") if isinstance(optim, Mapping) else None
    if not isinstance(limit, int | float) or not chart.steps:
        return replace(chart, note="Before clipping; nothing is clipped.")
    line = Line("optim.max_grad_norm", "limit", style="limit")
    return replace(chart, lines=[*chart.lines, line], values=[*chart.values, [float(limit)] * len(chart.steps)])


# ---------------------------------------------------------------- speed, and the rest


def _speed(own: _Metrics, plan: Mapping[str, Any]) -> Iterator[Chart]:
    recipe = plan.get("recipe")
    unit = unit_of(str(recipe.get("task")) if isinstance(recipe, Mapping) else "")
    yield from own.chart(
        Chart("throughput", "speed", "Throughput", f"Real {unit} in a second; padding does not count."),
        [Line("perf/frames_per_s", f"{unit} a second")],
        smooth=True,
    )
    yield from own.chart(
        Chart("step-time", "speed", "Time of a step", "With the wait for data, which should be near 0.", "s"),
        [Line("time/step_s", "step"), Line("time/data_s", "wait for data")],
    )
    yield from own.chart(Chart("mfu", "speed", "MFU"), [Line("perf/mfu", "MFU")])
    yield from own.chart(
        Chart("padding", "speed", "Padding", "Share of a batch."), [Line("perf/padding_share", "padding")]
    )
    yield from own.chart(
        Chart("judge-time", "speed", "Time of the judge", "Share of the time of this session."),
        [Line("judge/share_of_time", "judge")],
    )


def _rest(own: _Metrics) -> Iterator[Chart]:
    """Draw what no chart has asked for, but counters: a chart for each place and kind."""
    own.drawn |= {"guard/skipped", "guard/rollbacks", "data/epoch", "train/stage", "train/total_steps", "time/judge_s"}
    places: dict[str, list[Line]] = {}
    for key in own.metrics.series:
        if key not in own.drawn:
            place, _, name = key.rpartition("/")
            places.setdefault(place, []).append(Line(key, name))
    for place, lines in places.items():
        yield from own.chart(Chart(f"rest-{place.replace('/', '-')}", "other", place), lines)
