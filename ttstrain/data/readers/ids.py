"""One id for each recording: where a file name comes again, as many names of folders go before it as it takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttstrain.contract.table import Row


@dataclass(frozen=True, slots=True)
class Place:
    """The names that tell a recording from others."""

    folders: tuple[str, ...] = ()  # from the outermost
    name: str = ""  # without its ending; empty where it says nothing


def with_own_ids(rows: Sequence[Row], places: Sequence[Place]) -> list[Row]:
    """Return rows with an id of their own for each recording; rows of one recording keep the id they share.

    An id that was written for two recordings gets the recording's name behind it.
    """
    sharing: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        sharing[row.id].append(i)
    ids = [row.id for row in rows]
    taken = set(ids)
    for members in sharing.values():
        if len({rows[i].audio for i in members}) > 1:
            for i, new in zip(members, _told_apart([(rows[i], places[i]) for i in members], taken), strict=True):
                ids[i] = new
            taken |= {ids[i] for i in members}
    return [row if id_ == row.id else replace(row, id=id_) for row, id_ in zip(rows, ids, strict=True)]


def _told_apart(members: Sequence[tuple[Row, Place]], taken: set[str]) -> list[str]:
    """Put the fewest names before an id that give every recording its own."""
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
