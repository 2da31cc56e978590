"""Before and after the net, as in upstream's inference: prepare the voice, split the text, join the pieces.

Two things differ. A prompt that is too long is cut together with its text, or refused; upstream keeps the whole text,
and the net then says the rest of it aloud. And nothing is printed: notes say what was changed.

Legend: t samples, n frames, m mel bins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.data.pieces import ANY_MARK, cut
from ttstrain.errors import DataError
from ttstrain.families.flow import silence
from ttstrain.families.flow.config import HOP_LENGTH, SAMPLE_RATE

LONGEST_PROMPT_MS = 12_000
SHORTEST_CUT_MS = 6_000  # a prompt is not cut before this
EDGE_DB = -42.0  # dBFS; quieter edges are cut off
TAIL_S = 0.05  # silence after the prompt
RMS = 0.1  # quieter prompts are amplified to this level, and the result is attenuated by the same factor
WINDOW_S = 22.0  # prompt and chunk together
SHORT_TEXT_BYTES, SHORT_TEXT_SPEED = 10, 0.3  # very short texts would be cut off without this
CROSS_FADE_S = 0.15

# How silences are looked for, in this order: (at least ms, below dBFS).
_PAUSES = ((1000, -50.0), (100, -40.0))
_KEEP_MS = 1000  # of the silence around each stretch of speech
_SHORTEST_PAUSE_MS = 200
_AGREEMENT = 0.04  # share of a recording by which a pause and a mark in its text may differ
_MARK = re.compile(r"(?<=[;:,.!?])\s+|(?<=[；：，。！？])")


@dataclass(frozen=True, slots=True)
class PreparedVoice:
    """A prompt, ready for the net."""

    wav: Tensor  # (t,) at SAMPLE_RATE and RMS, with its tail; (0,) for none
    text: str  # with its end mark
    level: float = 1.0  # factor that takes a result back to the prompt's loudness
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.wav) / SAMPLE_RATE

    @property
    def num_frames(self) -> int:
        """Frames that the prompt takes of the result; a centred mel has one more, which the net may rewrite."""
        return len(self.wav) // HOP_LENGTH

    @property
    def prefix(self) -> str:
        """The reference's text as it stands before each piece that is generated."""
        return self.text + " " if self.text and _is_narrow(self.text[-1]) else self.text


NO_VOICE = PreparedVoice(torch.zeros(0), "")


# ---------------------------------------------------------------- the prompt


def prepare(audio: Audio, text: str) -> PreparedVoice:
    """Cut, trim, pad, raise and resample a reference.

    Raises DataError when it is silent, has no text, or is too long and its text cannot be cut with it.
    """
    wav, rate = audio.wav.float(), audio.sample_rate
    if not text.strip():
        raise DataError("the reference has no text", hint="give its exact transcript")
    if not silence.length_ms(wav, rate) or not bool(wav.isfinite().all()):
        raise DataError("the reference is empty or damaged")
    shortened = _shorten(wav, rate, text)
    trimmed = silence.trim(shortened.wav, rate, threshold_db=EDGE_DB)
    if not len(trimmed):
        raise DataError(
            f"the reference is silent: nothing in it is louder than {EDGE_DB:g} dBFS", hint="record it louder"
        )
    wav = torch.cat([trimmed, wav.new_zeros(round(TAIL_S * rate))])
    rms = float(wav.square().mean().sqrt())
    level = min(1.0, rms / RMS)
    wav = torchaudio.functional.resample(wav / level, rate, SAMPLE_RATE)
    return PreparedVoice(wav, end_mark(shortened.text), level, shortened.notes)


def end_mark(text: str) -> str:
    """End a reference's text so that it does not run into what follows."""
    if text.endswith((". ", "。")):
        return text
    return text + (" " if text.endswith(".") else ". ")


@dataclass(frozen=True, slots=True)
class _Shortened:
    wav: Tensor
    text: str
    notes: tuple[str, ...] = ()


def _shorten(wav: Tensor, rate: int, text: str) -> _Shortened:
    """Shorten long silences; cut what is then still longer than 12 s at a pause, text and sound together."""
    at_least, threshold = _PAUSES[0]
    ranges = silence.split(wav, rate, at_least_ms=at_least, threshold_db=threshold, keep_ms=_KEEP_MS)
    joined = torch.cat([wav.new_zeros(0), *(silence.cut_ms(wav, rate, *each) for each in ranges)])
    if silence.length_ms(joined, rate) <= LONGEST_PROMPT_MS:
        return _Shortened(joined, text)
    seconds = len(joined) / rate
    cut = _common_cut(joined, rate, text)
    if cut is None:
        raise DataError(
            f"the reference lasts {seconds:.1f} s, the limit is 12 s, and no pause "
            "could be matched to its text to cut both",
            hint="give 3 to 12 seconds of it, with their exact transcript",
        )
    kept = text[: cut.letters].rstrip()
    note = (
        f"the reference of {seconds:.1f} s was cut after {cut.ms / 1000:.1f} s and "
        f"its text after `…{kept[-24:]}`; if these do not match, give a shorter reference"
    )
    return _Shortened(silence.cut_ms(joined, rate, 0, cut.ms), kept, (note,))


