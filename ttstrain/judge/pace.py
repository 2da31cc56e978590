"""How fast speech is, how much of it is silence, and what is said twice: from the waveform alone."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from ttstrain.contract.task import Audio
from ttstrain.judge.waveform import RATE, at_rate, find_speech


@dataclass(frozen=True, slots=True)
class Timing:
    """How the time of a clip is used."""

    speech_s: float  # from the first sound to the last, pauses included
    pause_share: float  # of `speech_s`
    silence_share: float  # of the whole clip


def timing(audio: Audio) -> Timing | None:
    """Measure a clip; None for one without speech."""
    wav = at_rate(audio)
    speech = find_speech(wav)
    if not speech:
        return None
    whole = speech[-1].end_s - speech[0].start_s
    sounding = sum(stretch.duration_s for stretch in speech)
    return Timing(whole, 1 - sounding / whole, 1 - sounding * RATE / len(wav))


def count_letters(text: str) -> int:
    """Count a text's letters and digits; a sign of Chinese or Japanese is one letter, marks and spaces are none."""
    return sum(unicodedata.category(sign)[0] in "LN" for sign in text)
