"""Hear English words with pocketsphinx, offline: those of a given text by a model of that text, or any, roughly.

The decoder is CMU Sphinx with the English model of its package (extra `raw` or `judge`). With a language model of the
text it has to find, it hears read speech nearly without errors; without one, 10 to 50 % of the letters are wrong.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ttstrain.errors import RecipeError
from ttstrain.recordings.english import pronunciations
from ttstrain.recordings.language_model import arpa
from ttstrain.recordings.units import Unit

Samples = npt.NDArray[np.float32]

RATE = 16_000  # Hz
ENGLISH_SHARE = 0.8  # of a text's words in the dictionary, from which on it is taken for English
SEARCH = "text"
INSTALL = "install `ttstrain[raw]`, which brings pocketsphinx"


class TextHearer:
    """A decoder that expects the words of one text."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def hear(self, wav: Samples) -> list[str]:
        """Return the words that are heard in a waveform (s,) at 16 kHz."""
        return _heard(self.decoder, wav)


def open_text_hearer(units: Sequence[Unit]) -> TextHearer | None:
    """Open a decoder that expects the words of a text; None where it knows how to say none of them."""
    decoder = _decoder(lm=None)
    words = {unit.key: unit.word for unit in units}
    known = {key: pronunciations(word, known=decoder.lookup_word) for key, word in words.items()}
    expected = [unit.key for unit in units if known[unit.key]]
    if not expected:
        return None
    for key, phones in known.items():
        if decoder.lookup_word(key) is None:
            for number, said in enumerate(phones):
                decoder.add_word(key if number == 0 else f"{key}({number + 1})", said, False)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "text.arpa"
        model.write_text(arpa(expected), encoding="utf-8")
        decoder.add_lm_file(SEARCH, str(model))
    decoder.activate_search(SEARCH)
    return TextHearer(decoder)


class FreeHearer:
    """A decoder that expects any English: its transcripts are drafts."""

    def __init__(self) -> None:
        self.decoder = _decoder()

    def hear(self, wav: Samples) -> list[str]:
        """Return the words that are heard in a waveform (s,) at 16 kHz."""
        return _heard(self.decoder, wav)


def english_share(units: Sequence[Unit]) -> float:
    """Return the share of words that the dictionary knows; 0 without words."""
    decoder = _decoder(lm=None)
    words = [unit.word for unit in units if not any(c.isdigit() for c in unit.word)]
    return sum(decoder.lookup_word(word) is not None for word in words) / len(words) if words else 0.0


def require() -> None:
    """Raise RecipeError where pocketsphinx is not installed."""
    if importlib.util.find_spec("pocketsphinx") is None:
        raise RecipeError("hearing English words offline needs pocketsphinx", hint=INSTALL)


def _decoder(**settings: Any) -> Any:
    require()
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, loglevel="FATAL", **settings)


def _heard(decoder: Any, wav: Samples) -> list[str]:
    pcm = (np.clip(wav, -1, 1) * 32_767).astype(np.int16).tobytes()
    decoder.reinit_feat()  # what it learned of the last clip's noise would change this one's words
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    words = (segment.word.partition("(")[0] for segment in decoder.seg())
    return [word for word in words if word and word[0] not in "<[+"]
