"""The verdict: which weights to use, in words, by the rule of `rule`.

Among usable weights those with the most similar voice win, unless others clearly say more of the words. Weights whose
voice differs from the winner's by no more than the interval are as good, and of those the ones with the lowest held-out
loss win.

What follows the verdict is no fault of the weights that are to be used: a voice that is not the speaker's yet, a pace
that is the base's too, and weights that hardly differ from the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from ttstrain.judge.figures import Interval, column, paired
from ttstrain.judge.rule import AUDIBLE, Side, Standing, differences, say_pace, stand, understood, words_change
from ttstrain.judge.speaking import speaks

Outcome = Literal["better", "same", "worse", "usable", "unusable", "unsure", "unknown"]
SPEAKS_NOT = "this net does not speak yet"
DO_NOT_USE = "worse than the base: do not use it"
OTHERS_REACH = (
    0.73  # voice similarity above which 1 % of the clips of other people are; the speaker's own are above 0.80
)
NOTABLE_PACE = 0.15  # from the recordings' pace: named, also where the base is no better
UNMOVED = 0.25  # of the way that the nearest voice went: weights that moved less hardly differ from the base


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be used, and why."""

    outcome: Outcome  # `usable`, `unsure`, `unusable`: there is no base, or an unusable one, to be better or worse than
    words: str
    winner: Standing | None  # None where there is nothing but the base
    base: Standing | None
    standings: tuple[Standing, ...]  # in the order that was given, without the base


def decide(sides: Sequence[Side], base: Side | None = None) -> Verdict:
    """Compare sides, and say which of them to use rather than the base."""
    beside = None if base is None else stand(base, None)
    standings = tuple(stand(side, base) for side in sides)
    winner = _winner(standings)
    if winner is None:
        return Verdict("unknown", "nothing was listened to", None, beside, standings)
    outcome, words = _against(winner, beside)
    return Verdict(
        outcome, "; ".join([words, *_remarks(winner, outcome, standings, said=words)]), winner, beside, standings
    )


def _winner(standings: Sequence[Standing]) -> Standing | None:
    heard = [one for one in standings if one.figures]
    usable = [one for one in heard if one.usable]
    if not usable:  # of noise the voice says nothing
        return min(heard, key=lambda one: one.side.loss if one.side.loss is not None else math.inf, default=None)
    clear = [one for one in usable if not any(_lost_words(one, other) for other in usable)] or usable
    first = max(clear, key=lambda one: one.mean("voice") or 0.0)
    alike = [one for one in clear if one is first or _as_near(one, first)]
    return min(alike, key=lambda one: (one.side.loss is None, one.side.loss or 0.0, one is not first))


def _lost_words(one: Standing, other: Standing) -> bool:
    return one is not other and words_change(differences(one.side, other.side)) == "lost"


def _as_near(one: Standing, first: Standing) -> bool:
    difference = paired(column(first.side.figures, "voice"), column(one.side.figures, "voice"))
    return difference is None or difference.holds_zero or abs(difference.mean) < AUDIBLE


def _against(winner: Standing, base: Standing | None) -> tuple[Outcome, str]:
    if not winner.usable:
        return _unusable(winner, base)
    doubt = _doubt(winner, base)
    if base is None:
        return "unsure" if doubt else "usable", f"{_alone(winner)}: use {winner.side.title}"
    voice = winner.against_base.get("voice")
    if voice is not None and voice.high < 0 and voice.mean <= -AUDIBLE:
        return "worse", f"{DO_NOT_USE} (farther from the voice by {-voice.mean:.2f})"
    gained = _gained(winner, base)
    if not gained:
        by = "" if voice is None else f" (voice {voice.mean:+.2f}, interval {voice.low:+.2f} to {voice.high:+.2f})"
        said = f"no difference from the base that exceeds the interval{by}"
        return "same", f"{said}; {doubt}" if doubt else said
    return "better", f"{', '.join([*gained, *_kept(winner, base)])}: use {winner.side.title}"


