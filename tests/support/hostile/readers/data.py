"""Readers of recordings and of tables with recordings in them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hostile.catalogue import Reader, Sample
from hostile.columns import edit_arrow, edit_parquet
from hostile.mutation import Edit
from hostile.pool import Seen
from hostile.sounds import edit_flac, edit_mp3, edit_ogg, edit_wav
from ttstrain.contract.data import Clip, Treatment
from ttstrain.contract.table import RowTable
from ttstrain.data import shards
from ttstrain.data.audio import read_clip
from ttstrain.data.decode import decode, treat
from ttstrain.data.measure import measure
from ttstrain.data.readers import read_rows
from ttstrain.errors import DataError

RATE = 16_000
HEALTHY_NOTES = frozenset(("band_limited", "low_bits"))  # what is said of the healthy samples too


def speech(seconds: float = 0.6, *, channels: int = 1, pitch: float = 220) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Make something with loud and quiet frames, as speech has."""
    generator = np.random.default_rng(3)
    times = np.arange(round(seconds * RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * pitch * times) * (1 + np.sin(2 * np.pi * 4 * times)) / 2
    mono = tone + 0.05 * generator.standard_normal(len(times)) * (times > 0.1)
    return mono if channels == 1 else np.stack([mono * (1 - 0.1 * c) for c in range(channels)], axis=1)


def sound(form: str, subtype: str, *, channels: int = 1, pitch: float = 220) -> bytes:
    """Write a recording."""
    target = io.BytesIO()
    soundfile.write(target, speech(channels=channels, pitch=pitch), RATE, format=form, subtype=subtype)
    return target.getvalue()


# ---------------------------------------------------------------- recordings


def read_sound(folder: Path) -> Seen:
    """Measure a recording, and read it as training does."""
    (path,) = [path for path in folder.iterdir() if path.stem == "a"] or [folder / "a.wav"]
    measured = measure(path, max_s=60)
    reasons = {flaw.reason for flaw in measured.findings}
    if measured.treatment is None:
        raise DataError(f"left out: {', '.join(sorted(reasons))}")
    decoded = decode(path)
    samples = treat(decoded.samples, measured.treatment)
    start, end = measured.treatment.start, measured.treatment.end
    treatment = Treatment(measured.treatment.channel, measured.treatment.gain, measured.treatment.offset, start, end)
    clip = Clip(
        id="a",
        path=path,
        text="x",
        duration_s=len(samples) / measured.sample_rate,
        sample_rate=measured.sample_rate,
        treatment=treatment,
    )
    if len(read_clip(clip, measured.sample_rate)) != len(samples):
        raise AssertionError("measured and read differ")
    meaning = f"{measured.sample_rate} Hz {len(samples)} {hashlib.sha256(samples.tobytes()).hexdigest()}"
    return Seen(meaning, told=bool(reasons - HEALTHY_NOTES))


def _sounds(ending: str, edit: Edit, forms: Iterable[tuple[str, str, int]]) -> Any:
    def samples(folder: Path) -> Sequence[Sample]:
        name = f"a.{ending}"
        return [Sample({name: sound(form, subtype, channels=count)}, name, edit) for form, subtype, count in forms]

    return samples


_WAVS = (
    ("WAV", "PCM_16", 1),
    ("WAV", "PCM_24", 2),
    ("WAV", "FLOAT", 1),
    ("WAV", "ULAW", 1),
    ("WAVEX", "PCM_16", 2),
)
_OTHERS = (
    ("AIFF", "PCM_16", 1),
    ("CAF", "PCM_16", 1),
    ("AU", "PCM_16", 1),
    ("W64", "PCM_16", 1),
    ("RF64", "PCM_16", 1),
)


# ---------------------------------------------------------------- tables with recordings


def seen_rows(table: RowTable) -> Seen:
    """Say what a table means: its rows, with the content of recordings."""
    rows = [
        (row.id, row.text, row.speaker, row.language, row.gain_db, row.tokens, _content(row.audio), row.ready)
        for row in table.rows
    ]
    return Seen(repr(rows), told=bool(table.findings))


def _content(path: Path | None) -> str:
    if path is None:
        return ""
    if shards.part_of(path) is not None:
        return shards.digest_of(path)
    if not path.is_file() or path.stat().st_size > 1 << 24:
        return path.name
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parquet(folder: Path) -> Sequence[Sample]:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            "audio": [{"bytes": sound("FLAC", "PCM_16", pitch=p), "path": f"{p}.flac"} for p in (200, 300)],
            "text": ["first words", "second words"],
            "speaker": ["one", "two"],
            "duration": [0.6, 0.6],
        }
    )
    found = []
    for compression, checked in (("snappy", False), ("zstd", False), ("none", True)):
        target = io.BytesIO()
        pyarrow.parquet.write_table(table, target, compression=compression, write_page_checksum=checked)
        found.append(Sample({"a.parquet": target.getvalue()}, "a.parquet", edit_parquet))
    return found


def _read_parquet(folder: Path) -> Seen:
    return seen_rows(read_rows(folder / "a.parquet", cache_dir=str(folder / "cache")))


def _arrow(folder: Path) -> Sequence[Sample]:
    """Make a project of F5's upstream: `raw.arrow`, `duration.json`, `vocab.txt`."""
    import pyarrow
    import pyarrow.ipc

    table = pyarrow.table(
        {"audio_path": ["wavs/a.wav", "wavs/b.wav"], "text": ["first words", "second words"], "duration": [0.6, 0.6]}
    )
    found = []
    for compression in (None, "zstd", "lz4"):
        target = io.BytesIO()
        options = pyarrow.ipc.IpcWriteOptions(compression=compression)
        with pyarrow.ipc.new_stream(target, table.schema, options=options) as stream:
            stream.write_table(table)
        wav = sound("WAV", "PCM_16")
        files = {
            "raw.arrow": target.getvalue(),
            "duration.json": b'{"duration": [0.6, 0.6]}',
            "vocab.txt": b"a\nb\n",
            "wavs/a.wav": wav,
            "wavs/b.wav": wav,
        }
        found.append(Sample(files, "raw.arrow", edit_arrow))
    return found


def _read_arrow(folder: Path) -> Seen:
    return seen_rows(read_rows(folder, cache_dir=str(folder / "cache")))


READERS = (
    Reader("wav", _sounds("wav", edit_wav, _WAVS), read_sound, 1_500),
    Reader("flac", _sounds("flac", edit_flac, [("FLAC", "PCM_16", 1), ("FLAC", "PCM_24", 2)]), read_sound, 1_000),
    Reader("ogg", _sounds("ogg", edit_ogg, [("OGG", "VORBIS", 1), ("OGG", "OPUS", 1)]), read_sound, 1_000),
    Reader("mp3", _sounds("mp3", edit_mp3, [("MP3", "MPEG_LAYER_III", 1)]), read_sound, 800),
    Reader("aiff, caf, au, w64, rf64", _sounds("wav", edit_mp3, _OTHERS), read_sound, 500),
    Reader("parquet", _parquet, _read_parquet, 300),
    Reader("arrow (prepared by F5)", _arrow, _read_arrow, 150),
)
