"""The rule of one_minute.py, its statistics and its tables: pure functions of what the runs' files hold.

Success is decided here and not when a run is judged, so another margin needs no new run. Tables are made of a `Row` for
each run; the JSON beside a table holds them, so that its runs can be counted again where their files are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, median
from typing import Any

from one_minute_arms import ARMS, HORIZONS

from ttstrain.judge.figures import Figures, Interval, bootstrap, column
from ttstrain.judge.rule import FaultKind, Side, stand

MARGIN = 0.05  # of voice similarity: a fifth of what lies between one speaker's clips and two speakers'
MOST_WORDS_LOST = 1  # sentence
BASE, OURS = "base", "ours"
WORDS: tuple[FaultKind, ...] = ("not understood", "words lost", "collapsed")
REASONS = ("voice", "words", "MOS", "other")
Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Result:
    """One arm with one voice and seed, and the base that says the same sentences."""

    arm: str
    voice: str
    seed: int
    ended: str  # `done`, `diverged`
    figures: Sequence[Figures]  # by sentence; empty where the training diverged
    base: Sequence[Figures]
    loss: float | None
    base_loss: float | None
    retention: float | None = None  # loss on other voices
    base_retention: float | None = None
    norms: Sequence[float] = ()  # of the first steps, before clipping
    train_s: float = 0.0
    judge_s: float = 0.0
    trained_s: float = 0.0  # of speech

    @property
    def key(self) -> tuple[str, int]:
        return self.voice, self.seed


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a run made the voice, and what it lacks."""

    closer: bool
    words_kept: bool
    as_natural: bool | None  # None: not measured
    otherwise_usable: bool

    @property
    def succeeded(self) -> bool:
        return not self.lacking

    @property
    def lacking(self) -> tuple[str, ...]:
        kept = (self.closer, self.words_kept, self.as_natural is not False, self.otherwise_usable)
        return tuple(reason for reason, holds in zip(REASONS, kept, strict=True) if not holds)


def outcome(result: Result, *, margin: float = MARGIN) -> Outcome:
    """Judge a run: the voice closer by more than the margin, words kept, MOS not worse, and usable by the judge's rule.

    Words are kept where at most one sentence fewer than the base's is nearest to its own recording, and the judge finds
    no fault in the words. A training that diverged has none of these.
    """
    if not result.figures:
        return Outcome(closer=False, words_kept=False, as_natural=None, otherwise_usable=False)
    standing = stand(Side(result.arm, result.arm, result.figures), Side(BASE, BASE, result.base))
    faults = {fault.kind for fault in standing.faults}
    gain = voice_gain(result)
    return Outcome(
        closer=gain is not None and gain > margin,
        words_kept=found(result.figures) >= found(result.base) - MOST_WORDS_LOST and not faults & {*WORDS},
        as_natural=None if "mos" not in standing.against_base else "naturalness" not in faults,
        otherwise_usable=not faults - {*WORDS, "naturalness"},
    )


def voice_gain(result: Result) -> float | None:
    """Return the mean gain of similarity over the sentences that both sides have measured."""
    pairs = zip(column(result.figures, "voice"), column(result.base, "voice"), strict=True) if result.figures else ()
    gains = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return fmean(gains) if gains else None


def found(figures: Sequence[Figures]) -> int:
    """Count the sentences that are nearest to their own recording; one that is silent is not."""
    return sum(one.words == 1 for one in figures)


def mean_of(figures: Sequence[Figures], name: str) -> float | None:
    values = [value for value in column(figures, name) if value is not None]
    return fmean(values) if values else None


@dataclass(frozen=True, slots=True)
class Row:
    """One arm with one voice and seed, in the figures that the tables show; None: not measured."""

    arm: str
    voice: str
    seed: int
    ended: str
    loss: float | None
    base_loss: float | None
    retention: float | None
    base_retention: float | None
    trained_s: float
    train_s: float
    judge_s: float
    voice_gain: float | None
    words: int
    base_words: int
    sentences: int
    norm_median: float | None
    norm_largest: float | None
    lacks: tuple[str, ...]  # why it did not succeed
    pace: float | None = None
    base_pace: float | None = None
    mos: float | None = None
    base_mos: float | None = None

    @classmethod
    def of(cls, result: Result, *, margin: float = MARGIN) -> Row:
        names = ("arm", "voice", "seed", "ended", "loss", "base_loss", "retention", "base_retention")
        times = ("trained_s", "train_s", "judge_s")
        return cls(
            **{name: getattr(result, name) for name in (*names, *times)},
            voice_gain=voice_gain(result),
            words=found(result.figures),
            base_words=found(result.base),
            sentences=len(result.base),
            norm_median=median(result.norms) if result.norms else None,
            norm_largest=max(result.norms, default=None),
            lacks=outcome(result, margin=margin).lacking,
            pace=mean_of(result.figures, "pace"),
            base_pace=mean_of(result.base, "pace"),
            mos=mean_of(result.figures, "mos"),
            base_mos=mean_of(result.base, "mos"),
        )

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Row:
        known = {one.name for one in fields(cls)}
        return cls(
            **{**{key: value for key, value in written.items() if key in known}, "lacks": tuple(written["lacks"])}
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def succeeded(self) -> bool:
        return not self.lacks

    @property
    def key(self) -> tuple[str, int]:
        return self.voice, self.seed


# ---------------------------------------------------------------- statistics


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927); the whole range where there are no runs."""
    if runs == 0:
        return 0.0, 1.0
    share = successes / runs
    centre = share + Z**2 / (2 * runs)
    spread = Z * math.sqrt(share * (1 - share) / runs + Z**2 / (4 * runs**2))
    scale = 1 + Z**2 / runs
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def decide_rate(successes: int, runs: int, *, limit: float, claimed: str) -> str:
    """Say whether a claim that a success rate is `below` or `above` a limit holds."""
    if runs == 0:
        return "not measured"
    low, high = wilson(successes, runs)
    holds, fails = (high < limit, low >= limit) if claimed == "below" else (low > limit, high <= limit)
    return "holds" if holds else "CONTRADICTED" if fails else "not decided by so few runs"


def pairs_with(results: Sequence[Row], arm: str, other: str = OURS) -> list[tuple[Row, Row]]:
    """Pair the runs of an arm with another's of the same voice and seed, in order."""
    others = {result.key: result for result in results if result.arm == other}
    own = sorted((result for result in results if result.arm == arm), key=lambda result: result.key)
    return [(result, others[result.key]) for result in own if result.key in others]


