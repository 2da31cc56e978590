"""Rows against each other: equal rows and recordings, odd speaking rates, other scripts, recordings without a row."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttstrain.contract.data import Clip
from ttstrain.contract.table import Row, RowFinding, RowTable
from ttstrain.data.formats import PACKED
from ttstrain.data.in_columns import RowColumns, column
from ttstrain.data.many_texts import main_scripts, skeletons
from ttstrain.data.markup import labels
from ttstrain.data.readers.locate import is_audio_name
from ttstrain.data.readers.rows import printable
from ttstrain.data.transcript import skeleton

RATE_OUTLIER = 6.0  # median absolute deviations
ROWS_FOR_STATISTICS = 20
MAIN_SCRIPT_SHARE = 0.9

Notes = dict[int, list[tuple[str, str]]]  # place of a clip -> reasons and sentences


@dataclass(frozen=True, slots=True)
class AuditedRow:
    """A row, its clip unless it is left out, and what was found."""

    row: Row
    clip: Clip | None
    findings: tuple[RowFinding, ...] = ()

    def add(self, finding: RowFinding) -> AuditedRow:
        """Return the row with another finding."""
        clip = None if finding.action == "skip" else self.clip
        return AuditedRow(self.row, clip, (*self.findings, finding))


def without_duplicates(audited: Sequence[AuditedRow]) -> list[AuditedRow]:
    """Keep one of several equal rows; leave out all rows that give one file, or one id, different texts."""
    result = list(audited)
    ids, files = _repeated(one.row.id for one in audited), _repeated(str(one.row.audio) for one in audited)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(audited if ids or files else ()):
        if one.row.id in ids:
            groups[f"id {one.row.id}"].append(i)
        if str(one.row.audio) in files:
            groups[f"file {one.row.audio}"].append(i)
    done: set[int] = set()
    for members in groups.values():
        rows = [audited[i].row for i in members]
        if done.issuperset(members):
            continue
        done.update(members)
        where = ", ".join(row.source for row in rows[:4])
        same = len({skeleton(row.text) for row in rows}) == 1 and len({row.audio for row in rows}) == 1
        for position, i in enumerate(members):
            if not same:
                why = f"{where} contradict each other: keep the right one"
                result[i] = result[i].add(RowFinding(rows[position], "skip", "duplicate_id", why))
            elif position == 0:
                why = f"written more than once ({where}): one is used"
                result[i] = result[i].add(RowFinding(rows[position], "fix", "duplicate_id", why))
            else:
                result[i] = replace(result[i], clip=None, findings=())
    return result


def _repeated(values: Iterable[str]) -> set[str]:
    """Return the values that occur more than once."""
    values = list(values)
    if len(set(values)) == len(values):
        return set()
    return {value for value, count in Counter(values).items() if count > 1}


def without_contradicting_copies(audited: Sequence[AuditedRow]) -> list[AuditedRow]:
    """Leave out all rows whose recordings are equal to the byte and whose texts are not."""
    copies: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(audited):
        if one.clip is not None and one.clip.digest:
            copies[one.clip.digest].append(i)
    result = list(audited)
    for members in copies.values():
        clips = [clip for i in members if (clip := audited[i].clip) is not None]
        if len(clips) > 1 and len({skeleton(clip.text) for clip in clips}) > 1:
            where = ", ".join(clip.source for clip in clips[:4])
            why = f"the recordings of {where} are equal, their texts contradict each other: keep the right one"
            for i in members:
                result[i] = result[i].add(RowFinding(result[i].row, "skip", "duplicate_audio", why))
    return result


def with_findings_across_rows(audited: Sequence[AuditedRow]) -> list[AuditedRow]:
    """Add findings that need all rows."""
    places = [i for i, one in enumerate(audited) if one.clip is not None]
    result = list(audited)
    for place, found in notes_across([clip for one in audited if (clip := one.clip) is not None]).items():
        for reason, why in found:
            one = result[places[place]]
            result[places[place]] = one.add(RowFinding(one.row, "accept", reason, why))
    return result


def notes_across(clips: Sequence[Clip]) -> Notes:
    """Compare the clips: equal recordings, equal texts, unusual speaking rate, another script, speakers' names."""
    notes: Notes = defaultdict(list)
    texts, speakers = column(clips, "text"), column(clips, "speaker")
    bare, scripts = skeletons(texts), main_scripts(texts)
    _note_repeats(clips, speakers, bare, notes)
    _note_pace(column(clips, "duration_s"), bare, scripts, notes)
    _note_scripts(scripts, notes)
    _note_labels(list(zip(texts, speakers, strict=True)), notes)
    return notes


