"""Listen to one utterance: all its figures at once, relative to the recordings of the wanted speaker.

A figure that cannot be measured is None, and a note says why: in `Figures.notes` where it is the clip's fault, in
`Ears.notes` where a package is missing, in `Target.notes` where the recordings do not suffice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge import distance, naturalness, recognise
from ttstrain.judge.contrast import contrast
from ttstrain.judge.ears import Ears
from ttstrain.judge.figures import Figures
from ttstrain.judge.pace import Timing, count_letters, timing
from ttstrain.judge.pitch import Pitch, pitch, semitones
from ttstrain.judge.repeats import count_repeats, text_repeats
from ttstrain.judge.target import FEWEST_CANDIDATES, Target
from ttstrain.judge.voice import SHORTEST_S, embed, similarity
from ttstrain.judge.words import NOTHING_LIKE_IT, content, retrieve

TOO_SHORT, TOO_LONG = 0.5, 2.0  # times the recordings' time per letter
HURRIED = 0.8  # below this pace, a clip with less speech than a voice needs does not say its sentence

__all__ = ["Ears", "Target", "listen"]


@dataclass(frozen=True, slots=True)
class _Clip:
    """What is listened to, and what to say about it."""

    audio: Audio
    text: str
    target: Target
    ears: Ears
    place: int | None  # of the sentence among the target's recordings
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Words:
    """Whether a sentence is nearest to its own recording, and by how much: figures `words` and `words_margin`."""

    found: bool
    margin: float


def listen(audio: Audio, text: str, *, target: Target, ears: Ears) -> Figures:
    """Return the figures of one utterance that should say `text` in the voice of `target`.

    A clip without speech is silent and too short, and its sentence counts as lost; nothing else is measured.
    """
    clip = _Clip(audio, text, target, ears, target.find(text))
    if not audio.wav.numel() or not bool(torch.isfinite(audio.wav).all()):
        return _without_speech(clip, "the clip is empty or holds values that are no numbers")
    time = timing(audio)
    if time is None:
        return _without_speech(clip, "the clip is silent")
    embedding, pace, tone = embed(audio), _pace(clip, time), _pitch(clip)
    words, spectrum = _words(clip, pace, has_voice=embedding is not None), distance.spectrum(audio)
    return Figures(
        voice=_voice(clip, embedding),
        words=None if words is None else float(words.found),
        words_margin=None if words is None else words.margin,
        cer=_character_errors(clip),
        mos=_naturalness(clip),
        mcd=None if spectrum is None else _distance(clip, spectrum),
        contrast=None if spectrum is None else _contrast(clip, spectrum),
        f0_hz=None if tone is None else tone.median_hz,
        f0_shift=None if tone is None or target.f0_hz is None else semitones(tone.median_hz, target.f0_hz),
        f0_spread=None if tone is None else tone.spread,
        pace=pace,
        pause_share=time.pause_share,
        silence_share=time.silence_share,
        repeats=_repeats(clip),
        too_short=None if pace is None else float(pace < TOO_SHORT),
        too_long=None if pace is None else float(pace > TOO_LONG),
        notes=tuple(clip.notes),
    )


def _without_speech(clip: _Clip, why: str) -> Figures:
    lost = _recorded_place(clip) is not None
    return Figures(
        words=0.0 if lost else None,
        words_margin=NOTHING_LIKE_IT if lost else None,
        silence_share=1.0,
        too_short=1.0,
        notes=(f"{why}: {'the sentence counts as lost' if lost else 'nothing else is measured'}",),
    )


def _voice(clip: _Clip, embedding: Tensor | None) -> float | None:
    if clip.target.voice is None:
        return None
    if embedding is None:
        clip.notes.append(f"less than {SHORTEST_S:.0f} s of speech: too short to tell the voice")
        return None
    return similarity(embedding, clip.target.voice)


def _words(clip: _Clip, pace: float | None, *, has_voice: bool) -> _Words | None:
    """Compare speech with all recorded sentences; what is far from the right length does not say its own."""
    place = _recorded_place(clip)
    if place is None:
        if len(_candidates(clip.target)) >= FEWEST_CANDIDATES:  # else the target's own note says why
            clip.notes.append("the sentence has no recording to compare with: words are not measured")
        return None
    spoken = content(clip.audio)
    if spoken is None:
        clip.notes.append("less than 0.3 s of speech: the sentence counts as lost")
        return _Words(found=False, margin=NOTHING_LIKE_IT)
    heard = retrieve(spoken, _candidates(clip.target), own=place)
    if wrong := _wrong_length(pace, has_voice=has_voice):
        clip.notes.append(f"{wrong}: the sentence counts as lost")
        return _Words(found=False, margin=min(heard.margin, 0.0))
    return _Words(found=heard.rank == 1, margin=heard.margin)


def _wrong_length(pace: float | None, *, has_voice: bool) -> str:
    """Say what is wrong with how long a sentence takes; empty: nothing, or not known."""
    if pace is None:
        return ""
    if pace > TOO_LONG:
        return "far too long"
    if pace < TOO_SHORT:
        return "far too short"
    return "too short to tell the voice" if pace < HURRIED and not has_voice else ""


def _candidates(target: Target) -> list[Tensor]:
    """Return the contents of the recordings that have one."""
    return [one.content for one in target.recordings if one.content is not None]


def _recorded_place(clip: _Clip) -> int | None:
    """Return the sentence's own place among the candidates; None where there are too few, or its own is missing."""
    known = [number for number, one in enumerate(clip.target.recordings) if one.content is not None]
    return known.index(clip.place) if clip.place in known and len(known) >= FEWEST_CANDIDATES else None


