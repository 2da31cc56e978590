"""The figures of one utterance, what each of them means, and how sure a mean over clips is.

A figure that was not measured is None, never a guess; a note says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from ttstrain.judge.understood import share_interval

Better = Literal["higher", "lower", "near", "neither"]  # near: the nearer to `Meaning.aim`, the better

RESAMPLES = 2_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a figure says, for people and for rules."""

    name: str  # of the field in `Figures`, and of the key in metrics and JSON
    title: str
    unit: str  # empty: a plain number or a share
    better: Better
    explanation: str
    digits: int = 2
    aim: float | None = None  # only with `near`
    is_count: bool = False  # 1 or 0 for a sentence; the mean is a share of the sentences


MEANINGS: tuple[Meaning, ...] = (
    Meaning(
        "voice", "voice", "", "higher", "cosine of the GE2E embedding to the wanted speaker's; 1 is the same voice"
    ),
    Meaning(
        "words",
        "words",
        "",
        "higher",
        "1 where the sentence's own recording is the nearest of all candidates; 0 where nothing like it was said",
        is_count=True,
    ),
    Meaning(
        "words_margin",
        "words, margin",
        "",
        "higher",
        "how much farther the nearest other sentence is; below 0 where it is nearer",
    ),
    Meaning("cer", "character errors", "", "lower", "edits per letter between the text and what a recogniser hears"),
    Meaning("mos", "naturalness", "MOS", "higher", "predicted mean opinion score, 1 to 5"),
    Meaning(
        "mcd", "cepstral distance", "dB", "lower", "mel-cepstral distortion to the sentence's own recording, in level"
    ),
    Meaning(
        "contrast",
        "contrast",
        "",
        "near",
        "how much the spectrum changes over time, relative to the recordings; far below 1 is blurred",
        aim=1.0,
    ),
    Meaning("f0_hz", "pitch", "Hz", "neither", "median of the fundamental frequency", digits=0),
    Meaning("f0_shift", "pitch, shift", "semitones", "near", "median pitch relative to the recordings'", 1, aim=0.0),
    Meaning("f0_spread", "pitch, spread", "semitones", "neither", "distance of the 90th from the 10th percentile", 1),
    Meaning("pace", "pace", "", "near", "time per letter relative to the recordings; above 1 is slower", aim=1.0),
    Meaning("pause_share", "pauses", "", "neither", "share of the speech that is pauses, edges left out"),
    Meaning("silence_share", "silence", "", "lower", "share of the whole clip without speech, edges included"),
    Meaning("repeats", "repeats", "", "lower", "stretches of half a second or more that are said twice"),
    Meaning(
        "too_short",
        "too short",
        "",
        "lower",
        "1 where the speech takes less than half the recordings' time",
        is_count=True,
    ),
    Meaning(
        "too_long",
        "too long",
        "",
        "lower",
        "1 where the speech takes more than twice the recordings' time",
        is_count=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is heard in one utterance; `MEANINGS` explains each figure."""

    voice: float | None = None
    words: float | None = None
    words_margin: float | None = None
    cer: float | None = None
    mos: float | None = None
    mcd: float | None = None  # dB
    contrast: float | None = None
    f0_hz: float | None = None
    f0_shift: float | None = None  # semitones
    f0_spread: float | None = None  # semitones
    pace: float | None = None
    pause_share: float | None = None
    silence_share: float | None = None
    repeats: float | None = None
    too_short: float | None = None
    too_long: float | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, value in self.measured().items():
            if not math.isfinite(value):
                raise ValueError(f"figure `{name}` is {value}: a figure that was not measured is None")

    def measured(self) -> dict[str, float]:
        """Return the figures that were measured, by name, in the order of `MEANINGS`."""
        values = {meaning.name: getattr(self, meaning.name) for meaning in MEANINGS}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return every figure, None where not measured, and the notes."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)} | {"notes": list(self.notes)}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Figures:
        """Read what `to_json` gave; a figure that was not known then is None. Raises ValueError or TypeError."""
        known = {meaning.name: values.get(meaning.name) for meaning in MEANINGS}
        return cls(**known, notes=tuple(values.get("notes", ())))


def meaning(name: str) -> Meaning:
    """Return the meaning of a figure; KeyError for an unknown name."""
    found = {entry.name: entry for entry in MEANINGS}
    return found[name]


def gain(name: str, *, before: float, after: float) -> float | None:
    """Return how much better `after` is than `before`, in the figure's unit; None for a figure without a direction."""
    entry = meaning(name)
    if entry.better == "higher":
        return after - before
    if entry.better == "lower":
        return before - after
    if entry.better == "near":
        assert entry.aim is not None
        return abs(before - entry.aim) - abs(after - entry.aim)
    return None


# ---------------------------------------------------------------- means over clips


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over clips with the interval in which it lies with 95 % confidence.

    Of one clip alone the spread is not known: its interval is unbounded, but for a share.
    """

    mean: float
    low: float
    high: float
    num_clips: int

    @property
    def holds_zero(self) -> bool:
        """Whether a difference of this size is none."""
        return self.low <= 0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Return the fields; an unbounded end is None."""
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        return {"mean": self.mean, "low": low, "high": high, "clips": self.num_clips}


def bootstrap(values: Sequence[float | None], *, seed: int = 0) -> Interval | None:
    """Return the mean of what was measured with its percentile bootstrap interval; None if nothing was measured.

    The percentile interval of few clips is too narrow. Its ends are moved away from the mean by the ratio of Student's
    quantile to the normal one and by sqrt(n / (n - 1)) (Hesterberg 2015, "What teachers should know about the
    bootstrap", section 3.2). The seed is fixed, so the same values give the same interval. Two clips have no resamples
    to speak of: theirs is Student's interval.
    """
    measured = np.array([value for value in values if value is not None], dtype=np.float64)  # (n,)
    n = len(measured)
    if n == 0:
        return None
    mean = float(measured.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    if n == 2:
        reach = math.tan(math.pi * LEVEL / 2) * abs(float(measured[0] - measured[1])) / 2
        return Interval(mean, mean - reach, mean + reach, 2)
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    means = measured[drawn].mean(1)  # (RESAMPLES,)
    ends = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = mean + (ends - mean) * _widening(n)
    return Interval(mean, float(low), float(high), n)


def share(values: Sequence[float | None]) -> Interval | None:
    """Return the share of ones among zeros and ones, with its exact interval; None if nothing was measured."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    found = round(sum(measured))
    low, high = share_interval(found, len(measured), level=LEVEL)
    return Interval(found / len(measured), low, high, len(measured))


def paired(ours: Sequence[float | None], theirs: Sequence[float | None], *, seed: int = 0) -> Interval | None:
    """Return the mean of `ours - theirs` with its interval, over the clips that both sides measured.

    Both sides list the same clips in the same order; ValueError if their numbers differ.
    """
    differences = [
        None if a is None or b is None else a - b  # a clip that one side lacks says nothing about the difference
        for a, b in zip(ours, theirs, strict=True)
    ]
    return bootstrap(differences, seed=seed)


def column(figures: Sequence[Figures], name: str) -> list[float | None]:
    """Return one figure of every utterance, in their order; KeyError for an unknown name."""
    meaning(name)
    return [getattr(entry, name) for entry in figures]


def summarise(figures: Sequence[Figures]) -> Mapping[str, Interval]:
    """Return mean and interval of every figure that at least one utterance has."""
    found = {
        entry.name: (share if entry.is_count else bootstrap)(column(figures, entry.name))  # by what it is a mean of
        for entry in MEANINGS
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def _widening(n: int) -> float:
    """Return Student's 97.5 % quantile for n - 1 degrees of freedom over the normal one, times sqrt(n / (n - 1)).

    Student's quantile by its expansion in the inverse degrees of freedom (Abramowitz and Stegun, 26.7.5).
    """
    z, v = 1.959964, n - 1
    student = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    return student / z * math.sqrt(n / v)