@dataclass(frozen=True, slots=True)
class _Cut:
    ms: int
    letters: int


@dataclass(frozen=True, slots=True)
class _Pause:
    middle: int  # ms
    length: int  # ms
    share: float  # of all speech that lies before it


def _common_cut(wav: Tensor, rate: int, text: str) -> _Cut | None:
    """Find the last pause before 12 s that falls on a mark in the text: the same share of speech and of bytes.

    Pauses come without marks and marks without pauses, so a pair counts only where both stand alone: no other mark
    and no other pause of half the length is near.
    """
    at_least, threshold = _PAUSES[1]
    total = silence.length_ms(wav, rate)
    silent = silence.silent_ranges(wav, rate, at_least_ms=at_least, threshold_db=threshold)
    sounding = sum(end - start for start, end in silence.sounding_ranges(total, silent))
    pauses: list[_Pause] = []
    heard, position = 0, 0
    for start, end in silent:
        heard += start - position
        position = end
        pauses.append(_Pause((start + end) // 2, end - start, heard / sounding))
    marks = [match.end() for match in _MARK.finditer(text) if text[match.end() :].strip()]
    shares = {mark: len(text[:mark].encode()) / len(text.encode()) for mark in marks}
    found = None
    for pause in pauses:
        if not SHORTEST_CUT_MS <= pause.middle <= LONGEST_PROMPT_MS or pause.length < _SHORTEST_PAUSE_MS:
            continue
        near = [mark for mark, share in shares.items() if abs(share - pause.share) < 2 * _AGREEMENT]
        if len(near) != 1 or abs(shares[near[0]] - pause.share) >= _AGREEMENT:
            continue
        rivals = [each for each in pauses if each != pause and abs(each.share - shares[near[0]]) < 2 * _AGREEMENT]
        if all(2 * each.length <= pause.length for each in rivals):
            found = _Cut(pause.middle, near[0])
    return found


# ---------------------------------------------------------------- the text


def chunks(text: str, *, max_bytes: int) -> list[str]:
    """Split a text into pieces of at most `max_bytes` of UTF-8: at upstream's marks, then where its words allow it.

    Upstream knows only ASCII and full-width marks, and generates a Hindi or Arabic text in one piece of any length.
    """
    return cut(text, size=lambda part: len(part.encode()), most=max_bytes, marks=(_MARK, ANY_MARK))


def longest_s(frames: Sequence[int], voice: PreparedVoice) -> float:
    """Return the seconds of the longest piece with its prompt, in which the net was not trained beyond `WINDOW_S`."""
    return max(frames) * HOP_LENGTH / SAMPLE_RATE + voice.seconds


def max_bytes(voice: PreparedVoice, *, speed: float, seconds_per_byte: float) -> int:
    """Return the bytes of text for one pass, at the voice's pace, or at `seconds_per_byte` without a voice."""
    if not voice.num_frames:
        return int(WINDOW_S / seconds_per_byte * speed)
    return int(len(voice.text.encode()) / voice.seconds * (WINDOW_S - voice.seconds) * speed)


def num_frames(text: str, voice: PreparedVoice, *, speed: float, seconds_per_byte: float) -> int:
    """Estimate a text's duration in frames from its UTF-8 bytes, at the voice's pace if there is a voice."""
    num_bytes = len(text.encode())
    if not voice.num_frames:
        return round(num_bytes * seconds_per_byte / speed * SAMPLE_RATE / HOP_LENGTH)
    pace = SHORT_TEXT_SPEED if num_bytes < SHORT_TEXT_BYTES else speed
    return int(voice.num_frames / len(voice.prefix.encode()) * num_bytes / pace)


def share_duration(duration_s: float, pieces: Sequence[str]) -> list[int]:
    """Divide a given duration among the pieces by their bytes, in frames; the cross-fades' overlap is added."""
    sizes = [len(piece.encode()) for piece in pieces]
    seconds = duration_s + CROSS_FADE_S * (len(pieces) - 1)
    return [round(seconds * size / sum(sizes) * SAMPLE_RATE / HOP_LENGTH) for size in sizes]


def _is_narrow(character: str) -> bool:
    return len(character.encode()) == 1


# ---------------------------------------------------------------- the result


def cross_fade(wavs: Sequence[Tensor]) -> Tensor:
    """Join waveforms (t_i,), each fading into the next."""
    joined = wavs[0]
    for wav in wavs[1:]:
        overlap = min(int(CROSS_FADE_S * SAMPLE_RATE), len(joined), len(wav))
        rising = torch.linspace(0, 1, overlap)
        shared = joined[len(joined) - overlap :] * rising.flip(0) + wav[:overlap] * rising
        joined = torch.cat([joined[: len(joined) - overlap], shared, wav[overlap:]])
    return joined


def join_mels(mels: Sequence[Tensor]) -> Tensor:
    """Concatenate mels (n_i, m); where two overlap, the end of the first is dropped."""
    overlap = round(CROSS_FADE_S * SAMPLE_RATE / HOP_LENGTH)
    return torch.cat([*(mel[: max(1, len(mel) - overlap)] for mel in mels[:-1]), mels[-1]])
