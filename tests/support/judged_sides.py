"""Invented figures of eight sentences, for the judge's rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ttstrain.judge.figures import Figures
from ttstrain.judge.rule import Side

NOISE = (-0.03, 0.01, 0.02, -0.01, 0.0, 0.03, -0.02, 0.0)  # of the voice, sentence by sentence
GOOD = Figures(voice=0.8, words=1.0, words_margin=0.3, pace=1.0, silence_share=0.1, too_short=0.0, too_long=0.0)


def side(key: str, *, loss: float | None = None, lost: int = 0, **values: Any) -> Side:
    """Invent a side: eight sentences of `GOOD` with `values`, and the words of the first `lost` of them lost."""
    figures = []
    for number, noise in enumerate(NOISE):
        one = replace(GOOD, **values)
        if one.voice is not None:
            one = replace(one, voice=one.voice + noise * (1 if key == "base" else -1))
        if number < lost:
            one = replace(one, words=0.0, words_margin=-0.1)
        figures.append(one)
    return Side(key, {"online": "raw weights of step 300", "ema": "EMA of step 300"}.get(key, key), figures, loss)
