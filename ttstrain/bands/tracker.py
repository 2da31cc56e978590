"""Compares a run's first steps with the reference runs of its recipe while it trains, and says what it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ttstrain.bands.band import COMPARED, LR, STEPS, Band, find_band
from ttstrain.bands.causes import differences, signs, told_even_inside
from ttstrain.bands.compare import Finding, compare, looks, worst
from ttstrain.bands.outcome import Outcome, read_outcome, write_outcome
from ttstrain.errors import first_line
from ttstrain.tracking import jsonl
from ttstrain.tracking.tracker import RunInfo, Tracker, Trackers

POSITION, VERDICT = "band/", "band/verdict"  # keys: 0 is the middle of a band and 1 its upper edge; -1, 0 or 1
VALUES = {"inside": 0.0, "above": 1.0, "below": -1.0}
TOO_FEW = "too few of its first steps were taken or logged (`train.log_every`)"
NAMES = {"train/loss/": "training loss", "eval/loss/": "held-out loss", "optim/grad_norm/": "gradient norm"}


class BandTracker(Tracker):
    """Tells where the curves of a run lie, once they are known to lie outside or at the last step compared.

    Logs `band/<metric>` after each stretch of steps. What goes wrong is noted, and the run goes on.
    """

    def __init__(self, trackers: Trackers) -> None:
        """Take the trackers that log and show what is found; this one is among them."""
        self._trackers = trackers
        self._run = Path()
        self._outcome: Outcome | None = None
        self._band: Band | None = None
        self._seed = 0
        self._looks: list[int] = []
        self._points: dict[str, dict[int, float]] = {}

    def start(self, info: RunInfo) -> None:
        try:
            self._start(info)
        except Exception as error:
            self._leave(f"the run is not compared with reference runs: {first_line(error)}")

    def _start(self, info: RunInfo) -> None:
        self._run, self._outcome = info.run_dir, read_outcome(info.run_dir)
        if self._outcome is None:
            return
        if not self._outcome.open:
            if self._outcome.why_not and not info.resumed:
                self._leave(
                    f"not compared with the reference runs of `{self._outcome.recipe}`: {self._outcome.why_not}"
                )
            return
        self._band = find_band(self._outcome.recipe)
        self._seed = int(info.recipe["train"]["seed"])
        if self._band is None:
            return
        self._looks = [0, *looks(min(self._band.steps, info.total_steps))]
        if info.resumed:
            for row in jsonl.read(info.run_dir / jsonl.FILE_NAME):
                self._keep(int(row["step"]), row)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._band is None or any(key.startswith(POSITION) for key in values):
            return
        self._keep(step, values)
        passed = [look for look in self._looks if look <= step]
        if passed and (step == 0 or any(key.startswith(LR) for key in values)):  # else it is only an evaluation
            self._looks = self._looks[len(passed) :]
            try:
                self._look(step, passed, last=not self._looks)
            except Exception as error:
                self._leave(f"the run is not compared with reference runs: {first_line(error)}")

    def finish(self, status: str) -> None:
        self._band = None

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        if step <= STEPS:
            for key, value in values.items():
                if key.startswith((*COMPARED, LR)):
                    self._points.setdefault(key, {})[step] = value

    def _look(self, step: int, passed: Sequence[int], *, last: bool) -> None:
        """Compare up to a step, which passed these looks; settle it where something lies outside, or at the last."""
        assert self._band is not None
        assert self._outcome is not None
        band = self._band
        findings = compare(self._points, band, seed=self._seed, upto=step)
        found = worst(findings)
        new = {POSITION + finding.key: finding.position for finding in findings if finding.last in passed}
        values = {key: position for key, position in new.items() if math.isfinite(position)}
        if last and not any(finding.last for finding in findings):
            self._outcome = replace(self._outcome, why_not=TOO_FEW)
            write_outcome(self._run, self._outcome)
            self._leave(f"not compared with the reference runs of `{band.recipe}`: {TOO_FEW}")
            return
        if found is None and not last:
            if values:
                self._trackers.log(step, values)
            return
        if found is None:
            causes = told_even_inside(self._outcome.facts, band, self._points)
        else:
            causes = differences(self._outcome.facts, band, self._points) or signs(findings)
        place = "inside" if found is None else found.place
        upto = min(step, STEPS)
        sentences = [_where(found, band, upto), *causes]
        self._outcome = replace(self._outcome, place=place, step=upto, sentences=tuple(sentences))
        write_outcome(self._run, self._outcome)
        self._band = None  # settled
        self._trackers.log(step, {**values, VERDICT: VALUES[place]})
        if found is None:
            also = f"; what differs from them: {'; '.join(causes)}" if causes else ""
            self._trackers.note(f"{sentences[0]}{also}")
        else:
            self._trackers.warn(f"{sentences[0]}. Likely cause: {'; '.join(causes)}")

    def _leave(self, message: str) -> None:
        self._band = None
        self._trackers.note(message)


def _where(found: Finding | None, band: Band, step: int) -> str:
    runs = f"{len(band.runs)} reference runs of `{band.recipe}`"
    if found is None:
        return f"inside the band: up to step {step:,}, losses and gradient norms are as in the {runs}"
    place = next(prefix for prefix in NAMES if found.key.startswith(prefix))
    name = found.key.removeprefix(place)
    what = NAMES[place] + (f" `{name}`" if name != "total" else "")
    when = f"at step {found.last:,}" if found.first == found.last else f"over steps {found.first:,} to {found.last:,}"
    theirs = f"{found.low:.5g} to {found.high:.5g} in the {runs}"
    if found.low == found.high:
        theirs = f"{found.low:.5g} in the reference run of `{band.recipe}` with the same seed"
    return f"{found.place} the band: the {what} is {found.value:.5g} {when}, and {theirs}"
