"""The wanted speaker, and the sentences as they should sound: what figures are relative to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge import distance
from ttstrain.judge.contrast import contrast
from ttstrain.judge.ears import Ears
from ttstrain.judge.pace import Timing, count_letters, timing
from ttstrain.judge.pitch import pitch
from ttstrain.judge.voice import SHORTEST_S, centroid, embed, similarity
from ttstrain.judge.words import content

FEWEST_CANDIDATES = 4  # with fewer, the own sentence is the nearest by chance too often


@dataclass(frozen=True, slots=True)
class Recording:
    """A sentence as the wanted speaker, or a reference, says it."""

    text: str
    content: Tensor | None  # (n, c), see `words.content`
    spectrum: Tensor | None  # (n, m), see `distance.spectrum`
    timing: Timing | None

    @property
    def seconds_per_letter(self) -> float | None:
        letters = count_letters(self.text)
        return self.timing.speech_s / letters if self.timing is not None and letters else None

    @property
    def contrast(self) -> float | None:
        return None if self.spectrum is None else contrast(self.spectrum)


@dataclass(frozen=True, slots=True)
class Target:
    """What generated speech is compared with; made once, used for every clip and checkpoint."""

    voice: Tensor | None  # (256,), the mean direction of the recordings' embeddings
    voice_of_recordings: float | None  # mean similarity of each recording to the others: what a perfect clone reaches
    recordings: tuple[Recording, ...]  # the candidates of `words`, no text twice
    seconds_per_letter: float | None  # median
    f0_hz: float | None  # median of the recordings' medians
    contrast: float | None = None  # median of the recordings' own, see `contrast.contrast`
    notes: tuple[str, ...] = ()  # what is not measured and why, once for all clips

    @classmethod
    def of(
        cls, clips: Iterable[tuple[Audio, str]], *, ears: Ears, sentences: Iterable[tuple[Audio, str]] = ()
    ) -> Target:
        """Measure recordings of the wanted speaker with their texts.

        `sentences` are other recordings with their texts, such as a reference synthesis, that serve as candidates of
        `words` beside the speaker's own; their voice and pace do not count. Each sentence needs at least one
        recording to be retrieved, and the more candidates, the less chance: 8 to 16 are enough.
        """
        own = list(clips)
        voices = [embedding for audio, _ in own if (embedding := embed(audio)) is not None]
        recordings: dict[str, Recording] = {}
        for audio, text in own:
            recordings.setdefault(sentence_key(text), record(audio, text))
        paces = [pace for recording in recordings.values() if (pace := recording.seconds_per_letter) is not None]
        contrasts = [found for one in recordings.values() if (found := one.contrast) is not None]
        for audio, text in sentences:
            recordings.setdefault(sentence_key(text), record(audio, text))
        return cls(
            voice=centroid(voices) if voices else None,
            voice_of_recordings=_each_to_the_others(voices),
            recordings=tuple(recordings.values()),
            seconds_per_letter=statistics.median(paces) if paces else None,
            f0_hz=_median_f0([audio for audio, _ in own], ears),
            contrast=statistics.median(contrasts) if contrasts else None,
            notes=tuple(_missing(voices, recordings)),
        )

    def find(self, text: str) -> int | None:
        """Return the place of a sentence among the recordings; None if it has none."""
        keys = [sentence_key(recording.text) for recording in self.recordings]
        return keys.index(sentence_key(text)) if sentence_key(text) in keys else None


def record(audio: Audio, text: str) -> Recording:
    """Measure one recording."""
    return Recording(text, content(audio), distance.spectrum(audio), timing(audio))


def sentence_key(text: str) -> str:
    """Return what two spellings of one sentence share: letters and digits, without case."""
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def _missing(voices: Sequence[Tensor], recordings: dict[str, Recording]) -> Iterable[str]:
    if not voices:
        yield f"no recording of the speaker has {SHORTEST_S:.0f} s of speech: the voice is not measured"
    if len(recordings) < FEWEST_CANDIDATES:
        yield (
            f"{len(recordings)} recorded sentences to choose from, {FEWEST_CANDIDATES} are the fewest: "
            "whether the right words are heard is not measured"
        )


def _median_f0(clips: Sequence[Audio], ears: Ears) -> float | None:
    if ears.detector is None:
        return None
    found = [one.median_hz for audio in clips if (one := pitch(audio, ears.detector)) is not None]
    return statistics.median(found) if found else None


def _each_to_the_others(voices: Sequence[Tensor]) -> float | None:
    """Return the mean similarity of each embedding to the centroid of the others; None for fewer than two."""
    if len(voices) < 2:
        return None
    total = torch.stack(list(voices)).sum(0)
    return statistics.fmean(similarity(voice, F.normalize(total - voice, dim=0)) for voice in voices)
