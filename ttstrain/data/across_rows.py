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
from ttstrain.data.repeats import maybe_repeated
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
    _note_labels(texts, speakers, notes)
    return notes


def _note_repeats(clips: Sequence[Clip], speakers: Sequence[str], bare: Sequence[str], notes: Notes) -> None:
    ids, digests = column(clips, "id"), column(clips, "digest")
    recordings: dict[str, int] = {}
    for i in maybe_repeated(digests) if any(digests) else ():
        if digests[i] and (first := recordings.setdefault(digests[i], i)) != i:
            notes[i].append(("duplicate_audio", f"the same recording as `{printable(ids[first])}`"))
    texts: dict[tuple[str, str], int] = {}
    for i in maybe_repeated(bare):
        if (first := texts.setdefault((speakers[i], bare[i]), i)) != i:
            notes[i].append(("duplicate_text", f"the same text as `{printable(ids[first])}`"))


def _note_pace(seconds: Sequence[float], bare: Sequence[str], scripts: Sequence[str], notes: Notes) -> None:
    """Note clips whose speaking rate is far from the median of their script, if that script has enough clips."""
    import numpy as np

    number_of = {script: number for number, script in enumerate(dict.fromkeys(scripts))}
    numbers = np.fromiter(map(number_of.__getitem__, scripts), dtype=np.int64, count=len(scripts))  # (n,)
    letters = np.fromiter(map(len, bare), dtype=np.float64, count=len(bare))  # (n,)
    for number in number_of.values():
        members = np.flatnonzero(numbers == number)
        if len(members) < ROWS_FOR_STATISTICS:
            continue
        paces = letters[members] / np.asarray(seconds)[members]
        middle = float(np.median(paces))
        away = np.abs(paces - middle)
        spread = float(np.median(away)) or 1e-9
        for k in np.flatnonzero(away > RATE_OUTLIER * spread).tolist():
            why = f"{paces[k]:.1f} letters a second where the others have {middle:.1f}: check the text"
            notes[int(members[k])].append(("speaking_rate", why))


def _note_scripts(scripts: Sequence[str], notes: Notes) -> None:
    counts = Counter(scripts)
    usual, count = counts.most_common(1)[0] if counts else ("", 0)
    if count < MAIN_SCRIPT_SHARE * len(scripts) or not set(counts) - {usual, ""}:
        return
    for i, own in enumerate(scripts):
        if own != usual and own:
            notes[i].append(("unsupported_chars", f"written in {own.title()}, the others in {usual.title()}"))


def _note_labels(texts: Sequence[str], speakers: Sequence[str], notes: Notes) -> None:
    for i, name in labels(texts, speakers).items():
        why = f"the text begins with `{printable(name)}:`: remove the name if it is not spoken"
        notes[i].append(("speaker_label", why))


@dataclass(frozen=True, slots=True)
class Beside:
    """The folders of a table's recordings, and what else is in them; folders below are not searched."""

    folders: tuple[str, ...] = ()  # as they are named
    orphans: tuple[Path, ...] = ()  # recordings that no row names


def look_beside(table: RowTable) -> Beside:
    """List the folders of the table's files; none of packed recordings, which have none."""
    if table.format in PACKED:
        return Beside()
    rows = table.rows
    named = rows.audio if isinstance(rows, RowColumns) else [str(row.audio) for row in rows if row.audio is not None]
    unused = _unused_beside({*named, *(str(one.row.audio) for one in table.findings if one.row.audio is not None)})
    known_as: dict[str, list[str]] = {}  # folder without links -> folders as they are named
    for start in sorted(unused):
        known_as.setdefault(os.path.realpath(start or os.curdir), []).append(start)
    orphans = [
        path
        for _, starts in sorted(known_as.items())
        for name in sorted(set(unused[starts[0]]).intersection(*(unused[start] for start in starts[1:])))
        if is_audio_name(name) and not name.startswith(".") and (path := Path(starts[0], name)).is_file()
    ]
    return Beside(tuple(start[:-1] or start for start in sorted(unused)), tuple(orphans))


def _unused_beside(used: set[str]) -> dict[str, list[str]]:
    """Map the folders of the files, with their separators, to the names in them that are not used."""
    unused: dict[str, list[str]] = {}
    left = set(used)
    while left:
        one = left.pop()
        start = one[: one.rfind(os.sep) + 1]
        if start not in unused:
            names = os.listdir(start or os.curdir) if os.access(start or os.curdir, os.R_OK) else []  # noqa: PTH208
            paths = [start + name for name in names]
            left.difference_update(paths)
            unused[start] = [path[len(start) :] for path in paths if path not in used]
    return unused