def _unusable(winner: Standing, base: Standing | None) -> tuple[Outcome, str]:
    faults = "; ".join(fault.words for fault in winner.faults)
    if not speaks(winner) and (base is None or not speaks(base)):
        both = "" if base is None else ", nor does its base"
        return "unusable", f"{SPEAKS_NOT}{both}: no verdict ({faults})"
    if base is None:
        return "unusable", f"not usable: {faults}"
    if not base.usable:
        return "unusable", f"not usable: {faults}; the base is not either"
    if [fault.kind for fault in winner.faults] == ["not understood"] and words_change(winner.against_base) != "lost":
        return "unusable", f"not usable: {faults}; the base is not clearly better"
    return "worse", f"{DO_NOT_USE} ({faults})"


def _gained(winner: Standing, base: Standing) -> list[str]:
    """Say what is better than the base by more than the interval."""
    said = []
    if _exceeds(voice := winner.against_base.get("voice")) and voice.mean >= AUDIBLE:
        said.append(f"closer to the voice by {voice.mean:.2f}")
    if words_change(winner.against_base) == "gained" and winner.words is not None:
        said.append(f"words gained ({understood(winner.words, base.words)})")
    elif not base.usable and not _doubt(winner, base):
        said.append("usable, as the base is not")
    return said


def _exceeds(interval: Interval | None) -> TypeGuard[Interval]:
    return interval is not None and interval.low > 0


def _kept(winner: Standing, base: Standing) -> list[str]:
    said = [_of_words(winner, base)]
    if (pace := winner.mean("pace")) is not None:
        said.append(say_pace(pace))
    return [words for words in said if words]


def _of_words(winner: Standing, base: Standing) -> str:
    """Say what became of the words; empty where it is said already that they are more and understood."""
    own, other = winner.words, base.words
    if own is None:
        return "words not measured"
    doubt = _doubt(winner, base)
    if words_change(winner.against_base) == "gained":
        return doubt.partition(" (")[0]  # how many they are is said already
    if doubt:
        return doubt
    if other is not None and own.found / own.of < other.found / other.of:
        return f"words not clearly fewer ({understood(own, other)})"
    return "words kept"


def _doubt(standing: Standing, base: Standing | None) -> str:
    """Say that the sentences do not show whether words are understood; empty where they do, or were not measured."""
    words = standing.words
    if words is None or words.understanding in ("understood", "not understood"):
        return ""
    heard = understood(words, None if base is None else base.words)
    if words.understanding == "too few sentences":
        return f"too few sentences to say whether words are understood ({heard})"
    return f"not sure whether words are understood ({heard})"


def _remarks(winner: Standing, outcome: Outcome, standings: Sequence[Standing], *, said: str) -> list[str]:
    """Name what a person should know beside the verdict."""
    remarks = []
    voice = winner.mean("voice")
    if voice is not None and voice < OTHERS_REACH and outcome not in ("worse", "unusable"):
        remarks.append(f"not the speaker's voice yet ({voice:.2f}; other people reach up to {OTHERS_REACH})")
    pace = winner.mean("pace")
    if pace is not None and abs(pace - 1) >= NOTABLE_PACE and "pace" not in said:
        remarks.append(f"{say_pace(pace)} than the recordings")
    remarks += [_like_base(one) for one in standings if any(_unmoved(one, other) for other in standings)]
    return remarks


def _like_base(one: Standing) -> str:
    averaged = one.side.key.rpartition("-")[2] == "ema"
    return f"{one.side.title}: hardly different from the base" + (", `ema.decay` is too high" if averaged else "")


def _unmoved(one: Standing, other: Standing) -> bool:
    """Tell whether `other` came closer to the voice and `one` hardly moved from the base, usable or not."""
    own, best = one.against_base.get("voice"), other.against_base.get("voice")
    if one is other or own is None or not _exceeds(best) or best.mean < AUDIBLE:
        return False
    gap = paired(column(other.side.figures, "voice"), column(one.side.figures, "voice"))
    return -AUDIBLE < own.mean < min(AUDIBLE, UNMOVED * best.mean) and _exceeds(gap)


def _alone(winner: Standing) -> str:
    said = []
    if doubt := _doubt(winner, None):
        said.append(doubt)
    elif winner.words is not None:
        said.append(f"words understood ({understood(winner.words, None)})")
    if (voice := winner.mean("voice")) is not None:
        said.append(f"voice {voice:.2f}")
    if (pace := winner.mean("pace")) is not None:
        said.append(say_pace(pace))
    return ", ".join(said) or "nothing was measured"
