"""The rule by which weights are compared by what is heard: what makes speech unusable, and a score that orders them.

Speech is *usable* where it has none of these faults, over the sentences that were listened to:

- collapsed: more than a quarter of the sentences are silent, or take less than half or more than twice the time;
- words not understood: so few sentences are nearest to their own recording that fewer than half of all sentences are,
  with a probability of 95 % (see `understood`); where neither that nor the opposite is sure, the verdict says so;
- words lost: fewer sentences than with the base are nearest to their own recording, and either that or the margin by
  which they are is worse by more than the interval; or a recogniser makes more errors, by more than the interval;
- blurred: the spectrum changes less than 0.6 times as much as the recordings', and less than the base's by more than
  the interval: a hum, as of a net that training destroyed;
- pace: the mean time per letter is below 0.8 or above 1.25 of the recordings', and farther from theirs than the base's;
- repeats: more stretches are said twice than by the base, by more than the interval;
- naturalness: the predicted mean opinion score is lower than the base's, by more than the interval and 0.2.

The score is the mean voice similarity, 0 to 1, less the probability that words are not understood, and less 1 where
there is any other fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ttstrain.judge.figures import Figures, Interval, column, paired, summarise
from ttstrain.judge.understood import Count, Understanding

MOST_COLLAPSED = 0.25  # share of the sentences
FEWEST_COMPARED = 4  # sentences; with fewer, all lost may still be an accident
LEAST_CONTRAST = 0.6  # relative to the recordings; single recordings of one speaker reach 0.83 to 1.21
PACES = (0.8, 1.25)  # time per letter relative to the recordings
FARTHER = 0.05  # by which a pace is worse than the base's
AUDIBLE = 0.02  # a smaller difference of voice similarity is none, however sure
MOST_MOS_LOST = 0.2
MOST_CER_GAINED = 0.02
MOST_REPEATS_GAINED = 0.25  # a sentence

WordsChange = Literal["lost", "gained", "none"]
FaultKind = Literal["collapsed", "not understood", "words lost", "blurred", "pace", "repeats", "naturalness"]


@dataclass(frozen=True, slots=True)
class Side:
    """One set of weights, and what is heard of it."""

    key: str  # unique among those that are compared
    title: str  # for people: `EMA of step 300`
    figures: Sequence[Figures]  # by sentence, in the same order on every side; an empty one where nothing was generated
    loss: float | None = None  # on the held-out clips


@dataclass(frozen=True, slots=True)
class Fault:
    """Why speech is not usable."""

    kind: FaultKind
    words: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A side under the rule."""

    side: Side
    figures: Mapping[str, Interval]  # means over the sentences
    against_base: Mapping[str, Interval]  # of each figure less the base's, sentence by sentence; empty without a base
    faults: tuple[Fault, ...]

    @property
    def usable(self) -> bool:
        return not self.faults

    @property
    def words(self) -> Count | None:
        """How many sentences are nearest to their own recording; None where that was not measured."""
        return count(self.figures.get("words"))

    @property
    def understanding(self) -> Understanding | None:
        """Whether words are understood; None where that was not measured."""
        return None if self.words is None else self.words.understanding

    @property
    def score(self) -> float | None:
        """The score of the rule; None where the voice was not measured."""
        voice, words = self.mean("voice"), self.words
        if voice is None:
            return None
        if any(fault.kind != "not understood" for fault in self.faults):
            return voice - 1
        return voice - (0 if words is None else words.misheard)

    def mean(self, name: str) -> float | None:
        return self.figures[name].mean if name in self.figures else None


def stand(side: Side, base: Side | None) -> Standing:
    """Put a side under the rule, beside its base where there is one; a base is compared with nothing."""
    against = {} if base is None else differences(side, base)
    figures = summarise(side.figures)
    beside = None if base is None else summarise(base.figures)
    faults = (
        _collapsed(side),
        _words(figures, against, beside),
        _blurred(figures, against, beside),
        _pace(figures, beside),
        _repeats(against),
        _naturalness(against),
    )
    return Standing(side, figures, against, tuple(fault for fault in faults if fault is not None))


def differences(side: Side, other: Side) -> dict[str, Interval]:
    """Return every figure of a side less the other's, sentence by sentence, where both measured it."""
    found = {name: paired(column(side.figures, name), column(other.figures, name)) for name in summarise(side.figures)}
    return {name: interval for name, interval in found.items() if interval is not None}


# ---------------------------------------------------------------- faults


