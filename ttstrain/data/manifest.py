"""Clips that are fit to train on, and what is done to each recording on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.data.readers.rows import Ready
from ttstrain.errors import DataError


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a file's samples become one sound channel: `(channel[start:end] - offset) * gain`."""

    channel: int | Literal["mean"] = "mean"
    gain: float = 1.0
    offset: float = 0.0
    start: int = 0  # in samples at the file's own rate
    end: int | None = None  # None: to the end of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One recording and what is said in it."""

    id: str
    path: Path
    text: str
    speaker: str = ""
    language: str = ""
    duration_s: float  # after treatment
    sample_rate: int  # Hz, of the file
    source: str = ""  # where it is written down, "metadata.csv:12"
    treatment: Treatment = field(default_factory=Treatment)
    notes: tuple[str, ...] = ()  # what was repaired or looked odd
    digest: str = ""  # SHA-256 of the file, hex
    tokens: tuple[str, ...] = ()  # what an upstream front end made of the text, where only that is known
    ready: tuple[Ready, ...] = ()  # features that another trainer has computed

    @property
    def num_samples(self) -> int:
        """Samples after treatment, at the file's own rate."""
        if self.treatment.end is None:
            return round(self.duration_s * self.sample_rate)
        return self.treatment.end - self.treatment.start

    def samples_at(self, sample_rate: int) -> int:
        """Return the exact number of samples `audio.read_clip` gives at another rate, without decoding."""
        return -(-self.num_samples * sample_rate // self.sample_rate)


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as JSON lines, their paths so that they hold from any directory."""
    lines = [json_line({**asdict(clip), "path": str(clip.path.absolute())}) for clip in clips]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def read_manifest(path: Path) -> list[Clip]:
    """Read what `write_manifest` wrote."""
    clips = []
    hint = "run `ttstrain prepare` again"
    text = documents.read_text(path, error=DataError, hint=hint, most_bytes=documents.MAX_TABLE)
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            try:
                clips.append(_clip(documents.check_object(documents.parse(line), _IN_A_LINE)))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"`{path}` line {number} is not a clip: {error}", hint=hint) from error
    return clips


def json_line(values: dict[str, Any]) -> str:
    """Write an object on one line, readable in any language; names that are no Unicode are escaped."""
    line = json.dumps(values, ensure_ascii=False)
    has_half_pairs = any("\ud800" <= c <= "\udfff" for c in line)
    return json.dumps(values) if has_half_pairs else line


_IN_A_LINE: dict[str, type] = {
    "id": str,
    "path": str,
    "text": str,
    "duration_s": float,
    "sample_rate": int,
    "treatment": dict,
}


def _clip(values: dict[str, Any]) -> Clip:
    treatment = Treatment(**values.pop("treatment"))
    lists: dict[str, Any] = {name: tuple(values.get(name, ())) for name in ("notes", "tokens")}
    lists["ready"] = tuple(_ready(*feature) for feature in values.get("ready", ()))
    return Clip(**{**values, **lists, "path": Path(values["path"]), "treatment": treatment})


def _ready(name: str, path: str, digest: str, values: Sequence[int]) -> Ready:
    return Ready(name, path, digest, tuple(values))


def total_hours(clips: Sequence[Clip]) -> float:
    """Add up the clips' durations."""
    return sum(clip.duration_s for clip in clips) / 3600
