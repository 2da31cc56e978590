"""Listen to one utterance: all its figures at once, relative to the recordings of the wanted speaker.

A figure that cannot be measured is None, and a note says why: in `Figures.notes` where it is the clip's fault, in
`Ears.notes` where a package is missing, in `Target.notes` where the recordings do not suffice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ttstrain.contract.task import Audio
from ttstrain.judge import distance, naturalness, recognise
from ttstrain.judge.ears import Ears
from ttstrain.judge.figures import Figures
from ttstrain.judge.pace import Timing, count_letters, timing
from ttstrain.judge.pitch import Pitch, pitch, semitones
from ttstrain.judge.repeats import count_repeats, text_repeats
from ttstrain.judge.target import FEWEST_CANDIDATES, Target
from ttstrain.judge.voice import SHORTEST_S, embed, similarity
from ttstrain.judge.words import Retrieved, content, retrieve

TOO_SHORT, TOO_LONG = 0.5, 2.0  # times the recordings' time per letter

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


def listen(audio: Audio, text: str, *, target: Target, ears: Ears) -> Figures:
    """Return the figures of one utterance that should say `text` in the voice of `target`.

    Of a silent clip only its silence is measured, and that it is too short.
    """
    if not audio.wav.numel() or not bool(torch.isfinite(audio.wav).all()):
        return Figures(notes=("the clip is empty or holds values that are no numbers: nothing is measured",))
    time = timing(audio)
    if time is None:
        return Figures(silence_share=1.0, too_short=1.0, notes=("the clip is silent: only its silence is measured",))
    clip = _Clip(audio, text, target, ears, target.find(text))
    words, pace, tone = _words(clip), _pace(clip, time), _pitch(clip)
    return Figures(
        voice=_voice(clip),
        words=None if words is None else float(words.rank == 1),
        words_margin=None if words is None else words.margin,
        cer=_character_errors(clip),
        mos=_naturalness(clip),
        mcd=_distance(clip),
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


def _voice(clip: _Clip) -> float | None:
    if clip.target.voice is None:
        return None
    embedding = embed(clip.audio)
    if embedding is None:
        clip.notes.append(f"less than {SHORTEST_S:.0f} s of speech: too short to tell the voice")
        return None
    return similarity(embedding, clip.target.voice)


def _words(clip: _Clip) -> Retrieved | None:
    known = [(number, one.content) for number, one in enumerate(clip.target.recordings) if one.content is not None]
    if len(known) < FEWEST_CANDIDATES:
        return None
    numbers, candidates = [number for number, _ in known], [found for _, found in known]
    spoken = content(clip.audio)
    if clip.place not in numbers:
        clip.notes.append("the sentence has no recording to compare with: words are not measured")
    elif spoken is None:
        clip.notes.append("less than 0.3 s of speech: words are not measured")
    else:
        return retrieve(spoken, candidates, own=numbers.index(clip.place))
    return None


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


def _distance(clip: _Clip) -> float | None:
    """Return the distortion to the sentence's own recording; a sentence without one has no such figure."""
    own = None if clip.place is None else clip.target.recordings[clip.place].spectrum
    spoken = distance.spectrum(clip.audio)
    return None if own is None or spoken is None else distance.distortion(spoken, own)


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