def _character_errors(clip: _Clip) -> float | None:
    if clip.ears.recogniser is None:
        return None
    if recognise.has_digits(clip.text):
        clip.notes.append("the text has digits, which a recogniser may spell out: character errors count them as wrong")
    return recognise.character_errors(clip.text, clip.ears.recogniser.transcribe(clip.audio))


def _naturalness(clip: _Clip) -> float | None:
    if clip.ears.opinion is None:
        return None
    found = naturalness.naturalness(clip.audio, clip.ears.opinion)
    if found is None:
        clip.notes.append(f"less than {naturalness.SHORTEST_S} s of speech: naturalness is not measured")
    return found


def _distance(clip: _Clip, spectrum: Tensor) -> float | None:
    """Return the distortion to the sentence's own recording; a sentence without one has no such figure."""
    own = None if clip.place is None else clip.target.recordings[clip.place].spectrum
    return None if own is None else distance.distortion(spectrum, own)


def _contrast(clip: _Clip, spectrum: Tensor) -> float | None:
    own, usual = contrast(spectrum), clip.target.contrast
    return None if own is None or not usual else own / usual


def _pitch(clip: _Clip) -> Pitch | None:
    if clip.ears.detector is None:
        return None
    found = pitch(clip.audio, clip.ears.detector)
    if found is None:
        clip.notes.append("less than 0.3 s of voiced speech: pitch is not measured")
    return found


def _pace(clip: _Clip, time: Timing) -> float | None:
    """Return time per letter relative to the sentence's own recording, or to all recordings if it has none."""
    letters = count_letters(clip.text)
    own = None if clip.place is None else clip.target.recordings[clip.place].seconds_per_letter
    usual = own if own is not None else clip.target.seconds_per_letter
    if not letters or usual is None:
        clip.notes.append("no letters in the text or no recordings to compare with: pace is not measured")
        return None
    return time.speech_s / letters / usual


def _repeats(clip: _Clip) -> float | None:
    if text_repeats(clip.text):
        clip.notes.append("the text itself says something twice: repeats are not counted")
        return None
    return count_repeats(clip.audio)
