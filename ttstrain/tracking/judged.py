"""What the console says of the judge: a line at each sampling step, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttstrain.checkpoint import judged, pointers
from ttstrain.checkpoint.judged import JudgedStep
from ttstrain.contract.listening import CHOSEN_SCORE, SHARE_OF_TIME
from ttstrain.errors import CheckpointError
from ttstrain.layout import labelled
from ttstrain.weights import Weights

SHOWN = {"voice": "voice", "words": "words", "cer": "CER", "mos": "MOS", "pace": "pace"}  # key -> title
MOST_OF_TIME = 0.1  # what the first and the last listening take more, in a short run, is told
NAMES: Mapping[Weights, str] = {"online": "the raw weights", "ema": "the EMA weights"}


def judge_line(values: Mapping[str, float]) -> str | None:
    """Return the figures of the better of raw and EMA weights, with the base's in brackets; None without any."""
    averaged = "judge/ema_score" in values and values["judge/ema_score"] == values.get(CHOSEN_SCORE)
    prefix, whose = ("ema_", " EMA") if averaged else ("", "")
    pieces = []
    for key, title in SHOWN.items():
        own, base = values.get(f"judge/{prefix}{key}"), values.get(f"judge/base_{key}")
        if own is not None:
            pieces.append(f"{title} {own:.2f}" + ("" if base is None else f" ({base:.2f})"))
    beside = " (base)" if any(key.startswith("judge/base_") for key in values) else ""
    return f"judge{whose}: {', '.join(pieces)}{beside}" if pieces else None


def time_line(values: Mapping[str, float]) -> list[str]:
    """Say at a run's end which share of the time the judge took; nothing where it did not listen."""
    if SHARE_OF_TIME not in values:
        return []
    share = values[SHARE_OF_TIME]
    line = f"  judge: {100 * share:.0f} % of the run's time"
    return [line if share <= MOST_OF_TIME else f"{line}, as it is short: `judge.sentences=4` is less"]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the judge says of a run's checkpoints."""

    exported: JudgedStep | None = None  # of the checkpoint that an export takes
    sentences: Sequence[str] = ()  # for people

    @property
    def lines(self) -> list[str]:
        """The sentences in lines of the screen."""
        return [line for sentence in self.sentences for line in labelled("  judge:", sentence, column=9)]


def read_verdicts(run: Path) -> Verdicts:
    """Read the verdict on the checkpoint that an export takes, and on a better one where there is one."""
    try:
        steps = judged.read(run).steps
    except CheckpointError as error:
        return Verdicts(sentences=[error.message])
    if not steps:
        return Verdicts()
    root = run / pointers.CHECKPOINTS
    present = {pointers.step_of(folder) for folder in pointers.list_checkpoints(root)}
    pointed = pointers.pointed(root, pointers.BEST) or pointers.pointed(root, pointers.LAST)
    step = None if pointed is None else pointers.step_of(root / pointed)
    own = next((one for one in steps if one.step == step), None)
    best = judged.top(steps, among=present)
    said = [] if own is None else [own.words]
    if best is None:
        said.append(f"{steps[-1].words}; it listened at step {steps[-1].step:,}, whose checkpoint is not kept")
    elif own is None:
        said.append(f"{best.words}; an export takes step {step or 0:,}, which was not listened to")
    elif best.step != own.step and not best.is_worse:
        said.append(f"the checkpoint of step {best.step:,} has a higher score: {best.words}")
    if (heard := own or best or steps[-1]).trained:
        said.append(f"{heard.trained} of the {heard.sentences} sentences were trained on; new ones are harder")
    if (course := judged.course(steps)) is not None:
        said.append(course)
    return Verdicts(own, said)
