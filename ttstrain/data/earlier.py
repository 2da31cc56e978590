"""The clips that a run used when it last started: keeps the hold-out stable on resume, and lists what changed.

A clip is identified by the hash of its recording, or by its id if the recording was replaced. So a clip that was
trained on is never held out later, and a held-out clip is never trained on, when the data grow.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ttstrain import documents
from ttstrain.contract.data import Clip
from ttstrain.data import atomic
from ttstrain.data.manifest import json_line, read_manifest
from ttstrain.digest import sha256
from ttstrain.errors import DataError

FOLDER = "data"  # in a run's folder
TRAIN, HELD_OUT, REPLAY, RETAINED = "train.jsonl", "held_out.jsonl", "replay.jsonl", "replay_held_out.jsonl"
EVER_HELD_OUT, CHANGES = "split.json", "changes.jsonl"
SHOWN = 3  # examples in a note

Part = Literal["train", "held out", "new"]


class Side:
    """Training and held-out clips of the data, or of the replay data, at a run's last start."""

    def __init__(self, train: Sequence[Clip], held_out: Sequence[Clip], ever_held_out: Iterable[str] = ()) -> None:
        """`ever_held_out` names, by content and id, every clip that an earlier start held out, deleted ones too."""
        self.train, self.held_out = tuple(train), tuple(held_out)
        self.ever_held_out = frozenset([*ever_held_out, *names_of(held_out)])
        self._trained = frozenset(_content(clip) for clip in train)
        self._places = {name: place for place, clip in enumerate(held_out) for name in (_content(clip), _id(clip))}

    def part_of(self, clip: Clip) -> Part:
        """Tell whether a clip was trained on or held out, by its content, else by its id."""
        content = _content(clip)
        if content in self.ever_held_out:
            return "held out"
        if content in self._trained:
            return "train"
        return "held out" if _id(clip) in self.ever_held_out else "new"

    def place_of(self, clip: Clip) -> int:
        """Return a clip's index among the held-out clips; their number if it was not held out."""
        last = len(self.held_out)
        return min(self._places.get(_content(clip), last), self._places.get(_id(clip), last))


@dataclass(frozen=True, slots=True)
class Earlier:
    """The clips that a run used when it last started."""

    data: Side
    replay: Side | None = None
    drawn_anew: Collection[str] = ()  # keys of the recipe whose held-out clips the user wants chosen again


def read_earlier(run: Path, *, drawn_anew: Collection[str] = ()) -> tuple[Earlier | None, list[str]]:
    """Read a run's lists of clips, with notes for the user; None if there are none or they cannot be read."""
    folder = run / FOLDER
    if not (folder / TRAIN).is_file() or not (folder / HELD_OUT).is_file():
        return None, []
    try:
        ever = _read_names(folder / EVER_HELD_OUT)
        data = Side(read_manifest(folder / TRAIN), read_manifest(folder / HELD_OUT), ever.get("data", ()))
        replay = None
        if (folder / REPLAY).is_file() and (folder / RETAINED).is_file():
            replayed, retained = read_manifest(folder / REPLAY), read_manifest(folder / RETAINED)
            replay = Side(replayed, retained, ever.get("replay", ()))
    except (DataError, OSError, UnicodeDecodeError) as error:
        return None, [
            f"WARNING: the run's lists of clips cannot be read ({error}): held-out clips are chosen as for a new "
            "run, and changes in the data are not known"
        ]
    return Earlier(data, replay, drawn_anew), []


def write_record(run: Path, earlier: Earlier | None, *, held_out: Sequence[Clip], retained: Sequence[Clip]) -> None:
    """Write which clips were ever held out: one that is removed and added again must not be trained on."""
    before = ((), ()) if earlier is None else (earlier.data.ever_held_out, _ever(earlier.replay))
    names = {
        "data": sorted({*before[0], *names_of(held_out)}),
        "replay": sorted({*before[1], *names_of(retained)}),
    }
    atomic.write_text(run / FOLDER / EVER_HELD_OUT, json.dumps(names, indent=0) + "\n")


def _ever(side: Side | None) -> Collection[str]:
    return () if side is None else side.ever_held_out


