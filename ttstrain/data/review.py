"""What a family has to say about audited clips before any of them is computed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ttstrain.data.manifest import Clip


class Remark(NamedTuple):
    """A line about the data as a whole."""

    label: str  # at most eight letters
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one clip, or odd about it."""

    clip: Clip
    action: Literal["accept", "skip"]  # `accept` only notes it
    reason: str  # a short code
    why: str


@dataclass(frozen=True, slots=True)
class Review:
    """A family's findings."""

    findings: tuple[Finding, ...] = ()
    remarks: tuple[Remark, ...] = ()
