"""An audit on one screen of 80 columns."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ttstrain.contract.table import Action, RowFinding
from ttstrain.data.formats import labels
from ttstrain.data.readers.rows import printable
from ttstrain.layout import LABEL, WIDTH, labelled

if TYPE_CHECKING:
    from ttstrain.data.audit import AuditResult

LONGEST = 400 - LABEL  # characters of one entry
MOST_REASONS = 8  # of each kind, so that it all fits one screen
SECTIONS: tuple[tuple[Action, str, int], ...] = (
    ("skip", "left out", 2),
    ("fix", "repaired", 1),
    ("accept", "noted", 1),
)


def summary(result: AuditResult) -> str:
    """Say what is left, what was left out and why, what was repaired, each with first examples."""
    lines = [
        *_entry("data", f"{result.root} ({labels()[result.format]})"),
        f"rows      {result.num_rows} read, {len(result.clips)} used, {_hours(result.hours)}",
    ]
    if result.clips:
        seconds = sorted(clip.duration_s for clip in result.clips)
        rates = Counter(f"{clip.sample_rate / 1000:g} kHz" for clip in result.clips)
        lines += [
            f"length    {seconds[0]:.1f} to {seconds[-1]:.1f} s, median {statistics.median(seconds):.1f} s",
            *_entry("rates", _tally(rates)),
            *_entry("speakers", _tally(Counter(clip.speaker or "unnamed" for clip in result.clips))),
            *_entry("language", _tally(Counter(clip.language or "unnamed" for clip in result.clips))),
        ]
    return "\n".join([*lines, *findings_lines(result)])


def findings_lines(result: AuditResult, *, after: AuditResult | None = None) -> list[str]:
    """Say what was found; with `after`, only what is new since that audit of the same data."""
    if after is not None:
        result = replace(
            result,
            remarks=result.remarks[len(after.remarks) :],
            findings=result.findings[len(after.findings) :],
        )
    lines: list[str] = []
    for remark in result.remarks:
        lines += _entry(remark.label, remark.text)
    for action, title, examples in SECTIONS:
        lines += _section(result, action, title, examples)
    return lines


def _section(result: AuditResult, action: Action, title: str, num_examples: int) -> list[str]:
    counts = result.count(action)
    if not counts:
        return []
    lines = [title]
    for reason, count in list(counts.items())[:MOST_REASONS]:
        lines.append(f"  {count:>6}  {reason}")
        examples = [v for v in result.findings if v.action == action and v.reason == reason][:num_examples]
        for finding in examples:
            lines += _example(finding)
    if rest := list(counts.items())[MOST_REASONS:]:
        lines += _entry("", ", ".join(f"{count} {reason}" for reason, count in rest))
    return lines


def _example(finding: RowFinding) -> list[str]:
    """Name a row and its reason on as many lines as it takes: a long id must not hide the reason."""
    where, row_id = printable(finding.row.source), finding.row.id
    named = where if row_id == where else f"{where} {printable(row_id)}"
    text = printable(f"{named}: {finding.why}", limit=4 * WIDTH)
    return labelled("", text, hang=2, break_words=True, break_on_hyphens=True)


def _tally(counts: Counter[str]) -> str:
    shown = [f"{printable(name)} ({count})" for name, count in counts.most_common(6)]
    return ", ".join(shown) + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


def _entry(label: str, text: str) -> list[str]:
    return labelled(label, printable(text, limit=LONGEST), break_words=True, break_on_hyphens=True)