def _read_names(path: Path) -> dict[str, list[str]]:
    """Read `write_record`'s file; {} if it is damaged: the manifests then decide."""
    try:
        keys = {"data": list, "replay": list}
        values = documents.read_object(path, error=DataError, keys=keys, most_bytes=documents.MAX_TABLE)
    except DataError:
        return {}
    return {key: [str(name) for name in values[key]] for key in keys}


def names_of(clips: Iterable[Clip]) -> list[str]:
    """Name clips by content and by id."""
    return [name for clip in clips for name in (_content(clip), _id(clip))]


def _content(clip: Clip) -> str:
    return clip.digest or _id(clip)


def _id(clip: Clip) -> str:
    return f"id:{clip.id}"


# ---------------------------------------------------------------- what is measured


def fingerprint(
    held_out: Sequence[Clip], retained: Sequence[Clip], *, most: int, budget: int, max_clips: int, features: str
) -> str:
    """Hash everything that an evaluation's values depend on besides weights: clips in order, texts, batching.

    `most` is the recipe's `eval.max_clips`, `features` the task's fingerprint.
    """
    measured = [[_as_measured(clip) for clip in clips[:most]] for clips in (held_out, retained)]
    made_from = [measured, budget, max_clips, features]
    return sha256(json.dumps(made_from))[:16]


def _as_measured(clip: Clip) -> list[Any]:
    return [_content(clip), clip.text, clip.speaker, clip.language, list(clip.tokens), asdict(clip.treatment)]


# ---------------------------------------------------------------- what changed


@dataclass(frozen=True, slots=True)
class Changes:
    """Ids of the clips that changed since a run's last start, by kind of change."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)  # another text, the same recording
    recording: list[str] = field(default_factory=list)  # another recording, under the same id
    said_by: list[str] = field(default_factory=list)  # another speaker or language
    now_held_out: list[str] = field(default_factory=list)  # trained on before
    now_trained: list[str] = field(default_factory=list)  # held out before

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def note(self) -> str:
        """Return one line: how many clips changed, with a few names; empty if none did."""
        words = {
            "added": "added",
            "removed": "gone",
            "text": "with another text",
            "recording": "with another recording",
            "said_by": "of another speaker or language",
        }
        parts = [f"{len(ids):,} {word} ({_listed(ids)})" for key, word in words.items() if (ids := getattr(self, key))]
        return f"the data changed since the run last started: clips {', '.join(parts)}" if parts else ""

    def warnings(self) -> list[str]:
        """Return warnings about clips that moved between training and hold-out."""
        lines = []
        if ids := self.now_held_out:
            lines.append(
                f"WARNING: {len(ids):,} clips that this run was trained on are held out now ({_listed(ids)}): their "
                "losses say nothing about new sentences"
            )
        if ids := self.now_trained:
            lines.append(f"WARNING: {len(ids):,} clips that were held out are trained on now ({_listed(ids)})")
        return lines


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")


def changes(earlier: Side, train: Sequence[Clip], held_out: Sequence[Clip]) -> Changes:
    """Compare the clips of a run's last start with the present ones; a clip with a new id only has not changed."""
    before = {clip.id: clip for clip in (*earlier.train, *earlier.held_out)}
    now = {clip.id: clip for clip in (*train, *held_out)}
    known, left = {_content(clip) for clip in before.values()}, {_content(clip) for clip in now.values()}
    both = [(clip, now[name]) for name, clip in before.items() if name in now]
    return Changes(
        added=[name for name, clip in now.items() if name not in before and _content(clip) not in known],
        removed=[name for name, clip in before.items() if name not in now and _content(clip) not in left],
        text=[new.id for old, new in both if _content(old) == _content(new) and _said(old) != _said(new)],
        recording=[new.id for old, new in both if _content(old) != _content(new)],
        said_by=[new.id for old, new in both if (old.speaker, old.language) != (new.speaker, new.language)],
        now_held_out=[clip.id for clip in held_out if earlier.part_of(clip) == "train"],
        now_trained=[clip.id for clip in train if earlier.part_of(clip) == "held out"],
    )


def _said(clip: Clip) -> tuple[str, tuple[str, ...]]:
    return clip.text, clip.tokens


def write_changes(run: Path, found: Changes, *, step: int) -> None:
    """Append to the run's list of changes: time, step, and every changed clip."""
    path = run / FOLDER / CHANGES
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json_line({"time": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}", "step": step, **asdict(found)})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
