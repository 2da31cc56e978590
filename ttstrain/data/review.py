"""What a family has to say about audited clips before any of them is computed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from ttstrain.data.readers.rows import Row, Verdict

if TYPE_CHECKING:
    from ttstrain.data.audit import AuditResult
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


def reviewed(result: AuditResult, review: Review) -> AuditResult:
    """Return an audit with a family's findings among its own, and without the clips that they leave out."""
    left_out = {finding.clip.id for finding in review.findings if finding.action == "skip"}
    notes: dict[str, list[str]] = {}
    for finding in review.findings:
        notes.setdefault(finding.clip.id, []).append(f"{finding.reason}: {finding.why}")
    clips = [
        replace(clip, notes=(*clip.notes, *notes.get(clip.id, ()))) for clip in result.clips if clip.id not in left_out
    ]
    verdicts = [Verdict(_row(one.clip), one.action, one.reason, one.why) for one in review.findings]
    return replace(
        result, clips=clips, verdicts=[*result.verdicts, *verdicts], remarks=(*result.remarks, *review.remarks)
    )


def _row(clip: Clip) -> Row:
    return Row(
        id=clip.id,
        audio=clip.path,
        text=clip.text,
        speaker=clip.speaker,
        language=clip.language,
        source=clip.source,
    )
