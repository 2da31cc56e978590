"""The audit: decodes every recording, checks every row, and records each finding.

A row is accepted, fixed (used after a repair that is recorded), or skipped (left out for a reason that is recorded).
When no row is left, or most recordings are missing, the data set as a whole is refused.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from ttstrain import documents
from ttstrain.contract.data import Clip, Remark, Review
from ttstrain.contract.table import Row, RowFinding, RowTable
from ttstrain.data import atomic
from ttstrain.data.across_rows import (
    AuditedRow,
    find_orphans,
    with_findings_across_rows,
    without_contradicting_copies,
    without_duplicates,
)
from ttstrain.data.columns_used import columns_used
from ttstrain.data.formats import PACKED
from ttstrain.data.location import CACHE_HINT, cache_root, usable_cores
from ttstrain.data.manifest import json_line, total_hours
from ttstrain.data.measure import RULES, Flaw, Measured, leads_outside, measure, unmeasured
from ttstrain.data.pool import StalledError, Threads, given_up
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.shards import absolute, digest_of, identity
from ttstrain.data.transcript import CleanText, clean, spoken_seconds
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.recipe.schema import DataConfig

DECODE_AT_LEAST_S = 600.0
MOST_MISSING = 0.5  # share of rows without a recording above which the data set is refused
MANY_ROWS = 10_000  # from so many rows on a plan may rely on the lengths that a table gives

_DIGIT = re.compile("[0-9]")

TellProgress = Callable[[int, int], None]  # (done, of)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The usable clips of a data set, and every finding of the audit."""

    format: str
    root: Path
    num_rows: int
    clips: list[Clip]
    findings: list[RowFinding]
    orphans: list[Path]  # recordings beside the used ones that no row names
    remarks: tuple[Remark, ...] = ()  # of the family whose recipe the data are for

    @property
    def quarantine(self) -> list[RowFinding]:
        """Return the findings that left a row out."""
        return [finding for finding in self.findings if finding.action == "skip"]

    @property
    def skipped(self) -> dict[str, int]:
        """Count left-out rows by reason, most frequent first."""
        return self.count("skip")

    @property
    def fixed(self) -> dict[str, int]:
        """Count repairs by reason, most frequent first."""
        return self.count("fix")

    @property
    def hours(self) -> float:
        """Return the hours of clips that are left."""
        return total_hours(self.clips)

    def count(self, action: str) -> dict[str, int]:
        """Count the findings of one action by reason, most frequent first."""
        return dict(Counter(v.reason for v in self.findings if v.action == action).most_common())


def audit(
    table: RowTable,
    config: DataConfig,
    progress: TellProgress | None = None,
    workers: int | None = None,
    *,
    lengths: Literal["measured", "given"] = "measured",
) -> AuditResult:
    """Audit every row of a table.

    Raises DataError when nothing is left to train on. Measurements of files that did not change since the last audit
    are taken from the cache. With `lengths="given"` a large table's recordings that were not measured yet are not
    opened where the table says how long they are.
    """
    kept = _Measurements(measurements_file(config, table.root), max(DECODE_AT_LEAST_S, 2 * config.max_s))
    texts = [clean(row.text) for row in table.rows]
    if lengths == "given" and not kept.path.exists() and _all_given(table.rows):
        sounds: list[Measured | None] = [unmeasured(row.seconds) for row in table.rows]
    else:
        given = _given(table.rows) if lengths == "given" else {}
        measured = kept.of(_paths_to_decode(table.rows, texts), progress, workers or usable_cores(), given=given)
        sounds = [measured.get(row.audio) if row.audio is not None else None for row in table.rows]
    together = zip(table.rows, texts, sounds, strict=True)
    audited = [_audit_row(row, text, sound, table, config) for row, text, sound in together]
    audited = without_contradicting_copies(without_duplicates(audited))
    audited = with_findings_across_rows(audited)

    findings = [*table.findings, *(finding for row in audited for finding in row.findings)]
    clips = [_with_notes(row.clip, row.findings) for row in audited if row.clip is not None]
    not_rows = {"header_row", "comment"}
    skipped_by_reader = {id(v.row): None for v in table.findings if v.action == "skip" and v.reason not in not_rows}
    orphans = find_orphans(table)
    for path in orphans:
        lost = Row(id=path.stem, audio=path, text="", source=str(path))
        findings.append(RowFinding(lost, "accept", "orphan_audio", "a recording that no row names: not used"))
    num_rows = len(table.rows) + len(skipped_by_reader)
    remarks = columns_used(table.columns)
    if num_given := sum(1 for clip in clips if not clip.digest):
        remarks = (*remarks, Remark("lengths", f"of {num_given:,} clips as the table says: {NOT_MEASURED}"))
    result = AuditResult(table.format, table.root, num_rows, clips, findings, orphans, remarks)
    _refuse_if_hopeless(result)
    return result