def difference(pairs: Iterable[tuple[Row, Row]], measure: Callable[[Row], float | None]) -> Interval | None:
    """Return the mean difference within pairs with its interval, over those that both have measured."""
    measured = [(measure(ours), measure(theirs)) for ours, theirs in pairs]
    return bootstrap([None if a is None or b is None else a - b for a, b in measured])


def gain_of(row: Row) -> float | None:
    return row.voice_gain


def norm_change(results: Sequence[Row]) -> Interval | None:
    """Return by how much warmup changes the median gradient norm of the first steps: -0.7 is 70 % less."""
    ratios = [
        ours.norm_median / without.norm_median - 1
        for ours, without in pairs_with(results, OURS, "no-warmup")
        if ours.norm_median and without.norm_median
    ]
    return bootstrap(ratios)


# ---------------------------------------------------------------- tables


def tables(results: Sequence[Row], about: Mapping[str, Any], *, margin: float = MARGIN) -> str:
    """Write everything in Markdown."""
    arms = [arm for arm in ARMS if any(result.arm == arm for result in results)]
    parts = [
        _what(results, about, margin),
        _table(["arm", "runs", "succeed", "95 %", "voice", "words", "pace", "MOS", "loss", "lacks"], [
            _row(arm, [result for result in results if result.arm == arm]) for arm in arms
        ]),
        "Each arm less `ours`, in pairs of the same voice and seed:",
        _table(["arm", "pairs", "voice", "loss", "retention", "only it / only ours succeeds"], [
            _paired_row(arm, pairs_with(results, arm)) for arm in arms if arm != OURS
        ]),
        "Gradient norms before clipping, in the first steps (mean over the runs):",
        _table(["arm", "median", "largest", "training, s", "judging, s"], [
            _norm_row(arm, own) for arm in arms
            if (own := [result for result in results if result.arm == arm and result.norm_median])
            and ARMS[arm].training == arm
        ]),
        "Claims:",
        "\n".join(f"- {line}" for line in claims(results, about)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _what(results: Sequence[Row], about: Mapping[str, Any], margin: float) -> str:
    voices = sorted({result.voice for result in results})
    seconds = [result.trained_s for result in results]
    heard = any(result.mos is not None for result in results)
    lines = [
        f"{len(results)} results, {len(voices)} voices ({', '.join(voices)}), "
        f"{len({result.seed for result in results})} seeds; "
        f"{min(seconds, default=0):.0f} to {max(seconds, default=0):.0f} s of speech trained on, "
        f"{about.get('steps', '?')} steps; base {about.get('base', '?')}.",
        f"Succeeds: voice closer than the base's by more than {margin:g}, at most {MOST_WORDS_LOST} sentence fewer "
        "understood and no fault in the words, MOS not lower, usable by the judge's rule (docs/judge.md).",
    ]
    if not heard:
        lines.append("MOS was not measured (`distillmos` is not installed): success is decided without it.")
    return "\n".join(lines)


def _row(arm: str, own: Sequence[Row]) -> list[str]:
    successes = sum(result.succeeded for result in own)
    low, high = wilson(successes, len(own))
    lacks = {reason: sum(reason in result.lacks for result in own) for reason in REASONS}
    words, base, said = (sum(getattr(r, name) for r in own) for name in ("words", "base_words", "sentences"))
    return [
        arm,
        f"{len(own)}",
        f"{100 * successes / len(own):.0f} %",
        f"{100 * low:.0f} to {100 * high:.0f}",
        _spread(bootstrap([result.voice_gain for result in own])),
        f"{words} ({base}) of {said}",
        _beside(own, "pace"),
        _beside(own, "mos"),
        _loss(own),
        ", ".join(f"{reason} {count}" for reason, count in lacks.items() if count) or "nothing",
    ]


def _paired_row(arm: str, pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    won = [tuple(one.succeeded for one in pair) for pair in pairs]
    return [
        arm,
        f"{len(pairs)}",
        _spread(difference(pairs, gain_of)),
        _spread(difference(pairs, lambda result: result.loss)),
        _spread(difference(pairs, lambda result: result.retention)),
        f"{won.count((True, False))} / {won.count((False, True))}",
    ]


def _norm_row(arm: str, own: Sequence[Row]) -> list[str]:
    return [
        arm,
        f"{fmean(result.norm_median or 0 for result in own):.3g}",
        f"{fmean(result.norm_largest or 0 for result in own):.3g}",
        f"{fmean(result.train_s for result in own):.0f}",
        f"{fmean(result.judge_s for result in own):.0f}",
    ]


def _beside(own: Sequence[Row], name: str) -> str:
    """Write an arm's mean, and the base's in brackets."""
    ours, base = (
        [value for result in own if (value := getattr(result, key)) is not None] for key in (name, f"base_{name}")
    )
    return f"{fmean(ours):.2f} ({fmean(base):.2f})" if ours and base else "-"


def _loss(own: Sequence[Row]) -> str:
    pairs = [(r.loss, r.base_loss) for r in own if r.loss is not None and r.base_loss is not None]
    return f"{fmean(a for a, _ in pairs):.3f} ({fmean(b for _, b in pairs):.3f})" if pairs else "-"


def _spread(interval: Interval | None, digits: int = 3) -> str:
    if interval is None:
        return "-"
    if not math.isfinite(interval.low):
        return f"{interval.mean:+.{digits}f}"
    return f"{interval.mean:+.{digits}f} ({interval.low:+.{digits}f} to {interval.high:+.{digits}f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join(["| " + " | ".join(head) + " |", f"|{numbers}|", *("| " + " | ".join(row) + " |" for row in rows)])


# ---------------------------------------------------------------- claims


def claims(results: Sequence[Row], about: Mapping[str, Any]) -> list[str]:
    """Say of each claim what was measured, also where it is contradicted."""
    return [
        _rate_claim(results, "upstream-like", "below", 0.4),
        _rate_claim(results, OURS, "above", 0.9),
        _norm_claim(results),
        *_horizon(results, about),
    ]


def _rate_claim(results: Sequence[Row], arm: str, claimed: str, limit: float) -> str:
    own = [result.succeeded for result in results if result.arm == arm]
    verdict = decide_rate(sum(own), len(own), limit=limit, claimed=claimed)
    low, high = wilson(sum(own), len(own))
    measured = f"{sum(own)} of {len(own)} succeed ({100 * low:.0f} to {100 * high:.0f} %)" if own else "no run"
    share = f"{'less' if claimed == 'below' else 'more'} than {100 * limit:.0f} %"
    return f"one minute succeeds in {share} of the runs with `{arm}`: **{verdict}**; {measured}"


def _norm_claim(results: Sequence[Row]) -> str:
    change = norm_change(results)
    if change is None:
        return "warmup lowers gradient norms by 70 %: **not measured**"
    known = math.isfinite(change.low)
    verdict = "not decided by so few runs"
    if known and change.high <= -0.7:
        verdict = "holds"
    elif known and change.low > -0.7:
        verdict = "CONTRADICTED"
    interval = f" ({100 * change.low:+.0f} to {100 * change.high:+.0f} %)" if known else ""
    return (
        f"warmup lowers gradient norms by 70 %: **{verdict}**; measured {100 * change.mean:+.0f} %{interval}, medians"
    )


def _horizon(results: Sequence[Row], about: Mapping[str, Any]) -> list[str]:
    """Say which EMA horizon is heard to be best, over the runs that all of them have."""
    keys = [{result.key for result in results if result.arm == arm} for arm in HORIZONS]
    common = set.intersection(*keys)
    if not common:
        return ["the EMA horizon that wins by what is heard: **not measured** for all horizons yet"]
    own = [result for result in results if result.key in common]
    gains = {arm: bootstrap([r.voice_gain for r in own if r.arm == arm]) for arm in HORIZONS}
    measured = {arm: gain for arm, gain in gains.items() if gain is not None}
    if not measured:
        return ["the EMA horizon that wins by what is heard: **not measured**, no voice could be told"]
    best = max(measured, key=lambda arm: measured[arm].mean)
    alike = [
        arm
        for arm in measured
        if arm != best and (apart := difference(pairs_with(own, best, arm), gain_of)) is not None and apart.holds_zero
    ]
    told = f"; not told apart from it: {', '.join(alike)}" if alike else ""
    upstream = difference(pairs_with(own, best, "ema-inherited"), gain_of)
    return [
        f"the EMA horizon that wins by what is heard: **{best}** ({ARMS[best].what}), {_spread(measured[best])}{told}",
        f"its voice is closer than that of upstream's 0.9999 with the base's counter by {_spread(upstream)}",
        "the trainer's own EMA warm-up reaches a decay of "
        f"{about.get('ema_warmup_reaches', '?')} in this run: longer horizons with it are one average",
    ]