def _note_repeats(clips: Sequence[Clip], speakers: Sequence[str], bare: Sequence[str], notes: Notes) -> None:
    ids = column(clips, "id")
    recordings: dict[str, int] = {}
    for i, digest in enumerate(column(clips, "digest")):
        if digest and (first := recordings.setdefault(digest, i)) != i:
            notes[i].append(("duplicate_audio", f"the same recording as `{printable(ids[first])}`"))
    texts: dict[tuple[str, str], int] = {}
    for i, said in enumerate(zip(speakers, bare, strict=True)):
        if (first := texts.setdefault(said, i)) != i:
            notes[i].append(("duplicate_text", f"the same text as `{printable(ids[first])}`"))


def _note_pace(seconds: Sequence[float], bare: Sequence[str], scripts: Sequence[str], notes: Notes) -> None:
    """Note clips whose speaking rate is far from the median of their script, if that script has enough clips."""
    import numpy as np

    by_script: dict[str, list[int]] = defaultdict(list)
    for i, script in enumerate(scripts):
        by_script[script].append(i)
    for members in by_script.values():
        if len(members) < ROWS_FOR_STATISTICS:
            continue
        paces = np.array([len(bare[i]) / seconds[i] for i in members])
        middle = float(np.median(paces))
        away = np.abs(paces - middle)
        spread = float(np.median(away)) or 1e-9
        for k in np.flatnonzero(away > RATE_OUTLIER * spread).tolist():
            why = f"{paces[k]:.1f} letters a second where the others have {middle:.1f}: check the text"
            notes[members[k]].append(("speaking_rate", why))


def _note_scripts(scripts: Sequence[str], notes: Notes) -> None:
    counts = Counter(scripts)
    usual, count = counts.most_common(1)[0] if counts else ("", 0)
    if count < MAIN_SCRIPT_SHARE * len(scripts) or not set(counts) - {usual, ""}:
        return
    for i, own in enumerate(scripts):
        if own != usual and own:
            notes[i].append(("unsupported_chars", f"written in {own.title()}, the others in {usual.title()}"))


def _note_labels(texts: Sequence[tuple[str, str]], notes: Notes) -> None:
    for i, name in labels(texts).items():
        why = f"the text begins with `{printable(name)}:`: remove the name if it is not spoken"
        notes[i].append(("speaker_label", why))


def find_orphans(table: RowTable) -> list[Path]:
    """List recordings in the folders of the table's files that no row names; folders below are not searched."""
    if table.format in PACKED:
        return []
    rows = table.rows
    paths = rows.audio if isinstance(rows, RowColumns) else [row.audio for row in rows]
    used: dict[str, set[str]] = {}  # folder without links -> names
    folders: dict[str, Path] = {}
    names_in: dict[str, set[str]] = {}  # by the folder as it is named, with its separator
    for path in [*paths, *(finding.row.audio for finding in table.findings)]:
        if path is None:
            continue
        named = str(path)
        start = named[: named.rfind(os.sep) + 1]
        if (names := names_in.get(start)) is None:
            folder = os.path.dirname(named)  # noqa: PTH120
            really = os.path.realpath(folder)
            names = names_in[start] = used.setdefault(really, set())
            folders.setdefault(really, Path(folder))
        names.add(named[len(start) :])
    return [
        path
        for really, folder in sorted(folders.items())
        if os.access(folder, os.R_OK)
        for name in sorted(name for name in os.listdir(folder) if name not in used[really])  # noqa: PTH208
        if is_audio_name(name) and not name.startswith(".") and (path := folder / name).is_file()
    ]
