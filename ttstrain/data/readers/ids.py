"""Unique ids: where two recordings have the same file name, names of their folders are put before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ttstrain.contract.table import Row
from ttstrain.data.in_columns import RowColumns
from ttstrain.data.repeats import all_differ


@dataclass(frozen=True, slots=True)
class Place:
    """Folder and file names that can make a recording's id unique."""

    folders: tuple[str, ...] = ()  # from the outermost
    name: str = ""  # without its ending; empty if it cannot tell recordings apart


def with_own_ids(rows: Sequence[Row], place_of: Callable[[int], Place]) -> Sequence[Row]:
    """Return rows with one id for each recording; rows of the same recording keep their common id.

    An id that a table gives to two recordings is extended by the recording's file name. `place_of` returns the place
    of a row by its number.
    """
    ids = rows.ids if isinstance(rows, RowColumns) else [row.id for row in rows]
    if all_differ(ids):
        return rows
    sharing: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        sharing[row.id].append(i)
    ids = list(ids)
    taken = set(ids)
    for members in sharing.values():
        if len({rows[i].audio for i in members}) > 1:
            for i, new in zip(members, _told_apart([(rows[i], place_of(i)) for i in members], taken), strict=True):
                ids[i] = new
            taken |= {ids[i] for i in members}
    return [row if id_ == row.id else replace(row, id=id_) for row, id_ in zip(rows, ids, strict=True)]


def _told_apart(members: Sequence[tuple[Row, Place]], taken: set[str]) -> list[str]:
    """Put as few folder names before an id as make it unique."""
    num_files = len({row.audio for row, _ in members})
    for count in range(max(len(place.folders) for _, place in members) + 1):
        for named in (False, True):
            ids = ["/".join([*_last(place, count), *_own(row, place, named=named)]) for row, place in members]
            if len(set(ids)) == num_files and taken.isdisjoint(ids):
                return ids
    return [f"{row.id}:{row.source}" for row, _ in members]


def _last(place: Place, count: int) -> Sequence[str]:
    return place.folders[max(len(place.folders) - count, 0) :]


def _own(row: Row, place: Place, *, named: bool) -> list[str]:
    return [row.id, place.name] if named and place.name not in ("", row.id) else [row.id]
