"""Clips that were cut from recordings, as they are kept in the folder: `clips.jsonl` and the table made from it.

`clips.jsonl` holds every clip with its place in the source and all that is known of it; `metadata.csv` holds those that
are trained on, and is written again from it after each review.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.data.manifest import json_line
from ttstrain.errors import DataError

CLIPS = "clips.jsonl"
TABLE = "metadata.csv"
FOLDER = "clips"
_MOST_SAMPLES = 1 << 48
HINT = "cut the recordings again into a new folder"

Origin = Literal["", "text file", "text file, by duration", "recogniser", "draft", "review"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutClip:
    """One clip of a recording."""

    id: str
    file: str  # within the folder
    source: str  # path of the recording
    start: int  # in samples of the recording
    end: int
    sample_rate: int  # Hz
    text: str = ""
    origin: Origin = ""  # of the text
    fit: float | None = None  # share of the text's words that were heard as written
    speaker: str = ""
    language: str = ""
    loudness: float | None = None  # LUFS
    gain_db: float = 0.0  # by which it is made louder when it is read; the file holds the recording's own samples
    snr_db: float | None = None  # speech over the pauses around it
    notes: tuple[str, ...] = ()  # what a person should look at
    dropped: bool = False  # by a review

    @property
    def duration_s(self) -> float:
        return (self.end - self.start) / self.sample_rate

    @property
    def is_used(self) -> bool:
        """Tell whether it is trained on: it has a text that is no draft, and nobody dropped it."""
        return bool(self.text) and self.origin != "draft" and not self.dropped


def write_clips(folder: Path, clips: Sequence[CutClip]) -> None:
    """Write all clips, and the table of those that are used."""
    atomic.write_text(folder / CLIPS, "".join(json_line(asdict(clip)) + "\n" for clip in clips))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    has_gain = any(clip.gain_db for clip in clips)
    writer.writerow(["file_name", "text", "speaker", "language", *(["gain_db"] if has_gain else [])])
    for clip in clips:
        if clip.is_used:
            gain = [f"{clip.gain_db:.2f}"] if has_gain else []
            writer.writerow([clip.file, clip.text, clip.speaker, clip.language, *gain])
    atomic.write_text(folder / TABLE, table.getvalue())


def read_clips(folder: Path) -> list[CutClip]:
    """Read what `write_clips` wrote. Raises DataError when it is not there or damaged."""
    path = folder / CLIPS
    if not path.is_file():
        raise DataError(
            f"`{folder}` holds no `{CLIPS}`, which `ttstrain prepare RECORDINGS --cut FOLDER` writes",
            hint="name the folder that the recordings were cut into",
        )
    clips = []
    text = documents.read_text(path, error=DataError, hint=HINT, most_bytes=documents.MAX_TABLE)
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            try:
                clips.append(_clip(documents.check_object(documents.parse(line), _KEYS)))
            except (ValueError, TypeError) as error:
                raise DataError(f"`{path}` line {number} is not a clip: {error}", hint=HINT) from error
    if not clips:
        raise DataError(f"`{path}` holds no clip", hint=HINT)
    return clips


_KEYS: dict[str, type] = {
    "id": str,
    "file": str,
    "source": str,
    "start": int,
    "end": int,
    "sample_rate": int,
    "text": str,
    "notes": list,
    "dropped": bool,
}


_TEXTS = ("origin", "speaker", "language")
_NUMBERS = ("fit", "loudness", "snr_db")  # or null


def _clip(values: dict[str, Any]) -> CutClip:
    optional = dict.fromkeys(_TEXTS, str) | dict.fromkeys((*_NUMBERS, "gain_db"), float)
    given = {name for name in optional if name in values and not (name in _NUMBERS and values[name] is None)}
    documents.check_object(values, {name: optional[name] for name in given})
    if not 0 <= values["start"] < values["end"] < _MOST_SAMPLES or not 0 < values["sample_rate"] < _MOST_SAMPLES:
        raise ValueError("it does not lie within a recording")
    json.dumps(values, ensure_ascii=False).encode()  # or UnicodeEncodeError: it could not be written again
    return CutClip(**{**values, "notes": tuple(str(note) for note in values["notes"])})