def _collapsed(side: Side) -> Fault | None:
    heard = [one for one in side.figures if one.measured()]
    failed = [one for one in heard if one.too_short or one.too_long or one.silence_share == 1]
    if not heard or len(failed) / len(heard) <= MOST_COLLAPSED:
        return None
    kinds = [
        (len([one for one in failed if one.silence_share == 1]), "silent"),
        (len([one for one in failed if one.too_short and one.silence_share != 1]), "far too short"),
        (len([one for one in failed if one.too_long]), "far too long"),
    ]
    named = " and ".join(f"{count} {kind}" for count, kind in kinds if count)
    return Fault("collapsed", f"of {len(heard)} sentences {named}")


def _words(
    figures: Mapping[str, Interval], against: Mapping[str, Interval], base: Mapping[str, Interval] | None
) -> Fault | None:
    kept, other = count(figures.get("words")), None if base is None else count(base.get("words"))
    if kept is not None and kept.understanding == "not understood":
        return Fault("not understood", f"words not understood: {understood(kept, other)}")
    if kept is not None and words_change(against) == "lost":
        return Fault("words lost", f"words lost: {understood(kept, other)}")
    errors = against.get("cer")
    if errors is not None and errors.low > 0 and errors.mean > MOST_CER_GAINED:
        return Fault("words lost", f"words lost: {100 * errors.mean:.0f} % more character errors")
    return None


def count(words: Interval | None) -> Count | None:
    """Return how many sentences a mean of the figure `words` stands for."""
    return None if words is None else Count(round(words.mean * words.num_clips), words.num_clips)


def words_change(against: Mapping[str, Interval]) -> WordsChange:
    """Tell whether more or fewer sentences are found than by others, from differences sentence by sentence.

    Few sentences are found or not; the margin tells for each of them how nearly, and shows a change sooner. It may move
    without any effect on what is understood, so that the count must move the same way.
    """
    found, margin = against.get("words"), against.get("words_margin")
    if found is None or found.num_clips < FEWEST_COMPARED or found.mean == 0:
        return "none"
    measured = [one for one in (found, margin) if one is not None]
    if found.mean > 0:
        return "gained" if any(one.low > 0 for one in measured) else "none"
    return "lost" if any(one.high < 0 for one in measured) else "none"


def understood(kept: Count, base: Count | None) -> str:
    """Say how many sentences are nearest to their own recording, and how many of the base's are."""
    own = f"{kept.found} of {kept.of} sentences"
    return own if base is None else f"{own}, base {base.found}"


def _blurred(
    figures: Mapping[str, Interval], against: Mapping[str, Interval], base: Mapping[str, Interval] | None
) -> Fault | None:
    contrast = figures.get("contrast")
    if contrast is None or contrast.mean >= LEAST_CONTRAST:
        return None
    said = f"speech is blurred: its spectrum changes {100 * contrast.mean:.0f} % as much as the recordings'"
    other = None if base is None else base.get("contrast")
    if other is None:
        return Fault("blurred", said)
    lost = against.get("contrast")
    if lost is None or lost.high >= 0:
        return None  # training did not do this
    return Fault("blurred", f"{said}, the base's {100 * other.mean:.0f} %")


def _pace(figures: Mapping[str, Interval], base: Mapping[str, Interval] | None) -> Fault | None:
    pace = figures.get("pace")
    if pace is None or PACES[0] <= pace.mean <= PACES[1]:
        return None
    other = None if base is None else base.get("pace")
    if other is not None and abs(pace.mean - 1) <= abs(other.mean - 1) + FARTHER:
        return None  # training did not do this
    return Fault("pace", say_pace(pace.mean))


def say_pace(pace: float) -> str:
    """Say how much slower or faster speech is than the recordings, of the time that a letter takes."""
    percent = round(100 * (pace - 1))
    if percent == 0:
        return "pace as recorded"
    return f"pace {abs(percent)} % {'slower' if percent > 0 else 'faster'}"


def _repeats(against: Mapping[str, Interval]) -> Fault | None:
    repeats = against.get("repeats")
    if repeats is None or repeats.low <= 0 or repeats.mean < MOST_REPEATS_GAINED:
        return None
    return Fault("repeats", f"says {repeats.mean:.1f} more stretches twice in a sentence")


def _naturalness(against: Mapping[str, Interval]) -> Fault | None:
    mos = against.get("mos")
    if mos is None or mos.high >= 0 or mos.mean > -MOST_MOS_LOST:
        return None
    return Fault("naturalness", f"naturalness lower by {-mos.mean:.1f} MOS")
