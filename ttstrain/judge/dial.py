"""The dial between a base and its fine-tune: what each blend keeps of the voice, and what it undoes of the forgetting.

Every blend says the same sentences. Retention is the mean loss on clips that the run did not train on, such as other
speakers'; forgetting is how much higher it is than the base's. The knee is the smallest blend that loses at most 2 % of
the fine-tune's voice similarity and has no fault that the fine-tune has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.errors import RecipeError
from ttstrain.export.interpolate import check_share
from ttstrain.judge.evaluate import BASE, Contestant, Evaluation
from ttstrain.judge.figures import Interval, bootstrap, column, paired
from ttstrain.judge.retention import Retention
from ttstrain.judge.rule import Standing
from ttstrain.shell import quoted

GRID = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
MOST_LOST = 0.02  # share of the fine-tune's voice similarity that the knee may lose


@dataclass(frozen=True, slots=True)
class Mark:
    """One blend on the dial."""

    blend: float
    standing: Standing
    likeness: float | None  # voice similarity as a share of the fine-tune's
    voice_lost: Interval | None  # voice similarity less the fine-tune's, sentence by sentence
    retention: Interval | None  # mean loss over the clips for retention
    forgotten: Interval | None  # retention less the base's, clip by clip
    undone: float | None  # share of the fine-tune's forgetting that this blend has not; None where nothing is forgotten


@dataclass(frozen=True, slots=True)
class Dial:
    """The blends in their order, and the knee."""

    marks: Sequence[Mark]
    knee: Mark | None
    words: str
    command: str | None  # exports the knee
    clips: int  # for retention
    source: str  # of these clips


def read_grid(written: str) -> tuple[float, ...]:
    """Read blends such as `0,0.5,1`, or `auto`; base and fine-tune are always among them. Raises RecipeError."""
    if written == "auto":
        return GRID
    try:
        shares = [float(part) for part in written.split(",")]
    except ValueError:
        raise RecipeError(f"`--blend {written}` is no list of numbers", hint="such as `--blend 0,0.5,1`") from None
    for share in shares:
        check_share(share)
    return tuple(sorted({0.0, *shares, 1.0}))


def find_blends(specs: Sequence[str], grid: Sequence[float], *, base: str = "") -> list[Contestant]:
    """List the blends of one run, the base first. Raises RecipeError for anything but one run."""
    checkpoint = resolve_base(specs[0]) if len(specs) == 1 else None
    if checkpoint is None or not pointers.is_checkpoint(checkpoint):
        raise RecipeError("`--blend` compares the blends of one run", hint="give one run, or one of its checkpoints")
    named = (base,) if base else ()
    return [
        Contestant(
            BASE if share == 0 else f"blend-{share:g}",
            f"blend {share:g}",
            f"blend {share:g}",
            str(checkpoint),
            blend=share,
            blend_base=named if share != 1 else (),
        )
        for share in grid
    ]


def read_dial(evaluation: Evaluation, retention: Retention | None, *, spec: str) -> Dial:
    """Put what was heard and what was retained together, and find the knee; `spec` is the run as the user named it."""
    verdict = evaluation.verdict
    standings = {one.side.key: one for one in (*verdict.standings, *((verdict.base,) if verdict.base else ()))}
    losses = {} if retention is None else retention.losses
    full = next(one for one in evaluation.contestants if one.blend == 1)
    worst = _difference(losses.get(full.key), losses.get(BASE))
    marks = [_mark(one, standings[one.key], standings[full.key], losses, worst) for one in evaluation.contestants]
    knee = _knee(marks)
    return Dial(
        marks,
        knee,
        words=_words(knee, marks, worst),
        command=None if knee is None or knee.blend == 0 else _command(spec, knee.blend),
        clips=0 if retention is None else len(retention.clips),
        source="" if retention is None else retention.source,
    )


def _mark(
    one: Contestant,
    standing: Standing,
    full: Standing,
    losses: dict[str, list[float | None]],
    worst: Interval | None,
) -> Mark:
    assert one.blend is not None
    voice, best = standing.mean("voice"), full.mean("voice")
    forgotten = _difference(losses.get(one.key), losses.get(BASE))
    return Mark(
        blend=one.blend,
        standing=standing,
        likeness=None if voice is None or best is None or best <= 0 else voice / best,
        voice_lost=paired(column(standing.side.figures, "voice"), column(full.side.figures, "voice")),
        retention=bootstrap(losses.get(one.key, ())),
        forgotten=forgotten,
        undone=None if forgotten is None or worst is None or worst.low <= 0 else 1 - forgotten.mean / worst.mean,
    )


def _difference(ours: Sequence[float | None] | None, theirs: Sequence[float | None] | None) -> Interval | None:
    return None if ours is None or theirs is None else paired(ours, theirs)


def _knee(marks: Sequence[Mark]) -> Mark | None:
    """Return the smallest blend that keeps the voice and has no fault of its own; None without voice figures."""
    full = next(mark for mark in marks if mark.blend == 1)
    allowed = {fault.kind for fault in full.standing.faults}
    fitting = [
        mark
        for mark in marks
        if mark.blend <= 1
        and mark.likeness is not None
        and mark.likeness >= 1 - MOST_LOST
        and {fault.kind for fault in mark.standing.faults} <= allowed
    ]
    return min(fitting, key=lambda mark: mark.blend, default=None)


def _words(knee: Mark | None, marks: Sequence[Mark], worst: Interval | None) -> str:
    if knee is None or knee.likeness is None:
        return "no knee: the voice was not measured"
    kept = f"{100 * knee.likeness:.0f} % of the likeness"
    if knee.blend == 0:
        return f"the base alone has {kept}: this fine-tune brings nearly none"
    if worst is None:
        end = "; forgetting was not measured: give other speakers' recordings with `--retention DATA`"
    elif knee.undone is None:
        end = "; the fine-tune forgets nothing that exceeds the interval"
    else:
        end = ""
    if knee.blend == 1:
        lost = f"loses more than {100 * MOST_LOST:.0f} % of the likeness"
        if any(mark.blend < 1 and (mark.likeness or 0.0) >= 1 - MOST_LOST for mark in marks):
            lost += " or has a fault that the fine-tune has not"
        return f"every smaller blend {lost}: use the fine-tune{end}"
    undoes = "" if knee.undone is None else f"undoes {100 * knee.undone:.0f} % of the forgetting and "
    return f"blend {knee.blend:g} {undoes}keeps {kept}{end}"


def _command(spec: str, share: float) -> str:
    return quoted("ttstrain", "export", spec, "-o", "OUT", *(() if share == 1 else ("--blend", f"{share:g}")))


def to_json(dial: Dial) -> dict[str, Any]:
    """Return the dial for scripts."""

    def interval(found: Interval | None) -> dict[str, Any] | None:
        return None if found is None else found.to_json()

    return {
        "clips": dial.clips,
        "source": dial.source,
        "blends": [
            {
                "blend": mark.blend,
                "voice": interval(mark.standing.figures.get("voice")),
                "words": interval(mark.standing.figures.get("words")),
                "likeness": mark.likeness,
                "voice_lost": interval(mark.voice_lost),
                "retention": interval(mark.retention),
                "forgotten": interval(mark.forgotten),
                "undone": mark.undone,
                "usable": mark.standing.usable,
            }
            for mark in dial.marks
        ],
        "knee": None if dial.knee is None else dial.knee.blend,
        "words": dial.words,
        "command": dial.command,
    }
