"""One row of a table against its recording: its clip, or why it is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ttstrain.contract.data import Clip
from ttstrain.contract.table import Row, RowFinding, RowTable
from ttstrain.data.across_rows import AuditedRow
from ttstrain.data.formats import PACKED
from ttstrain.data.measure import Flaw, Measured, leads_outside
from ttstrain.data.transcript import CleanText, spoken_seconds
from ttstrain.recipe.schema import DataConfig

_DIGIT = re.compile("[0-9]")


def audit_row(row: Row, text: CleanText, sound: Measured | None, table: RowTable, config: DataConfig) -> AuditedRow:
    """Return a row's clip unless it is left out, and every finding; `sound` is None where the text leaves it out."""
    findings = [RowFinding(row, repair.action, repair.reason, repair.why) for repair in text.repairs]
    if findings and any(finding.action == "skip" for finding in findings):
        return AuditedRow(row, None, tuple(findings))
    assert sound is not None
    if not sound.usable:
        return AuditedRow(row, None, (*findings, *_unusable(row, sound, table)))
    if row.gain_db:
        sound = _with_gain(sound, row.gain_db)
    findings += [RowFinding(row, f.action, f.reason, f.why) for f in sound.findings]
    clip = _clip(row, text.text, sound, config)
    if fault := _fault_of_duration(row, clip, config):
        return AuditedRow(row, None, (*findings, fault))
    if _holds_digit(text.text):
        findings.append(RowFinding(row, "accept", "unnormalised", "digits are left in the text"))
    return AuditedRow(row, clip, tuple(findings))


def _holds_digit(text: str) -> bool:
    return _DIGIT.search(text) is not None if text.isascii() else any(c.isdigit() for c in text)


def _unusable(row: Row, sound: Measured, table: RowTable) -> list[RowFinding]:
    assert row.audio is not None
    is_there = not any(finding.reason == "missing_file" for finding in sound.findings)
    if is_there and not table.files_anywhere and table.format not in PACKED and leads_outside(row.audio, table.root):
        return [RowFinding(row, "skip", "outside_folder", "a link out of the data folder to what is no readable sound")]
    return [RowFinding(row, f.action, f.reason, f.why) for f in sound.findings]


def _with_gain(sound: Measured, gain_db: float) -> Measured:
    """Return the measurement with the table's gain in place of the audit's own."""
    if sound.treatment is None:
        return sound
    others = tuple(flaw for flaw in sound.findings if flaw.reason not in ("very_quiet", "over_range"))
    changed = Flaw("fix", "gain", f"{gain_db:+.1f} dB, as the table says")
    return replace(sound, findings=(*others, changed), treatment=replace(sound.treatment, gain=10 ** (gain_db / 20)))


def _clip(row: Row, text: str, sound: Measured, config: DataConfig) -> Clip:
    assert row.audio is not None
    assert sound.treatment is not None
    assert sound.treatment.end is not None
    return Clip(
        id=row.id,
        path=row.audio,
        text=text,
        speaker=row.speaker,
        language=row.language or config.language or "",
        duration_s=(sound.treatment.end - sound.treatment.start) / sound.sample_rate,
        sample_rate=sound.sample_rate,
        source=row.source,
        treatment=sound.treatment,
        digest=sound.digest,
        tokens=row.tokens,
        ready=row.ready,
    )


def _fault_of_duration(row: Row, clip: Clip, config: DataConfig) -> RowFinding | None:
    seconds = clip.duration_s
    if seconds < config.min_s:
        return RowFinding(row, "skip", "too_short", f"{seconds:.2f} s, `data.min_s` is {config.min_s:g}")
    if seconds > config.max_s:
        why = f"{seconds:.1f} s, `data.max_s` is {config.max_s:g}: split it at its pauses"
        return RowFinding(row, "skip", "too_long", why)
    spoken = spoken_seconds(clip.text)
    if not spoken.least <= seconds <= spoken.most:
        why = f"{len(clip.text)} characters in {seconds:.1f} s: the text does not match the recording"
        return RowFinding(row, "skip", "speaking_rate", why)
    return None


def with_notes(clip: Clip, findings: Sequence[RowFinding]) -> Clip:
    """Return a clip that carries its row's findings."""
    if not findings:
        return clip
    return replace(clip, notes=notes_of(findings))


def notes_of(findings: Sequence[RowFinding]) -> tuple[str, ...]:
    """Write findings as a clip carries them."""
    return tuple(f"{finding.reason}: {finding.why}" for finding in findings)
