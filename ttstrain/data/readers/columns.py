"""Names of columns and keys that tables of recordings use."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from ttstrain.contract.table import Layout

AUDIO = (
    "file_name",
    "audio_file",
    "audio_filepath",
    "audio_path",
    "audio",
    "path",
    "file",
    "filename",
    "wav",
    "wav_path",
)
TEXT = (
    "normalized_text", "normalised_text", "text_normalized", "text", "transcript", "transcription", "sentence",
    "normalized", "normalised", "raw_text", "raw_transcription",
)  # fmt: skip
ID = ("id", "utt_id", "utterance_id", "segment_id", "key", "fileid", "file_id", "name")
SPEAKER = ("speaker", "speaker_id", "speaker_name", "spk", "spk_id", "client_id")
LANGUAGE = ("language", "lang", "locale")
GAIN = ("gain_db",)
DURATION = ("duration", "duration_s", "duration_sec", "duration_seconds", "audio_duration")  # in seconds

LONGEST_S = 1e6  # of a duration that can be meant

LANGUAGE_SPELLINGS = {"jp": "ja", "cn": "zh"}  # some tools' own codes


LJSPEECH = Layout(audio=0, texts=(2, 1), counts=(2, 3), audio_is_id=True)
COMMA_SEPARATED = Layout(audio=0, texts=(1,), counts=(2,), audio_is_id=True)  # a third may be a comma of the text


def layout_of(header: Sequence[str]) -> Layout | None:
    """Read a header line; None when it is none."""
    names = [plain(name) for name in header]
    file, id_ = first_of(AUDIO, names), first_of(ID, names)
    audio = file or id_
    texts = tuple(names.index(name) for name in TEXT if name in names)
    if audio is None or not texts:
        return None
    return Layout(
        audio=names.index(audio),
        texts=texts,
        counts=(1 + max(names.index(audio), min(texts)), len(names)),
        audio_is_id=file is None,
        id=_index(id_, names),
        speaker=_index(first_of(SPEAKER, names), names),
        language=_index(first_of(LANGUAGE, names), names),
        gain=_index(first_of(GAIN, names), names),
        seconds=_index(first_of(DURATION, names), names),
    )


@functools.lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Normalise a column's name for comparison."""
    return name.strip().strip('"').casefold().replace(" ", "_").replace("-", "_")


def first_of(wanted: Iterable[str], names: Iterable[str]) -> str | None:
    """Return the first wanted name among `names`; None if there is none."""
    return _first_of(tuple(wanted), tuple(names))


@functools.lru_cache(maxsize=4096)
def _first_of(wanted: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    there = set(names)
    return next((name for name in wanted if name in there), None)


def language_code(written: str) -> str:
    """Spell a language in lower case, by its usual code."""
    code = written.strip().lower()
    return LANGUAGE_SPELLINGS.get(code, code)


def seconds_of(written: object) -> float:
    """Read a duration in seconds; 0 for anything that is none."""
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        return 0.0
    try:
        seconds = float(written)
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds <= LONGEST_S else 0.0


def _index(name: str | None, names: Sequence[str]) -> int | None:
    return None if name is None else names.index(name)
