"""Sound files of the page: where each is played from, and its picture."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np

from ttstrain.contract.data import Clip
from ttstrain.data import atomic
from ttstrain.data.decode import Samples, decode, treat
from ttstrain.data.shards import part_of
from ttstrain.report import mel

Codec = Literal["flac", "ogg"]
PIXELS_PER_S = 36
MOST_PIXELS = 320
MAX_S = 60.0  # of a sound that is drawn
PICTURE_BYTES = 1_400_000  # of all pictures of one page, as it is written: beyond that cells have none
RECORDINGS = "recordings"  # folder in a run's `samples`

_FORMATS: dict[Codec, tuple[str, str, str]] = {  # libsndfile's names, type on the page
    "flac": ("FLAC", "PCM_16", "audio/flac"),
    "ogg": ("OGG", "VORBIS", "audio/ogg"),
}


_Version = tuple[str, int, int]  # a file's path, time in ns and size


@dataclass(slots=True)
class Shelf:
    """Gives addresses and pictures of sound files; the pictures of the last page are kept for the next one."""

    page: Path  # the folder that the page will lie in
    embed: Codec | None = None
    spent: int = 0  # bytes of pictures on this page
    _full: bool = False  # a picture had no room
    _pictures: dict[_Version, str] = field(default_factory=dict)  # of this page
    _before: dict[_Version, str] = field(default_factory=dict)  # of the page before

    def begin(self, page: Path, embed: Codec | None) -> None:
        """Begin a page."""
        self.page, self.embed, self.spent, self._full = page, embed, 0, False
        self._before, self._pictures = self._pictures, {}

    def address(self, path: Path) -> str:
        """Return where the page plays a file from: relative to the page, or the sound itself."""
        if self.embed is None:
            return quote(os.fsencode(os.path.relpath(path.resolve(), self.page.resolve()).replace(os.sep, "/")))
        return embedded(path, self.embed)

    def picture(self, path: Path) -> str:
        """Return a file's picture as an address; empty from the first one on for which the page has no room."""
        if self._full:
            return ""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        found = self._before.get(key) or _drawn(path)
        self._full = self.spent + len(found) > PICTURE_BYTES
        if self._full:
            return ""
        self._pictures[key] = found
        self.spent += len(found)
        return found


def _drawn(path: Path) -> str:
    decoded = decode(path, max_s=MAX_S)
    mono = decoded.samples.mean(axis=1)
    seconds = len(mono) / max(1, decoded.sample_rate)
    width = max(8, min(MOST_PIXELS, round(PIXELS_PER_S * seconds)))
    drawn = mel.draw(mono, decoded.sample_rate, width=width)
    return f"data:image/png;base64,{base64.b64encode(drawn).decode('ascii')}"


def embedded(path: Path, codec: Codec) -> str:
    """Return a sound as an address that holds it, coded anew: FLAC loses nothing, Ogg Vorbis is four times smaller."""
    import soundfile

    container, coding, kind = _FORMATS[codec]
    decoded = decode(path)
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", decoded.sample_rate, decoded.samples.shape[1], format=container, subtype=coding
    ) as out:
        for start in range(0, len(decoded.samples), decoded.sample_rate):  # libsndfile's Vorbis fails on long blocks
            out.write(decoded.samples[start : start + decoded.sample_rate])
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def keep_recording(run: Path, name: str, clip: Clip) -> Path:
    """Write a clip as it was trained on into the run's `samples/recordings`, once, and return its path.

    The page plays it from there: the data may be on another machine, in a format that no browser plays, or a part of a
    longer file. Raises OSError, or LibsndfileError for a recording that cannot be decoded.
    """
    import soundfile

    path = run / "samples" / RECORDINGS / f"{name}.flac"
    if path.is_file() and path.stat().st_mtime >= _changed(clip.path):
        return path
    decoded = decode(clip.path)
    mono: Samples = np.clip(treat(decoded.samples, clip.treatment), -1.0, 1.0)
    file = io.BytesIO()
    soundfile.write(file, mono, decoded.sample_rate, format="FLAC", subtype="PCM_16")
    atomic.write_bytes(path, file.getvalue(), durability="cached")
    return path


def _changed(path: Path) -> float:
    part = part_of(path)
    try:
        return (path if part is None else part.shard).stat().st_mtime
    except OSError:
        return 0.0
