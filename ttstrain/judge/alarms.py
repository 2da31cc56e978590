"""Alarms while there is time: pace that drifts, a voice that moves away from the speaker's, lost words, blurred speech.

Each is said once, and again only where it has become clearly worse. One listening may be an accident, so that an alarm
needs two in a row, unless it is drastic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ttstrain.judge.rule import AUDIBLE, Standing, say_pace, words_change
from ttstrain.judge.speaking import speaks

AlarmKind = Literal["pace", "voice", "words", "blurred"]
DRIFT = 0.15  # of the pace since the first listening
DRASTIC = 2.0  # times what is needed for an alarm
WORSE: Mapping[AlarmKind, float] = {"pace": 0.10, "voice": 0.05, "words": 0.25, "blurred": 0.15}  # to be said again


@dataclass(frozen=True, slots=True)
class Sign:
    """How bad one thing is at one listening."""

    kind: AlarmKind
    severity: float  # 1: an alarm where the next one says so too
    amount: float  # in the figure's unit, for saying it again
    words: str


@dataclass(slots=True)
class Alarms:
    """Remembers what was said, and what the last listening showed."""

    said: dict[str, float] = field(default_factory=dict)  # kind -> amount
    before: dict[str, float] = field(default_factory=dict)  # kind -> severity at the listening before
    first_pace: float | None = None

    def hear(self, standing: Standing, base: Standing | None) -> list[str]:
        """Take in the weights as they are now, beside their base; return what is to be said."""
        if self.first_pace is None:
            sound = [one for one in (base, standing) if one is not None and one.usable]
            self.first_pace = sound[0].mean("pace") if sound else None  # of noise there is no pace
        signs = _signs(standing, base, first_pace=self.first_pace)
        if base is not None and not speaks(base):  # nothing can be lost of it
            signs = [sign for sign in signs if sign.kind == "pace"]
        told = [sign.words for sign in signs if self._is_due(sign)]
        self.before = {sign.kind: sign.severity for sign in signs}
        return told

    def _is_due(self, sign: Sign) -> bool:
        confirmed = sign.severity >= 1 and self.before.get(sign.kind, 0.0) >= 1
        if not confirmed and sign.severity < DRASTIC:
            return False
        if sign.amount < self.said.get(sign.kind, -WORSE[sign.kind]) + WORSE[sign.kind]:
            return False
        self.said[sign.kind] = sign.amount
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"said": dict(self.said), "before": dict(self.before), "first_pace": self.first_pace}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.said, self.before = dict(state_dict["said"]), dict(state_dict["before"])
        self.first_pace = state_dict["first_pace"]


def _signs(standing: Standing, base: Standing | None, *, first_pace: float | None) -> Sequence[Sign]:
    found = (_pace(standing, first_pace), _voice(standing), _words(standing, base), _blurred(standing, base))
    return [sign for sign in found if sign is not None]


def _pace(standing: Standing, first_pace: float | None) -> Sign | None:
    pace = standing.mean("pace")
    if pace is None or first_pace is None or first_pace <= 0:
        return None
    drift = pace / first_pace - 1
    if abs(pace - 1) < abs(first_pace - 1):
        return None  # it moves towards the recordings
    way = "slower" if drift > 0 else "faster"
    said = f"the pace drifts: {100 * abs(drift):.0f} % {way} than at first, {say_pace(pace)} than the recordings"
    return Sign("pace", abs(drift) / DRIFT, abs(drift), said)


def _voice(standing: Standing) -> Sign | None:
    voice = standing.against_base.get("voice")
    if voice is None or voice.mean > -AUDIBLE:
        return None
    said = f"the voice moves away from the speaker's: {-voice.mean:.2f} farther than the base's"
    return Sign("voice", 1.0 if voice.high < 0 else 0.0, -voice.mean, said)


def _words(standing: Standing, base: Standing | None) -> Sign | None:
    faults = [fault for fault in standing.faults if fault.kind in ("words lost", "not understood")]
    rate = standing.against_base.get("words")
    errors = standing.against_base.get("cer")
    if not faults or base is None:
        return None
    lost = max(-rate.mean if rate is not None else 0.0, errors.mean if errors is not None else 0.0)
    if lost <= 0 or (faults[0].kind == "not understood" and words_change(standing.against_base) != "lost"):
        return None  # the base is not understood either, or hardly better: training did not do this
    return Sign("words", 2.0 if lost >= 0.5 else 1.0, lost, faults[0].words)


def _blurred(standing: Standing, base: Standing | None) -> Sign | None:
    if base is None:
        return None  # a net that learns from scratch is blurred at first
    fault = next((fault for fault in standing.faults if fault.kind == "blurred"), None)
    contrast = standing.mean("contrast")
    return None if fault is None or contrast is None else Sign("blurred", DRASTIC, 1 - contrast, fault.words)
