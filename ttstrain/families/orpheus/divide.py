"""Divides a recording that is too long for one row, at pauses between sentences.

There is no word alignment. The end of a sentence is estimated from its share of the letters and moved to the quietest
frame nearby; if that frame is not a pause, the recording is not divided there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ttstrain.families.orpheus.ids import SAMPLE_RATE, SAMPLES_PER_FRAME

_ENDS: Final = (  # tried in this order
    re.compile(r"(?<=[.!?;:…])[\"'”’)\]]*\s+|(?<=[。！？；：])"),
    re.compile(r"(?<=[.!?;:…,])[\"'”’)\]]*\s+|(?<=[。！？；：，、])"),
)
NEARBY: Final = round(2.0 * SAMPLE_RATE / SAMPLES_PER_FRAME)  # frames: how far speech may be off an even pace


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a recording that makes a row of its own."""

    text: str
    start: int  # frames
    end: int


def divide(
    text: str, loudness: Tensor, *, fits: Callable[[str, int], bool], loudest_pause: float
) -> list[Piece] | None:
    """Divide a text and its frames, with their loudness (n,), into as few pieces as `fits(text, frames)` allows.

    A pause is a frame below `loudest_pause` times the recording's median. Where sentences are too long, commas serve
    too. Returns None where no pause lies where one is needed.
    """
    for ends in _ENDS:
        pieces = _divide(split_at(text, ends), loudness, fits=fits, loudest_pause=loudest_pause)
        if pieces is not None:
            return pieces
    return None


def _divide(
    sentences: Sequence[str], loudness: Tensor, *, fits: Callable[[str, int], bool], loudest_pause: float
) -> list[Piece] | None:
    cuts = [0, *find_cuts(sentences, loudness, loudest_pause=loudest_pause), len(loudness)]
    pieces: list[Piece] = []
    first = 0  # sentence
    while first < len(sentences):
        for last in range(len(sentences), first, -1):
            start, end = cuts[first], cuts[last]
            words = " ".join(sentences[first:last])
            if start is not None and end is not None and end > start and fits(words, end - start):
                pieces.append(Piece(words, start, end))
                first = last
                break
        else:
            return None
    return pieces


def split_at(text: str, ends: re.Pattern[str]) -> list[str]:
    """Split a text after punctuation that makes a pause."""
    parts, start = [], 0
    for match in ends.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    parts.append(text[start:].strip())
    return [part for part in parts if any(letter.isalnum() for letter in part)] or [text]


def find_cuts(sentences: Sequence[str], loudness: Tensor, *, loudest_pause: float) -> list[int | None]:
    """Return the frame at which each sentence but the last ends; None where there is no pause."""
    letters = [sum(letter.isalnum() for letter in sentence) for sentence in sentences]
    total, so_far = sum(letters), 0
    threshold = loudest_pause * float(loudness.median())
    cuts: list[int | None] = []
    for count in letters[:-1]:
        so_far += count
        expected = round(len(loudness) * so_far / total)
        first = max(1, expected - NEARBY)
        nearby = loudness[first : expected + NEARBY]
        quietest = int(nearby.argmin()) if len(nearby) else 0
        found = bool(len(nearby)) and float(nearby[quietest]) < threshold
        cuts.append(first + quietest if found else None)
    return cuts
