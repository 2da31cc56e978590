"""The audit: decodes every recording, checks every row, and records each finding.

A row is accepted, fixed (used after a repair that is recorded), or skipped (left out for a reason that is recorded).
When no row is left, or most recordings are missing, the data set as a whole is refused.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from ttstrain import documents
from ttstrain.contract.data import Clip, Remark, Review
from ttstrain.contract.table import Row, RowFinding, RowTable
from ttstrain.data import atomic
from ttstrain.data.across_rows import (
    Beside,
    look_beside,
    with_findings_across_rows,
    without_contradicting_copies,
    without_duplicates,
)
from ttstrain.data.audit_columns import audit_columns
from ttstrain.data.columns_used import columns_used
from ttstrain.data.forked import Forked
from ttstrain.data.in_columns import RowColumns, column
from ttstrain.data.location import CACHE_HINT, cache_root, usable_cores
from ttstrain.data.manifest import json_line, total_hours
from ttstrain.data.measure import RULES, Measured, measure, unmeasured
from ttstrain.data.one_row import audit_row, with_notes
from ttstrain.data.pool import StalledError, Threads, given_up
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.repeats import all_differ
from ttstrain.data.shards import absolute, digest_of, identity
from ttstrain.data.transcript import CleanText, clean
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.recipe.schema import DataConfig

DECODE_AT_LEAST_S = 600.0
MOST_MISSING = 0.5  # share of rows without a recording above which the data set is refused
MANY_ROWS = 10_000  # from so many rows on a plan may rely on the lengths that a table gives

TellProgress = Callable[[int, int], None]  # (done, of)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The usable clips of a data set, and every finding of the audit."""

    format: str
    root: Path
    num_rows: int
    clips: Sequence[Clip]
    findings: list[RowFinding]
    orphans: list[Path]  # recordings beside the used ones that no row names
    remarks: tuple[Remark, ...] = ()  # of the family whose recipe the data are for
    folders: tuple[str, ...] = ()  # of the recordings, as they are named; none of packed ones

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
    all_given = lengths == "given" and not kept.path.exists() and _all_given(table.rows)
    beside = Forked(partial(look_beside, table), items=len(table.rows))
    if all_given and isinstance(table.rows, RowColumns):  # which have ids of their own: see `with_own_ids`
        clips, found = audit_columns(table.rows, table, config)
    else:
        rows = list(table.rows)
        texts = [clean(row.text) for row in rows]
        if all_given:
            sounds: list[Measured | None] = [unmeasured(row.seconds) for row in rows]
        else:
            given = _given(rows) if lengths == "given" else {}
            measured = kept.of(_paths_to_decode(rows, texts), progress, workers or usable_cores(), given=given)
            sounds = [measured.get(row.audio) if row.audio is not None else None for row in rows]
        clips, found = _audit_rows(rows, texts, sounds, table, config)
    return _result(table, clips, found, beside.result())


def _audit_rows(
    rows: Sequence[Row],
    texts: Sequence[CleanText],
    sounds: Sequence[Measured | None],
    table: RowTable,
    config: DataConfig,
) -> tuple[list[Clip], list[RowFinding]]:
    """Audit row by row; return the clips that are left and all findings."""
    together = zip(rows, texts, sounds, strict=True)
    audited = [audit_row(row, text, sound, table, config) for row, text, sound in together]
    audited = without_contradicting_copies(without_duplicates(audited))
    audited = with_findings_across_rows(audited)
    clips = [with_notes(row.clip, row.findings) for row in audited if row.clip is not None]
    return clips, [finding for row in audited for finding in row.findings]


def _result(table: RowTable, clips: Sequence[Clip], found: Sequence[RowFinding], beside: Beside) -> AuditResult:
    """Add what is said of the table as a whole. Raises DataError when nothing is left to train on."""
    findings = [*table.findings, *found]
    not_rows = {"header_row", "comment"}
    skipped_by_reader = {id(v.row): None for v in table.findings if v.action == "skip" and v.reason not in not_rows}
    for path in beside.orphans:
        lost = Row(id=path.stem, audio=path, text="", source=str(path))
        findings.append(RowFinding(lost, "accept", "orphan_audio", "a recording that no row names: not used"))
    num_rows = len(table.rows) + len(skipped_by_reader)
    remarks = columns_used(table.columns)
    if num_given := column(clips, "digest").count(""):
        remarks = (*remarks, Remark("lengths", f"of {num_given:,} clips as the table says: {NOT_MEASURED}"))
    result = AuditResult(
        table.format, table.root, num_rows, clips, findings, list(beside.orphans), remarks, beside.folders
    )
    _refuse_if_hopeless(result)
    return result


def reviewed(result: AuditResult, review: Review) -> AuditResult:
    """Return an audit with a family's findings among its own, and without the clips that they leave out."""
    if not review.findings:
        return replace(result, remarks=(*result.remarks, *review.remarks))
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
    if len(rows) < MANY_ROWS:
        return False
    if isinstance(rows, RowColumns):
        return all(rows.seconds) and all_differ(rows.audio)
    return all(row.seconds for row in rows) and all_differ([str(row.audio) for row in rows])


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