def reviewed(result: AuditResult, review: Review) -> AuditResult:
    """Return an audit with a family's findings among its own, and without the clips that they leave out."""
    left_out = {finding.clip.id for finding in review.findings if finding.action == "skip"}
    notes: dict[str, list[str]] = {}
    for finding in review.findings:
        notes.setdefault(finding.clip.id, []).append(f"{finding.reason}: {finding.why}")
    clips = [
        replace(clip, notes=(*clip.notes, *notes[clip.id])) if clip.id in notes else clip
        for clip in result.clips
        if clip.id not in left_out
    ]
    findings = [RowFinding(_row_of(one.clip), one.action, one.reason, one.why) for one in review.findings]
    return replace(
        result, clips=clips, findings=[*result.findings, *findings], remarks=(*result.remarks, *review.remarks)
    )


def _row_of(clip: Clip) -> Row:
    return Row(
        id=clip.id,
        audio=clip.path,
        text=clip.text,
        speaker=clip.speaker,
        language=clip.language,
        source=clip.source,
    )


def write_quarantine(result: AuditResult, path: Path) -> None:
    """Write every row that was left out or repaired, and why, as JSON lines."""
    lines = [json_line(as_json(v)) for v in result.findings if v.action in ("skip", "fix")]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def as_json(finding: RowFinding) -> dict[str, Any]:
    """Return a finding as a JSON object."""
    return {
        "id": finding.row.id,
        "source": finding.row.source,
        "audio": None if finding.row.audio is None else str(finding.row.audio),
        "action": finding.action,
        "reason": finding.reason,
        "why": finding.why,
    }


# ---------------------------------------------------------------- one row


def _audit_row(row: Row, text: CleanText, sound: Measured | None, table: RowTable, config: DataConfig) -> AuditedRow:
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


def _with_notes(clip: Clip, findings: Sequence[RowFinding]) -> Clip:
    if not findings:
        return clip
    return replace(clip, notes=tuple(f"{finding.reason}: {finding.why}" for finding in findings))


def _refuse_if_hopeless(result: AuditResult) -> None:
    counts = ", ".join(f"{count} {reason}" for reason, count in result.skipped.items())
    first = result.quarantine[0] if result.quarantine else None
    example = "" if first is None else f"first: {first.row.source} `{printable(first.row.id)}`: {first.why}"
    missing = result.skipped.get("missing_file", 0)
    if missing > MOST_MISSING * result.num_rows:
        raise TableError(
            "missing_file",
            f"{missing} of {result.num_rows} rows of `{result.root}` name no recording ({counts})",
            hint=_forbidden_below(result.root) or example,
        )
    if not result.clips:
        if result.skipped.get("outside_folder", 0) * 2 > result.num_rows and result.format == "ljspeech":
            example = "begin the table with a line `audio_file|text` if its files do lie elsewhere"
        raise TableError(
            "no_rows_left",
            f"none of the {result.num_rows} rows of `{result.root}` can be used: {counts or 'there are none'}",
            hint=example or None,
        )


def _forbidden_below(root: Path) -> str | None:
    """Return a hint about a folder without read permission below `root`: its recordings are not missing."""
    try:
        closed = [one.path for one in os.scandir(root) if one.is_dir() and not os.access(one.path, os.R_OK | os.X_OK)]
    except OSError:
        return None
    return f"`{closed[0]}` cannot be read: check its permissions (`ls -ld`)" if closed else None


# ---------------------------------------------------------------- cached measurements


def _paths_to_decode(rows: Sequence[Row], texts: Sequence[CleanText]) -> list[Path]:
    wanted = (
        row.audio
        for row, text in zip(rows, texts, strict=True)
        if row.audio is not None and not any(repair.action == "skip" for repair in text.repairs)
    )
    return list(dict.fromkeys(wanted))


NOT_MEASURED = "`prepare` and `finetune` measure them"


def _all_given(rows: Sequence[Row]) -> bool:
    """Tell whether a large table gives the length of every recording, and names none twice."""
    if len(rows) < MANY_ROWS or not all(row.seconds for row in rows):
        return False
    return len({str(row.audio) for row in rows}) == len(rows)


def _given(rows: Sequence[Row]) -> dict[Path, float]:
    """Return the lengths that a large table gives, in seconds; none of a small one, which is soon measured."""
    if len(rows) < MANY_ROWS:
        return {}
    return {row.audio: row.seconds for row in rows if row.audio is not None and row.seconds}


