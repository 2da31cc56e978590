"""Listen to one utterance: all its figures at once, relative to the recordings of the wanted speaker.

A figure that cannot be measured is None, and a note says why: in `Figures.notes` where it is the clip's fault, in
`Ears.notes`, once, where a package is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.figures import Figures
from ttstrain.judge.pace import Timing, count_letters, timing
from ttstrain.judge.voice import SHORTEST_S, centroid, embed, similarity
from ttstrain.judge.words import Retrieved, content, retrieve

FEWEST_CANDIDATES = 4  # with fewer, the own sentence is the nearest by chance too often


@dataclass(frozen=True, slots=True)
class Ears:
    """What the judge hears with, opened once."""

    notes: tuple[str, ...] = ()  # what is not measured, and what to install for it

    @classmethod
    def open(cls, *, language: str = "") -> Ears:
        """Open what is installed."""
        return cls()


@dataclass(frozen=True, slots=True)
class Recording:
    """A sentence as the wanted speaker, or a reference, says it."""

    text: str
    content: Tensor | None  # (n, c), see `words.content`
    timing: Timing | None

    @property
    def seconds_per_letter(self) -> float | None:
        letters = count_letters(self.text)
        return self.timing.speech_s / letters if self.timing is not None and letters else None


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted speaker, and the sentences as they should sound."""

    voice: Tensor | None  # (256,), the mean direction of the recordings' embeddings
    voice_of_recordings: float | None  # mean similarity of each recording to the others: what a perfect clone reaches
    recordings: tuple[Recording, ...]  # candidates of `words`, no text twice
    seconds_per_letter: float | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, clips: Iterable[tuple[Audio, str]], *, ears: Ears) -> Target:
        """Measure recordings with their texts; keep out of them what the model was trained on, where possible."""
        voices: list[Tensor] = []
        recordings: dict[str, Recording] = {}
        for audio, text in clips:
            embedding = embed(audio)
            if embedding is not None:
                voices.append(embedding)
            recordings.setdefault(_key(text), Recording(text, content(audio), timing(audio)))
        paces = [pace for recording in recordings.values() if (pace := recording.seconds_per_letter) is not None]
        return cls(
            voice=centroid(voices) if voices else None,
            voice_of_recordings=_each_to_the_others(voices),
            recordings=tuple(recordings.values()),
            seconds_per_letter=sum(paces) / len(paces) if paces else None,
            notes=() if voices else (f"no recording has {SHORTEST_S:.0f} s of speech: the voice is not measured",),
        )

    def find(self, text: str) -> int | None:
        """Return the place of a sentence's recording; None if there is none."""
        keys = [_key(recording.text) for recording in self.recordings]
        return keys.index(_key(text)) if _key(text) in keys else None


def listen(audio: Audio, text: str, *, target: Target, ears: Ears) -> Figures:
    """Return the figures of one utterance that should say `text` in the voice of `target`."""
    wav_is_usable = bool(torch.isfinite(audio.wav).all()) and audio.wav.numel() > 0
    if not wav_is_usable:
        return Figures(notes=("the clip is empty or holds values that are no numbers: nothing is measured",))
    time = timing(audio)
    if time is None:
        return Figures(silence_share=1.0, too_short=1.0, notes=("the clip is silent: only its silence is measured",))
    notes: list[str] = []
    words = _words(audio, text, target, notes)
    pace = _pace(time, text, target, notes)
    return Figures(
        voice=_voice(audio, target, notes),
        words=None if words is None else float(words.rank == 1),
        words_margin=None if words is None else words.margin,
        pace=pace,
        pause_share=time.pause_share,
        silence_share=time.silence_share,
        too_short=None if pace is None else float(pace < 0.5),
        too_long=None if pace is None else float(pace > 2.0),
        notes=tuple(notes),
    )


def _voice(audio: Audio, target: Target, notes: list[str]) -> float | None:
    if target.voice is None:
        return None  # `Target.notes` says so once
    embedding = embed(audio)
    if embedding is None:
        notes.append(f"less than {SHORTEST_S:.0f} s of speech: too short to tell the voice")
        return None
    return similarity(embedding, target.voice)


def _words(audio: Audio, text: str, target: Target, notes: list[str]) -> Retrieved | None:
    place = target.find(text)
    spoken = content(audio)
    known = [(number, one.content) for number, one in enumerate(target.recordings) if one.content is not None]
    numbers, candidates = [number for number, _ in known], [found for _, found in known]
    if place not in numbers:
        notes.append("the sentence has no recording to compare with: words are not measured")
    elif len(candidates) < FEWEST_CANDIDATES:
        notes.append(f"fewer than {FEWEST_CANDIDATES} recordings to choose from: words are not measured")
    elif spoken is None:
        notes.append("less than 0.3 s of speech: words are not measured")
    else:
        return retrieve(spoken, candidates, own=numbers.index(place))
    return None


def _pace(time: Timing, text: str, target: Target, notes: list[str]) -> float | None:
    """Return time per letter relative to the sentence's own recording, or to all recordings if it has none."""
    letters = count_letters(text)
    place = target.find(text)
    own = None if place is None else target.recordings[place].seconds_per_letter
    usual = own if own is not None else target.seconds_per_letter
    if not letters or usual is None:
        notes.append("no letters or no recordings to compare with: the pace is not measured")
        return None
    return time.speech_s / letters / usual


def _each_to_the_others(voices: Sequence[Tensor]) -> float | None:
    """Return the mean similarity of each embedding to the centroid of the others; None for fewer than two."""
    if len(voices) < 2:
        return None
    total = torch.stack(list(voices)).sum(0)
    found = [similarity(voice, torch.nn.functional.normalize(total - voice, dim=0)) for voice in voices]
    return sum(found) / len(found)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
