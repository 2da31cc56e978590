"""Where speech begins and ends in a generated recording, and the level before and after it.

t samples at 24 kHz, n stretches of 10 ms. Levels are relative to the speech itself, so a quiet voice is judged alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ttstrain.families.orpheus.ids import SAMPLE_RATE

STRETCH: Final = SAMPLE_RATE // 100
BELOW_SPEECH_DB: Final = 25.0  # quieter than this is no speech
AROUND: Final = 10  # stretches, half of which are as loud as speech where speech begins: a click is none
QUIETEST_DB: Final = -100.0


@dataclass(frozen=True, slots=True)
class Edges:
    """The stretches of an utterance before its speech begins and after it ends."""

    lead_s: float
    tail_s: float
    lead_db: float | None  # below the speech's own level; None where there is no such stretch
    tail_db: float | None

    def numbers(self) -> dict[str, float]:
        """Return the figures by name, those that exist."""
        named = {"lead_s": self.lead_s, "tail_s": self.tail_s, "lead_db": self.lead_db, "tail_db": self.tail_db}
        return {name: value for name, value in named.items() if value is not None}


def measure_edges(wav: Tensor) -> Edges:
    """Measure a waveform (t,). Noise that is as loud as the speech counts as speech."""
    n = len(wav) // STRETCH
    power = wav[: n * STRETCH].double().reshape(n, STRETCH).square().mean(dim=1)  # (n,)
    if n < AROUND or not float(power.max()):
        return Edges(len(wav) / SAMPLE_RATE, 0.0, None, None)
    speech = float(power.quantile(0.95))
    loud = (power > speech * 10 ** (-BELOW_SPEECH_DB / 10)).double()
    begins = (loud.unfold(0, AROUND, 1).mean(dim=1) >= 0.5) & (loud[: n - AROUND + 1] > 0)  # by first stretch
    ends = (loud.unfold(0, AROUND, 1).mean(dim=1) >= 0.5) & (loud[AROUND - 1 :] > 0)  # by last stretch
    first = int(begins.double().argmax()) if bool(begins.any()) else 0
    last = int(ends.nonzero()[-1]) + AROUND if bool(ends.any()) else n
    return Edges(
        lead_s=first * STRETCH / SAMPLE_RATE,
        tail_s=(len(wav) - last * STRETCH) / SAMPLE_RATE,
        lead_db=_level(power[:first], speech),
        tail_db=_level(power[last:], speech),
    )


def _level(power: Tensor, speech: float) -> float | None:
    if not len(power):
        return None
    mean = float(power.mean())
    return max(10 * math.log10(mean / speech), QUIETEST_DB) if mean > 0 else QUIETEST_DB
