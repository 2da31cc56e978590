"""What a check found, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "FAULT", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's verdict and its reason in one or two sentences."""

    check: str  # its name in the table and in JSON: "leaks", "shifts", ...
    verdict: Verdict
    said: str
    numbers: dict[str, Any] = field(default_factory=dict)  # for `--json`; finite floats only

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "verdict": self.verdict, "said": self.said, "numbers": self.numbers}


@dataclass(frozen=True, slots=True)
class Proven:
    """Every finding about one recipe."""

    recipe: str
    task: str
    clip: str  # that was learned
    clips: int  # used in all
    steps: int  # updates made
    findings: Sequence[Finding]
    table: Sequence[Sequence[str]] = ()  # gradient norms: a header, then one row for each parameter group
    seconds: float = 0.0

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == "FAULT"]

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "task": self.task,
            "proven": not self.faults,
            "clip": self.clip,
            "clips": self.clips,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "findings": [finding.to_json() for finding in self.findings],
            "gradients": [list(row) for row in self.table],
        }
