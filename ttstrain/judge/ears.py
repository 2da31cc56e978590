"""What the judge hears with, opened once: what is not installed is said once."""

from __future__ import annotations

from dataclasses import dataclass

from ttstrain.judge import naturalness, pitch, recognise
from ttstrain.judge.naturalness import OpinionModel
from ttstrain.judge.pitch import PitchDetector
from ttstrain.judge.recognise import Recogniser


@dataclass(frozen=True, slots=True)
class Ears:
    """The models behind the figures that need one; None: that figure is not measured."""

    recogniser: Recogniser | None = None
    opinion: OpinionModel | None = None
    detector: PitchDetector | None = None
    notes: tuple[str, ...] = ()  # what is not measured and why, once for all clips

    @classmethod
    def open(cls, *, language: str = "", recogniser: str | None = None, transcribe: bool = True) -> Ears:
        """Open what is installed; takes about a second.

        `language` is the code of the texts' language, empty if unknown; `recogniser` a folder or a name on the hub with
        a Whisper model. `transcribe=False` opens no recogniser, which is the slowest part of listening. Raises
        CheckpointError if `recogniser` cannot be opened.
        """
        heard = recognise.open_recogniser(language, model=recogniser) if transcribe else recognise.Opened(None)
        opinion, detector = naturalness.open_naturalness(), pitch.open_pitch()
        notes = (
            heard.note,
            naturalness.MISSING if opinion is None else "",
            pitch.MISSING if detector is None else "",
            _relative(heard.recogniser),
        )
        return cls(heard.recogniser, opinion, detector, tuple(note for note in notes if note))


def _relative(recogniser: Recogniser | None) -> str:
    if recogniser is None or not recogniser.relative:
        return ""
    return f"character errors are by {recogniser.name}, which mishears much: compare them, do not take them as they are"
