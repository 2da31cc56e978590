"""`judge.json` in a run's folder: what was heard at each sampling step, and which weights the judge chose there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.errors import CheckpointError
from ttstrain.weights import Weights

FILE_NAME = "judge.json"
SCHEMA = 1
MOST_BYTES = 256 * documents.MEBIBYTE  # a step takes some 12 kB
FELL = 0.05  # of the voice's similarity, since the best step: the run got worse


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """The verdict on the weights of one step."""

    step: int
    weights: Weights  # the better of both
    outcome: str
    words: str
    score: float | None  # over the sentences that are heard at every step
    sides: Mapping[str, Any]  # weights -> figures with intervals, faults, score
    alarms: Mapping[str, Any] = field(default_factory=dict)  # what was said so far, for a resume
    sentences: int = 0  # that were heard; 0: not known
    trained: int = 0  # of these, whose recordings the run trains on

    @property
    def is_worse(self) -> bool:
        """Whether these weights should not be used."""
        return self.outcome in ("worse", "unusable")

    @property
    def closer(self) -> float | None:
        """How much closer to the voice than the base the chosen weights are; None where that was not measured."""
        voice = self.voice_of(self.weights)
        return None if voice is None else float(voice["mean"])

    def voice_of(self, weights: Weights) -> Mapping[str, Any] | None:
        """Return the interval of how much closer than the base these weights are; None where it was not measured."""
        found: Mapping[str, Any] | None = self.sides.get(weights, {}).get("against_base", {}).get("voice")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "weights": self.weights,
            "outcome": self.outcome,
            "verdict": self.words,
            "score": self.score,
            "sentences": self.sentences,
            "trained": self.trained,
            "sides": dict(self.sides),
            "alarms": dict(self.alarms),
        }

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> JudgedStep:
        return cls(
            step=values["step"],
            weights=values["weights"],
            outcome=values["outcome"],
            words=values["verdict"],
            score=values["score"],
            sides=values["sides"],
            alarms=values["alarms"],
            sentences=values.get("sentences", 0),
            trained=values.get("trained", 0),
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """All that `judge.json` holds."""

    steps: Sequence[JudgedStep] = ()
    base: Mapping[str, Any] = field(default_factory=dict)  # what was heard of the base, by sentence


def write(run: Path, judged: Judged) -> None:
    """Write a run's verdicts so far."""
    document = {"schema": SCHEMA, "steps": [step.to_json() for step in judged.steps], "base": dict(judged.base)}
    atomic.write_text(run / FILE_NAME, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read(run: Path) -> Judged:
    """Read a run's verdicts; none where the run was not judged. Raises CheckpointError where the file is damaged."""
    path = run / FILE_NAME
    if not path.exists():
        return Judged()
    values = documents.read_object(
        path, error=CheckpointError, keys={"steps": list, "base": dict}, most_bytes=MOST_BYTES
    )
    try:
        steps = [JudgedStep.of_json(_checked(entry)) for entry in values["steps"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path}` is damaged: {error}", hint="delete it") from error
    return Judged(steps, values["base"])


_IN_A_STEP: dict[str, type] = {
    "step": int,
    "weights": str,
    "outcome": str,
    "verdict": str,
    "sides": dict,
    "alarms": dict,
}


def _checked(entry: Any) -> dict[str, Any]:
    """Return a step's values. Raises DocumentError where one that is computed with has another type."""
    values = documents.check_object(entry, _IN_A_STEP)
    if values["score"] is not None:
        documents.check_object(values, {"score": float})
    for name in values["sides"]:
        side = documents.check_object(values["sides"], {name: dict})[name]
        voice = documents.check_object({"against_base": {}, **side}, {"against_base": dict})["against_base"].get(
            "voice"
        )
        if voice is not None:
            high = documents.check_object(voice, {"mean": float}).get("high")
            documents.check_object({"high": 0.0 if high is None else high}, {"high": float})
    return documents.check_object({"sentences": 0, "trained": 0, **values}, {"sentences": int, "trained": int})


def top(steps: Sequence[JudgedStep], *, among: Collection[int]) -> JudgedStep | None:
    """Return the verdict with the highest score among these steps, the latest of equals; None where none was judged."""
    found = [step for step in steps if step.step in among and step.score is not None]
    return max(found, key=lambda step: (step.score or 0.0, step.step), default=None)


def course(steps: Sequence[JudgedStep]) -> str | None:
    """Say that a run was worse than its base all along, or got worse after its best step; None for neither.

    Steps are compared by how much closer to the voice than the base they are, as fewer sentences are heard at some.
    """
    if len(steps) > 1 and all(step.outcome == "worse" for step in steps):
        return (
            f"worse than the base at every listening from step {steps[0].step:,} on: lower the learning rate, and "
            "check that the texts belong to the recordings"
        )
    good = [step for step in steps[:-1] if not step.is_worse and step.closer is not None]
    if not good:
        return None
    best, last = max(good, key=lambda step: step.closer or 0.0), steps[-1]
    if last.is_worse:
        how = last.words
    elif (lost := _lost(best, last)) is not None:
        how = f"farther from the voice by {lost:.2f}"
    else:
        return None
    return f"step {last.step:,} is worse than step {best.step:,} ({how}): the run was too long, fewer steps are enough"


def _lost(best: JudgedStep, last: JudgedStep) -> float | None:
    """Return how much of their way to the voice the best weights lost; None where it is little, or within the interval.

    Raw weights are compared with raw ones and EMA with EMA: which of both is chosen may differ.
    """
    now = last.voice_of(best.weights)
    if best.closer is None or now is None:
        return None
    lost = best.closer - now["mean"]
    return float(lost) if lost >= FELL and now["high"] is not None and now["high"] < best.closer else None
