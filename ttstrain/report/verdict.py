"""The verdict on a run in words: what is heard, what the losses say, what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain import documents
from ttstrain.bands.outcome import read_outcome
from ttstrain.checkpoint import judged, run_folder
from ttstrain.errors import CheckpointError
from ttstrain.forecast.forecast import FILE
from ttstrain.judge.figures import MEANINGS
from ttstrain.registry import unit_of
from ttstrain.report.events import Events
from ttstrain.report.samples import spread
from ttstrain.report.series import Metrics, Series
from ttstrain.shell import quoted
from ttstrain.tracking.console import duration
from ttstrain.tracking.judged import read_verdicts

Tone = Literal["good", "bad", "neutral"]
_TONES: Mapping[str, Tone] = {"better": "good", "worse": "bad", "unusable": "bad"}
_SIDES = {"online": "raw weights", "ema": "EMA", "base": "base"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to think of a run, the most important first."""

    tone: Tone = "neutral"
    sentences: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class JudgedSide:
    """What the judge heard of one set of weights at one step."""

    step: int | None  # None for the base
    whose: str
    usable: bool
    faults: Sequence[str]
    figures: Mapping[str, Mapping[str, float | None]]  # name -> mean, and the interval's low and high where it has some


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that the judge heard."""

    titles: Sequence[tuple[str, str, int]] = ()  # name, title and digits of each figure that was measured
    sides: Sequence[JudgedSide] = ()
    words: Sequence[tuple[int, str]] = ()  # step -> verdict on it
    left_out: int = 0  # steps that are not shown


def find_verdict(run: Path, metrics: Metrics, events: Events) -> Verdict:
    """Say what the judge and the losses say of a run."""
    said = read_verdicts(run)
    tone: Tone = "neutral" if said.exported is None else _TONES.get(said.exported.outcome, "neutral")
    sentences = [f"Judge: {sentence}." for sentence in said.sentences]
    sentences += [*_loss(metrics), *_beside_reference(run), *_distance(metrics), *_trouble(events)]
    if not sentences:
        sentences = ["Nothing was measured yet."]
    return Verdict(tone, sentences)


def _loss(metrics: Metrics) -> Iterator[str]:
    keys = metrics.keys("eval/loss/")
    key = "eval/loss/total" if "eval/loss/total" in keys else next(iter(keys), None)
    if key is None:
        return
    known = _known(metrics, key)
    if len(known) < 2:
        return
    (first, before), (last, now) = known[0], known[-1]
    best_step, best = min(known, key=lambda pair: pair[1])
    went = "fell" if now < before else "rose"
    sentence = f"Held-out loss {went} from {before:.4g} (step {first:,}) to {now:.4g} (step {last:,})"
    averaged = _lowest(metrics, key.replace("eval/loss/", "eval/ema_loss/", 1))
    if best_step == first and averaged is not None and averaged[1] < before:
        yield f"{sentence}; the EMA's was lowest at step {averaged[0]:,} with {averaged[1]:.4g}."
    elif best_step == first:
        yield f"{sentence}: no evaluation is better than the first one. Lower the LR, or check the data."
    elif best_step != last:
        yield f"{sentence}; it was lowest at step {best_step:,} with {best:.4g} and has risen since."
    else:
        yield f"{sentence}, its lowest so far."


def _known(metrics: Metrics, key: str) -> list[tuple[int, float]]:
    """Return the steps and finite values of a metric; none where it was not logged."""
    series = metrics.series.get(key, Series())
    return [(step, value) for step, value in zip(series.steps, series.values, strict=True) if math.isfinite(value)]


def _lowest(metrics: Metrics, key: str) -> tuple[int, float] | None:
    return min(_known(metrics, key), key=lambda pair: pair[1], default=None)


def _beside_reference(run: Path) -> Iterator[str]:
    """Say where the first steps lie beside the reference runs of the recipe, and the likely causes."""
    try:
        outcome = read_outcome(run)
    except CheckpointError:
        return
    if outcome is None:
        return
    if outcome.why_not:
        yield f"Not compared with the reference runs of `{outcome.recipe}`: {outcome.why_not}."
    elif outcome.sentences:
        where, *causes = outcome.sentences
        told = (
            f" {'Likely cause' if outcome.place != 'inside' else 'It differs'}: {'; '.join(causes)}." if causes else ""
        )
        yield f"{where[0].upper()}{where[1:]}.{told}"


def _distance(metrics: Metrics) -> Iterator[str]:
    known = _known(metrics, "sample/mel_distance/mean")
    if len(known) > 1:
        (first, before), (last, now) = known[0], known[-1]
        yield (
            f"Mel distance of the samples to the recordings: {before:.3f} at step {first:,}, {now:.3f} at step "
            f"{last:,}."
        )


def _trouble(events: Events) -> Iterator[str]:
    if events.counts:
        counts = ", ".join(f"{kind} {count}" for kind, count in events.counts.items())
        times = sum(events.counts.values())
        yield f"The guard acted {times} time{'s' * (times > 1)}: {counts}."
    if events.warnings:
        yield f"Warnings, which are listed below: {len(events.warnings)}."


def read_judgement(run: Path, *, best: int | None = None) -> Judgement:
    """Read the judge's figures with their intervals; none where they are missing or damaged.

    Of many steps the first, the last, the best and others spread evenly are shown.
    """
    try:
        every = {one.step: one for one in judged.read(run).steps}
    except CheckpointError:
        return Judgement()
    steps = [every[step] for step in spread(sorted(every), best=best)]
    sides: list[JudgedSide] = []
    for one in steps:
        for whose in ("online", "ema"):
            if isinstance(side := one.sides.get(whose), Mapping):
                sides.append(_side(one.step, whose, side))
    if steps and isinstance(base := steps[-1].sides.get("base"), Mapping):
        sides.insert(0, _side(None, "base", base))
    measured = {name for side in sides for name in side.figures}
    titles = [(one.name, one.title, one.digits) for one in MEANINGS if one.name in measured]
    return Judgement(titles, sides, [(one.step, one.words) for one in steps], left_out=len(every) - len(steps))


def _side(step: int | None, whose: str, values: Mapping[str, Any]) -> JudgedSide:
    found = values.get("figures")
    figures = {
        str(name): {part: _number(interval.get(part)) for part in ("mean", "low", "high")}
        for name, interval in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(interval, Mapping) and _number(interval.get("mean")) is not None
    }
    faults = [str(fault) for fault in values.get("faults") or ()]
    return JudgedSide(step, _SIDES[whose], bool(values.get("usable")), faults, figures)


def _number(value: Any) -> float | None:
    """Return a number that is one, as short as the page needs it; of one sentence there is no interval."""
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(f"{value:.5g}")


# ---------------------------------------------------------------- what the run is


def headline(run: Path, plan: Mapping[str, Any], metrics: Metrics) -> list[tuple[str, str]]:
    """Return the facts that stand under the run's name: label, text."""
    recipe = plan.get("recipe") if isinstance(plan.get("recipe"), Mapping) else {}
    assert isinstance(recipe, Mapping)
    environment = run_folder.read_environment(run)
    packages = environment.get("packages") if isinstance(environment.get("packages"), Mapping) else {}
    assert isinstance(packages, Mapping)
    steps = f"{max(metrics.last_step, 0):,} of {_count(plan.get('steps'))}"
    facts = [
        ("steps", steps),
        ("task", str(recipe.get("task") or "")),
        ("base", str(recipe.get("base") or "from scratch")),
        ("parameters", f"{_count(plan.get('num_parameters'))}, trained {_count(plan.get('num_trained'))}"),
        ("started", str(environment.get("started") or "")[:16].replace("T", " ")),
        ("versions", f"ttstrain {environment.get('ttstrain', '?')}, torch {packages.get('torch', '?')}"),
        ("devices", ", ".join(_device(one) for one in environment.get("devices") or ()) or "CPU"),
    ]
    speed = metrics.last("perf/frames_per_s")
    if speed is not None:
        facts.append(("speed", f"{speed:,.0f} {unit_of(str(recipe.get('task')))} a second"))
    facts.append(("took", _time_taken(run)))
    if command := environment.get("command"):
        facts.append(("command", quoted("ttstrain", *command)))
    return [(label, text) for label, text in facts if text]


def _time_taken(run: Path) -> str:
    """Say how long the last session took, and what was forecast; "" where it did not end or was not measured."""
    try:
        values = documents.read_object(run / FILE, error=CheckpointError, keys={"took": dict})
        took = documents.check_object(values["took"], {"total_s": float})["total_s"]
    except (CheckpointError, documents.DocumentError):
        return ""
    if values.get("forecast") is None:
        return duration(took)
    try:
        forecast = documents.check_object(values["forecast"], {"taken": dict})
        said = documents.check_object(forecast["taken"], {"total_s": float})["total_s"]
    except documents.DocumentError:
        return duration(took)
    return f"{duration(took)}, forecast {duration(said)}"


def _device(device: Any) -> str:
    return str(device.get("name") or device) if isinstance(device, Mapping) else str(device)


def _count(number: Any) -> str:
    if not isinstance(number, int):
        return "?"
    return f"{number / 1e6:.1f} M" if number >= 1_000_000 else f"{number:,}"