_REMOVE = "it keeps what was measured, and can be removed: recordings are then measured again"


@dataclass(frozen=True, slots=True)
class _Key:
    """Identifies a file whose measurement is cached."""

    name: str  # a hash of rules, path, size and time of modification
    changed: int  # st_ctime_ns, which copying tools cannot set; some file systems do not maintain it


@dataclass(frozen=True, slots=True)
class _Cached:
    measured: Measured
    changed: int | None  # None where an earlier version wrote it


def _changed(key: _Key | None) -> int | None:
    return None if key is None else key.changed


def _same_bytes(path: Path, one: _Cached) -> bool:
    """Tell whether a file still has the bytes that were measured; False for a file that was unusable."""
    try:
        return bool(one.measured.digest) and digest_of(path) == one.measured.digest
    except OSError:  # measuring it says what is wrong
        return False


def measurements_file(config: DataConfig, root: Path) -> Path:
    """Return where the measurements of a data set's recordings are kept."""
    return cache_root(config.cache_dir) / "audit" / f"{sha256(str(root.resolve()))[:16]}.jsonl"


class _Measurements:
    """Measures files, with a cache keyed by path, size, modification time and the version of the rules.

    A copy may keep the modification time (`cp -p`, `rsync -t`, `tar`) but not `st_ctime`. If `st_ctime` differs, the
    file is hashed, which takes far less time than measuring, and measured again only if its bytes changed.
    """

    def __init__(self, path: Path, max_s: float) -> None:
        self.path = path
        self.max_s = max_s

    def of(
        self, paths: Sequence[Path], progress: TellProgress | None, workers: int, *, given: Mapping[Path, float]
    ) -> dict[Path, Measured]:
        kept = self._read_cached()
        keys = {path: self._key(path) for path in paths if kept or path not in given}
        cached = {path: kept[key.name] for path, key in keys.items() if key is not None and key.name in kept}
        known = {path: one.measured for path, one in cached.items() if one.changed == _changed(keys[path])}
        known |= {path: unmeasured(given[path]) for path in paths if path not in known and path in given}
        unknown = [path for path in paths if path not in known]
        if progress is not None:
            progress(len(known), len(paths))
        if not unknown:
            return known
        with refused_as(DataError, path=self.path, hint=CACHE_HINT), self._opened() as file:
            file.write("\n")  # ends a line that an interruption cut short
            for path, result in self._measure(unknown, cached, workers):
                known[path] = result
                if key := keys[path]:
                    file.write(_summed({"key": key.name, "changed": key.changed, **result.to_json()}) + "\n")
                if progress is not None:
                    progress(len(known), len(paths))
        return known

    def _opened(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a", encoding="utf-8")

    def _measure(
        self, paths: Sequence[Path], cached: Mapping[Path, _Cached], workers: int
    ) -> Iterator[tuple[Path, Measured]]:
        def look(path: Path) -> Measured:
            one = cached.get(path)
            return one.measured if one is not None and _same_bytes(path, one) else measure(path, max_s=self.max_s)

        # Threads are enough: libsndfile, numpy and hashlib release the GIL.
        pool = Threads(workers)
        try:
            for path, future in [(path, pool.submit(look, path)) for path in paths]:
                try:
                    yield path, pool.result(future)
                except StalledError as error:
                    raise given_up([str(path)], "measured") from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _key(self, path: Path) -> _Key | None:
        try:
            known = identity(path)
        except OSError:  # measuring it says what is wrong
            return None
        version = int(known.version) if known.version.isdigit() else known.version
        parts = (RULES, self.max_s, str(absolute(path)), known.size, version)
        return _Key(sha256(repr(parts)), known.changed)

    def _read_cached(self) -> dict[str, _Cached]:
        if not self.path.exists():
            return {}
        kept = {}
        content = documents.read_bytes(self.path, error=DataError, hint=_REMOVE, most_bytes=documents.MAX_TABLE)
        for line in content.split(b"\n"):
            try:
                values = documents.check_object(documents.parse(line), {"key": str, "crc32": int})
                if line.decode("utf-8") == _summed({key: values[key] for key in values if key != "crc32"}):
                    kept[values["key"]] = _Cached(Measured.from_json(values), values.get("changed"))
            except (ValueError, TypeError, KeyError):  # cut short by an interruption, or damaged: measured again
                continue
        return kept


def _summed(values: dict[str, Any]) -> str:
    """Write a line with its checksum: a damaged number would change where the recording is trimmed."""
    return json_line({**values, "crc32": zlib.crc32(json_line(values).encode("utf-8", "surrogatepass"))})
