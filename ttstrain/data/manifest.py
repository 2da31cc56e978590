"""Clips that are fit to train on, and what is done to each recording on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.data import Clip, Ready, Treatment
from ttstrain.data import atomic
from ttstrain.data.in_columns import column
from ttstrain.data.shards import absolute
from ttstrain.errors import DataError

_FIELDS = tuple(field.name for field in fields(Clip))
_OF_TREATMENT = tuple(field.name for field in fields(Treatment))


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as JSON lines, their paths so that they hold from any directory."""
    lines = [json_line(_values(clip)) for clip in clips]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def _values(clip: Clip) -> dict[str, Any]:
    """Return a clip's fields as JSON values; `asdict` copies each of them and takes ten times as long."""
    values = {name: getattr(clip, name) for name in _FIELDS}
    values["treatment"] = {name: getattr(clip.treatment, name) for name in _OF_TREATMENT}
    return {**values, "path": str(absolute(clip.path))}


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


_TEXTS = ("speaker", "language", "source", "digest")
_MOST = 1 << 48  # samples, or samples a second


def _clip(values: dict[str, Any]) -> Clip:
    documents.check_object(values, {name: str for name in _TEXTS if name in values})
    if not 0 < values["sample_rate"] < _MOST or not 0 <= values["duration_s"] < _MOST or "\0" in values["path"]:
        raise ValueError("it is no recording that there could be")
    lists: dict[str, Any] = {name: _texts(values.get(name, [])) for name in ("notes", "tokens")}
    lists["ready"] = tuple(_ready(*feature) for feature in values.get("ready", ()))
    treatment = _treatment(values.pop("treatment"))
    return Clip(**{**values, **lists, "path": Path(values["path"]), "treatment": treatment})


def _treatment(values: dict[str, Any]) -> Treatment:
    treatment = Treatment(**values)
    documents.check_object(asdict(treatment), {"gain": float, "offset": float, "start": int})
    channel, start, end = treatment.channel, treatment.start, treatment.end
    if channel != "mean" and (type(channel) is not int or not 0 <= channel < _MOST):
        raise ValueError("its channel is no number")
    if not 0 <= start < _MOST or (end is not None and (type(end) is not int or not start <= end < _MOST)):
        raise ValueError("its start and end are no part of a recording")
    return treatment


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a list of texts is something else")
    return tuple(values)


def _ready(name: str, path: str, digest: str, values: Sequence[int]) -> Ready:
    if not all(isinstance(text, str) for text in (name, path, digest)) or not all(type(one) is int for one in values):
        raise TypeError("a feature that lies ready is described by something else")
    return Ready(name, path, digest, tuple(values))


def total_hours(clips: Sequence[Clip]) -> float:
    """Add up the clips' durations."""
    seconds: float = sum(column(clips, "duration_s"))
    return seconds / 3600
