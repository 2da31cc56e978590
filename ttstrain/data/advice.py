"""What each reason code of the audit means in plain words, and what a person can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Weight = Literal["lost", "harms", "harmless"]  # clips are left out; clips are used and harm; nothing to do


@dataclass(frozen=True, slots=True)
class Advice:
    """One kind of finding for people."""

    what: str  # continues `3 clips: `
    do: str  # empty: nothing


_LOST: Mapping[str, Advice] = {
    "missing_file": Advice("the recording is not there", "put the files there, or delete the rows"),
    "unreadable": Advice("the recording cannot be decoded", "convert it again from its source"),
    "empty_file": Advice("the file is empty", "copy the files again"),
    "not_a_file": Advice("a folder or a device stands in place of the file", "correct the paths"),
    "bad_header": Advice("the header of the file is damaged", "convert the recordings again from their source"),
    "damaged": Advice("the recording is damaged, its checksum differs", "copy the files again"),
    "truncated": Advice("the end of the recording is missing", "copy the files again"),
    "length_mismatch": Advice("the recording has another length than its header says", "convert the recordings again"),
    "no_samples": Advice("the file holds no sound", "record them again, or delete the rows"),
    "non_finite": Advice("some samples are no numbers", "export the recordings again from their source"),
    "silent": Advice("nobody speaks, the recording is silent", "record them again, or delete the rows"),
    "no_speech": Advice("a steady sound and no speech", "listen to them, and delete the rows"),
    "clipped": Advice("the sound is distorted, its peaks are cut off", "record again at a lower level"),
    "too_short": Advice("too short for speech", "join them with their neighbours, or delete the rows"),
    "too_long": Advice("longer than `data.max_s` allows", "cut recording and text at a pause, or raise `data.max_s`"),
    "no_text": Advice("there is no text", "write the transcripts, or delete the rows"),
    "encoding": Advice("letters of the text are damaged", "save the table as UTF-8 from its source"),
    "speaking_rate": Advice("the text is far too long or short for the recording", "correct the transcripts"),
    "duplicate_id": Advice("two rows of one name contradict each other", "keep the right row, and delete the others"),
    "duplicate_audio": Advice("one recording stands there with several texts", "keep the right text for each"),
    "outside_folder": Advice("a link leads out of the data folder", "copy the recordings into the folder"),
    "bad_row": Advice("the line cannot be read", "correct these lines of the table"),
    "bad_line": Advice("the line cannot be read", "correct these lines of the table"),
    "lost_row": Advice("lost with a damaged part of the table", "copy the table again"),
}
_HARMS: Mapping[str, Advice] = {
    "clipped": Advice("some peaks are cut off", "use better recordings if you can; else leave them"),
    "band_limited": Advice(
        "the sound is dull, as over a telephone or from a small MP3", "use better recordings if you can"
    ),
    "odd_header": Advice(
        "the header contradicts itself", "listen whether speed and pitch are right, else convert again"
    ),
    "low_rate": Advice("the sample rate is low, the voice will sound dull", "use the original recordings if you can"),
    "low_bits": Advice("8 bits a sample, the voice will hiss", "use the original recordings if you can"),
    "very_quiet": Advice("the recording was very quiet and is amplified, noise too", "record closer to the microphone"),
    "speaking_rate": Advice("spoken unusually fast or slowly for the text", "check whether the text is right"),
    "token_pace": Advice("spoken unusually fast or slowly for the text", "check whether the text is right"),
    "unnormalised": Advice("there are digits in the text", "write numbers as words, as they are spoken"),
    "unsupported_chars": Advice("the text is written in another script than the rest", "check the texts"),
    "speaker_label": Advice("the text begins with a name and a colon", "remove the name if it is not spoken"),
    "duplicate_audio": Advice("a copy of another recording", "delete the copies, which count twice"),
    "orphan_audio": Advice("a recording that no row names; it is not used", "add rows with their texts"),
    "row_count": Advice("the table has another number of rows than it says", "check the table"),
}


def advice_for(reason: str, action: str) -> tuple[Weight, Advice]:
    """Return how much a kind of finding matters, and the advice; findings of families say their own in each `why`."""
    if action == "skip":
        return "lost", _LOST.get(reason, Advice(reason.replace("_", " "), "see the examples"))
    if reason in _HARMS:
        return "harms", _HARMS[reason]
    return "harmless", Advice(reason, "")
