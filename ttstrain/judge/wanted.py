"""What speech is compared with: the voices of the data's speakers, and the sentences as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttstrain.contract.data import Clip
from ttstrain.contract.task import Audio
from ttstrain.data.audio import read_clip
from ttstrain.errors import DataError
from ttstrain.judge.listen import Ears, Target

MOST_OF_A_VOICE = 12  # recordings that say what a speaker sounds like
HANDY_S = (1.5, 10.0)
ONE_VOICE = 0.7  # mean similarity of recordings to each other below which they are hardly of one speaker


@dataclass(frozen=True, slots=True)
class Wanted:
    """The target of each speaker whose voice is wanted; the key is empty where the data name none."""

    targets: Mapping[str, Target]
    notes: tuple[str, ...] = ()


def measure_wanted(clips: Sequence[Clip], *, texts: Sequence[str], speakers: Sequence[str], ears: Ears) -> Wanted:
    """Measure the recordings of `texts`, and more of the same `speakers`, in the order of `clips`.

    Of a text that several people read, the wanted speaker's recording counts. A recording that can no longer be read is
    left out, with a note.
    """
    notes: list[str] = []
    read: dict[str, tuple[Audio, str] | None] = {}
    targets: dict[str, Target] = {}
    for speaker in dict.fromkeys(speakers):
        own = _recorded(clips, texts, speaker)
        chosen = _of_voice(clips, speaker, own)
        others = [clip for clip in own if clip.speaker != speaker]
        read |= {clip.id: _read(clip, notes) for clip in (*chosen, *others) if clip.id not in read}
        pairs, beside = ([pair for clip in some if (pair := read[clip.id])] for some in (chosen, others))
        targets[speaker] = target = Target.of(pairs, ears=ears, sentences=beside)
        notes += target.notes
        if target.voice_of_recordings is not None and target.voice_of_recordings < ONE_VOICE:
            notes.append(
                f"the recordings{f' of {speaker}' if speaker else ''} sound like several speakers (similarity "
                f"{target.voice_of_recordings:.2f}): figures of the voice mean little; name the speakers in the "
                "metadata"
            )
    return Wanted(targets, tuple(dict.fromkeys(notes)))


def _recorded(clips: Sequence[Clip], texts: Sequence[str], speaker: str) -> list[Clip]:
    """Return a recording of each text: the speaker's first one, else anybody's first one."""
    found: dict[str, Clip] = {}
    wanted = dict.fromkeys(texts)
    for own in (True, False):
        for clip in clips:
            if clip.text in wanted and (clip.speaker == speaker) == own:
                found.setdefault(clip.text, clip)
    return [found[text] for text in wanted if text in found]


def _of_voice(clips: Sequence[Clip], speaker: str, own: Sequence[Clip]) -> list[Clip]:
    """Choose a speaker's recordings: those of the sentences, then others of a handy length."""
    low, high = HANDY_S
    ids = {clip.id for clip in own}
    first = [clip for clip in own if clip.speaker == speaker]
    others = [clip for clip in clips if clip.speaker == speaker and clip.id not in ids]
    others.sort(key=lambda clip: not low <= clip.duration_s <= high)  # the order within is kept
    return [*first, *others[: max(0, MOST_OF_A_VOICE - len(first))]]


def _read(clip: Clip, notes: list[str]) -> tuple[Audio, str] | None:
    try:
        return Audio(read_clip(clip, clip.sample_rate), clip.sample_rate), clip.text
    except DataError as error:
        notes.append(f"not compared with: {error.message}")
        return None
