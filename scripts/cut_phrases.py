"""Cut recordings into phrases at the speaker's pauses, where the words of their text are found by forced alignment.

pocketsphinx (extra `judge`) aligns English text to speech. A word that its dictionary lacks gets one sound for each
letter: good enough to find the pauses around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pocketsphinx import Decoder
from torchaudio.functional import resample

ALIGNER_RATE = 16_000  # Hz
FRAME_S = 0.01
PADDING_S = 0.1  # of silence, on either side
SHORTEST_S, LONGEST_S = 1.3, 5.0  # of a phrase, from its first word to its last
LONGEST_WITHOUT_PAUSE_S = 8.0  # longer ones are left out
LEFT_WHOLE_S = 3.5  # a rest as short as this is not cut again
PAUSE_S = 0.1  # the shortest silence between two words that is cut
LONG_PAUSE_S = 0.35  # all longer pauses are equally good for a cut

SOUND_OF = {
    "a": "AE",
    "b": "B",
    "c": "K",
    "d": "D",
    "e": "EH",
    "f": "F",
    "g": "G",
    "h": "HH",
    "i": "IH",
    "j": "JH",
    "k": "K",
    "l": "L",
    "m": "M",
    "n": "N",
    "o": "AA",
    "p": "P",
    "q": "K",
    "r": "R",
    "s": "S",
    "t": "T",
    "u": "AH",
    "v": "V",
    "w": "W",
    "x": "K S",
    "y": "IY",
    "z": "Z",
}

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """A word as the aligner heard it."""

    token: int  # which of the text's tokens it is a part of
    start_s: float
    end_s: float


class Aligner:
    """Finds when each word of a text is said."""

    def __init__(self) -> None:
        self.decoder = Decoder(samprate=ALIGNER_RATE, loglevel="FATAL")

    def align(self, wav: Samples, rate: int, text: str) -> list[Word] | None:
        """Return the words of `text` in `wav` (t,), None where the aligner does not find them all."""
        spoken = [
            (number, word)
            for number, token in enumerate(text.split())
            for part in re.split(r"[-—.]", token.lower())
            if (word := re.sub(r"[^a-z']", "", part).strip("'"))
        ]
        for _, word in spoken:
            if self.decoder.lookup_word(word) is None:
                self.decoder.add_word(word, " ".join(SOUND_OF[letter] for letter in word if letter in SOUND_OF), True)
        self.decoder.set_align_text(" ".join(word for _, word in spoken))
        self.decoder.start_utt()
        self.decoder.process_raw(_as_heard(wav, rate), full_utt=True)
        self.decoder.end_utt()
        found = list(self.decoder.seg()) if self.decoder.hyp() else []
        heard = [segment for segment in found if segment.word[0] not in "<["]
        if len(heard) != len(spoken):
            return None
        return [
            Word(number, segment.start_frame * FRAME_S - PADDING_S, (segment.end_frame + 1) * FRAME_S - PADDING_S)
            for (number, _), segment in zip(spoken, heard, strict=True)
        ]


def _as_heard(wav: Samples, rate: int) -> bytes:
    sound = torch.from_numpy(wav)
    if rate != ALIGNER_RATE:
        sound = resample(sound, rate, ALIGNER_RATE)
    sound = sound / max(sound.abs().max().item(), 1e-6) * 0.9
    silence = torch.zeros(round(PADDING_S * ALIGNER_RATE))
    return (torch.cat([silence, sound, silence]) * 32767).to(torch.int16).numpy().tobytes()


def phrases(aligner: Aligner, wav: Samples, rate: int, text: str) -> Iterator[tuple[Samples, str]]:
    """Yield the phrases of a recording and their texts. A cut lies in the middle of a pause."""
    words = aligner.align(wav, rate, text)
    if not words:
        return
    tokens = text.split()
    begin = 0
    while begin < len(words):
        end = _end_of_phrase(words, begin)
        first, last = words[begin], words[end - 1]
        start_s = 0.0 if begin == 0 else (words[begin - 1].end_s + first.start_s) / 2
        end_s = len(wav) / rate if end == len(words) else (last.end_s + words[end].start_s) / 2
        if SHORTEST_S <= last.end_s - first.start_s <= LONGEST_WITHOUT_PAUSE_S:
            yield wav[int(start_s * rate) : int(end_s * rate)], " ".join(tokens[first.token : last.token + 1])
        begin = end


def _end_of_phrase(words: list[Word], begin: int) -> int:
    """Return the index after the last word of the phrase that starts with word `begin`."""
    start_s = words[begin].start_s
    pauses = {
        index: words[index].start_s - words[index - 1].end_s
        for index in range(begin + 1, len(words))
        if words[index].token != words[index - 1].token and words[index - 1].end_s - start_s >= SHORTEST_S
    }
    pauses = {index: pause for index, pause in pauses.items() if pause >= PAUSE_S}
    near = [index for index in pauses if words[index - 1].end_s - start_s <= LONGEST_S]
    rest_s = words[-1].end_s - start_s
    if rest_s <= LONGEST_S and not (near and rest_s > LEFT_WHOLE_S):
        return len(words)
    if near:
        return max(near, key=lambda index: (min(pauses[index], LONG_PAUSE_S), index))
    return min(pauses, default=len(words))
