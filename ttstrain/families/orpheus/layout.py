"""What a row says and how long it is, without computing it. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ttstrain.data.pieces import ANY_MARK, SENTENCE_END, cut
from ttstrain.data.transcript import usual_seconds
from ttstrain.families.orpheus.ids import NUM_SLOTS, SAMPLE_RATE, SAMPLES_PER_FRAME, TOKENS_PER_S
from ttstrain.families.orpheus.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip
    from ttstrain.families.orpheus.data_config import RowsConfig

MOST_USED: Final = 0.8  # of the tokens that a piece may take
SHORTEST_PIECE_S: Final = 4.0  # a text that takes less is not cut, however few tokens it may take
PUBLISHED_VOICES: Final = ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")  # of the English models
OVERHEAD: Final = 8  # SOH BOS ... EOT EOH SOA SOS ... EOS EOA


def said(text: str, speaker: str, voice: str | None) -> str:
    """Return what the model reads: the text after the name of its voice, or bare."""
    name = speaker if voice == "auto" else voice
    return f"{name}: {text}" if name else text


def pieces_of(text: str, *, max_tokens: int) -> list[str]:
    """Cut a text after its sentences into what so many tokens have room for, at a calm pace and with some to spare."""
    room = max(SHORTEST_PIECE_S, MOST_USED * max_tokens / TOKENS_PER_S)
    return cut(text, size=usual_seconds, most=room, marks=(SENTENCE_END, ANY_MARK)) or [text]


def num_frames(clip: Clip) -> int:
    """Count a clip's frames before any is left out as a repeat; the codec fills the last one up with silence."""
    return -(-clip.samples_at(SAMPLE_RATE) // SAMPLES_PER_FRAME)


def row_length(clip: Clip, rows: RowsConfig) -> int:
    """Count the tokens of a clip's row, or of its pieces together; with `dedup` the row may turn out shorter."""
    text = load_tokenizer(rows.tokenizer).count(said(clip.text, clip.speaker, rows.voice))
    whole = OVERHEAD + text + NUM_SLOTS * num_frames(clip)
    return whole + (OVERHEAD + text) * (num_pieces(whole, rows) - 1)


def num_pieces(length: int, rows: RowsConfig) -> int:
    """Return into how many rows one of so many tokens is divided at most; more pieces than needed leave room."""
    if length <= rows.max_tokens or rows.too_long == "skip":
        return 1
    return math.ceil(2 * length / rows.max_tokens)
