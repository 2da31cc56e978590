"""What the judge and held-out loss said of a run, whether the planted fault was named, and the table of all runs.

For scripts/judge_proof.py. Findings are read from a run's files, decisions are made from the findings alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain.checkpoint import judged
from ttstrain.tracking import jsonl
from ttstrain.tracking.judged import read_verdicts

Fault = Literal["lr", "pace", "speaker", "transcripts", "ema", "steps"]
RAW, EMA = "eval/loss/total", "eval/ema_loss/total"
GAVE_UP = "the run gave up: its losses were no numbers or rose for good (exit code 5)"
LEAST_PACE = 15  # percent that must be named where speech was sped up by 30
AUDIBLE = 0.02  # of the voice's similarity

LOST = re.compile(
    r"words lost|words not understood|\d+ (?:silent|far too)|says .* twice|naturalness lower|speech is blurred"
)
FARTHER = re.compile(r"farther from the voice|the voice moves away")
ANOTHER = re.compile(r"not the speaker's voice yet")
FASTER = re.compile(r"pace (\d+) % faster")


@dataclass(frozen=True)
class Said:
    """What the judge said of the weights of a run's last step."""

    outcome: str
    verdict: str
    score: float | None
    base_score: float | None
    alarms: Sequence[str]
    closing: str  # what the run's last lines say; empty where `ttstrain eval` was asked
    sides: Mapping[str, Mapping[str, Any]]  # `online`, `ema`, `base` -> figures, against_base, faults, usable, score
    steps: Mapping[int, float | None]  # step -> how much closer to the voice than the base the better weights are
    by_true_prompts: str = ""  # of `pace`: what eval said where the prompts, too, were the true recordings
    run_verdict: str = ""  # what the run itself said, which knows its own recordings only, where eval was asked

    @property
    def words(self) -> str:
        return "; ".join(part for part in (self.verdict, *self.alarms, self.closing) if part)

    def figure(self, side: str, name: str, kind: str = "figures") -> float | None:
        entry = self.sides.get(side, {}).get(kind, {}).get(name)
        return None if entry is None else float(entry["mean"])


@dataclass(frozen=True)
class Loss:
    """What held-out loss said; the base's is that before the first step."""

    base: float
    best: float  # of raw and EMA weights
    best_step: int
    end: float  # of raw weights
    end_ema: float | None

    @property
    def prefers(self) -> bool:
        """Whether its best weights would have been taken for better than the base."""
        return self.best < self.base


@dataclass(frozen=True)
class Named:
    """Whether the judge was right, and why."""

    rightly: bool | None  # None: there was nothing to name
    why: str

    @property
    def answer(self) -> str:
        return {True: "yes", False: "**no**", None: "-"}[self.rightly]


# ---------------------------------------------------------------- reading


def said_in_run(run: Path) -> Said:
    """Read what a run's own judge said."""
    steps = judged.read(run).steps
    if not steps:
        return Said("unknown", "nothing was listened to", None, None, alarms_of(run), "", {}, {})
    last = steps[-1]
    return Said(
        last.outcome,
        last.words,
        last.score,
        last.sides.get("base", {}).get("score"),
        alarms_of(run),
        "; ".join(read_verdicts(run).sentences),
        last.sides,
        {step.step: step.closer for step in steps},
    )


def said_by_eval(document: Mapping[str, Any], run: Path) -> Said:
    """Read what `ttstrain eval` said of one checkpoint of a run and its base."""
    sides = {side["key"].rpartition("-")[2]: side for side in document["sides"]}
    chosen = next((one for one in document["sides"] if one["key"] == document["verdict"]["use"]), {})
    own = said_in_run(run)
    return Said(
        document["verdict"]["outcome"],
        document["verdict"]["words"],
        chosen.get("score"),
        sides.get("base", {}).get("score"),
        own.alarms,
        "",
        {key: {part: side[part] for part in PARTS} for key, side in sides.items()},
        own.steps,
        run_verdict=own.verdict,
    )


PARTS = ("usable", "faults", "score", "held_out_loss", "figures", "against_base")


def alarms_of(run: Path) -> list[str]:
    """List the judge's alarms: what it said is in judge.json, its words are among the run's warnings."""
    steps = judged.read(run).steps
    if not any(step.alarms.get("said") for step in steps) or not (run / jsonl.WARNINGS).is_file():
        return []
    warnings = [json.loads(line)["warning"] for line in (run / jsonl.WARNINGS).read_text("utf-8").splitlines()]
    heard = {f"{step.step:,}" for step in steps} | {str(step.step) for step in steps}
    return [one for one in warnings if (found := re.match(r"step ([\d,]+): ", one)) and found[1] in heard]


def read_loss(rows: Sequence[Mapping[str, float]]) -> Loss:
    """Read the held-out losses from a run's metrics; one that is no number, or that a run did not reach, is infinite.

    Raises ValueError without that of the base.
    """
    raw = {int(row["step"]): _finite(row[RAW]) for row in rows if RAW in row}
    averaged = {int(row["step"]): _finite(row[EMA]) for row in rows if EMA in row}
    trained = {step: min(loss, averaged.get(step, math.inf)) for step, loss in raw.items() if step > 0}
    if 0 not in raw:
        raise ValueError("the run has no held-out loss of its base")
    if not trained:  # it gave up
        return Loss(raw[0], math.inf, 0, math.inf, None)
    best = min(trained, key=lambda step: trained[step])
    last = max(trained)
    return Loss(raw[0], trained[best], best, raw[last], averaged.get(last))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


# ---------------------------------------------------------------- deciding


def decide(fault: Fault | None, said: Said) -> Named:
    """Tell whether what was planted was named; of a healthy run, whether nothing was."""
    return _healthy(said) if fault is None else DECISIONS[fault](said)


def _healthy(said: Said) -> Named:
    if said.alarms:
        return Named(False, f"{len(said.alarms)} false alarms")
    if said.outcome == "worse" or "worse than" in said.closing:
        return Named(False, "called worse than the base, or worse than an earlier step")
    if said.outcome == "unknown":
        return Named(False, "nothing was listened to")
    return Named(True, "no alarm, not worse")


def _lr(said: Said) -> Named:
    if said.outcome == "worse" and (LOST.search(said.verdict) or FARTHER.search(said.verdict)):
        return Named(True, "worse than the base, and what was lost")
    if said.alarms:
        return Named(True, "by an alarm")
    if GAVE_UP in said.closing:
        return Named(True, "by the run itself, which gave up")
    return Named(False, _moved(said))


def _pace(said: Said) -> Named:
    found = FASTER.search(said.words)
    if found and int(found[1]) >= LEAST_PACE:
        return Named(True, f"pace {found[1]} % faster")
    return Named(False, f"pace {_shown(said.figure('online', 'pace'))} of the true recordings', raw weights")


def _speaker(said: Said) -> Named:
    if FARTHER.search(said.words):
        return Named(True, "the voice is farther from the right speaker's")
    if ANOTHER.search(said.verdict):
        return Named(True, "it is not the right speaker's voice")
    return Named(False, _moved(said))


def _transcripts(said: Said) -> Named:
    if said.outcome == "worse" and LOST.search(said.verdict):
        return Named(True, "the words that were lost")
    if any(LOST.search(alarm) for alarm in said.alarms):
        return Named(True, "by an alarm")
    return Named(False, _moved(said))


def _ema(said: Said) -> Named:
    if re.search(r"EMA [^;]*hardly different from the base", said.verdict) and "use EMA" not in said.verdict:
        return Named(True, "the EMA is still the base")
    raw, ema = (said.figure(side, "voice", "against_base") for side in ("online", "ema"))
    return Named(False, f"voice against the base: raw {_signed(raw)}, EMA {_signed(ema)}")


def _steps(said: Said) -> Named:
    if "the run was too long" in said.closing or "worse than the base at every listening" in said.closing:
        return Named(True, "worse than an earlier step")
    if said.outcome == "worse":
        return Named(True, "worse than the base")
    known = {step: closer for step, closer in said.steps.items() if closer is not None}
    if not known or max(said.steps) not in known:
        return Named(False, "the voice was not measured")
    best, last = max(known, key=lambda step: known[step]), max(known)
    gains = f"voice {known[best]:+.2f} against the base at step {best:,}, {known[last]:+.2f} at the end"
    return Named(None if known[best] - known[last] <= AUDIBLE else False, gains)


def _moved(said: Said) -> str:
    """Say what the figures show of the raw weights, where nothing was named."""
    voice = said.figure("online", "voice", "against_base")
    words = [_shown(said.figure(side, "words")) for side in ("base", "online")]
    return f"raw weights: voice {_signed(voice)} against the base, words {words[0]} to {words[1]}"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.2f}"


DECISIONS: Mapping[Fault, Callable[[Said], Named]] = {
    "lr": _lr,
    "pace": _pace,
    "speaker": _speaker,
    "transcripts": _transcripts,
    "ema": _ema,
    "steps": _steps,
}


# ---------------------------------------------------------------- showing


def to_json(said: Said, loss: Loss) -> dict[str, Any]:
    """Return findings for a JSON file; a loss that was no number is None."""
    losses = {key: None if value == math.inf else value for key, value in asdict(loss).items()}
    return {"judge": asdict(said), "loss": {**losses, "prefers": loss.prefers}}


def of_json(document: Mapping[str, Any]) -> tuple[Said, Loss]:
    """Read what `to_json` gave."""
    judge, loss = dict(document["judge"]), dict(document["loss"])
    loss.pop("prefers")
    judge["steps"] = {int(step): score for step, score in judge["steps"].items()}
    losses = {key: math.inf if value is None and key != "end_ema" else value for key, value in loss.items()}
    return Said(**judge), Loss(**losses)


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay the results out in Markdown, planted faults first."""
    lines = ["| run | what the judge said | what held-out loss said | named rightly |", "|---|---|---|---|"]
    for result in sorted(results, key=lambda one: one["fault"] is None):
        said, loss = of_json(result)
        named = decide(result["fault"], said)
        cells = (
            result["title"],
            _judge_cell(said, result),
            _loss_cell(loss),
            f"{named.answer}: {named.why}",
        )
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return lines


def _judge_cell(said: Said, result: Mapping[str, Any]) -> str:
    parts = [said.verdict]
    parts += [f"alarm at {alarm}" for alarm in said.alarms]
    if said.closing and said.closing != said.verdict:
        parts.append(f"at the end: {said.closing}")
    if said.run_verdict:
        parts.append(f"the run, by its own recordings: {said.run_verdict}")
    if said.by_true_prompts:
        parts.append(f"prompted by the true recordings: {said.by_true_prompts}")
    if result.get("refused"):
        parts.append(f"the plan refuses it unless its limit is lifted: {result['refused']}")
    if result["exit_code"]:
        parts.append(f"the run ended with exit code {result['exit_code']}")
    parts.append(f"score {_shown(said.base_score)} to {_shown(said.score)}")
    return "<br>".join(parts)


def _loss_cell(loss: Loss) -> str:
    averaged = "" if loss.end_ema is None else f" (EMA {loss.end_ema:.3f})"
    verdict = "better than the base" if loss.prefers else "not better than the base"
    if loss.best == math.inf:
        return f"none was measured after the base's {loss.base:.3f}"
    return (
        f"{verdict}: {loss.base:.3f} to {loss.best:.3f} at step {loss.best_step:,}; at the end {loss.end:.3f}{averaged}"
    )


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Count what was named, false alarms, and how often loss took a spoiled run for better than its base."""
    found = [(one["fault"], *of_json(one)) for one in results]
    planted = [(fault, said, loss) for fault, said, loss in found if fault is not None]
    healthy = [said for fault, said, _ in found if fault is None]
    named = sum(decide(fault, said).rightly is True for fault, said, _ in planted)
    traceless = sum(decide(fault, said).rightly is None for fault, said, _ in planted)
    quiet = sum(decide(None, said).rightly is True for said in healthy)
    fooled = sum(loss.prefers for _, _, loss in planted)
    return (
        f"{named} of {len(planted)} planted faults named ({traceless} left no trace); "
        f"{quiet} of {len(healthy)} healthy runs without a false alarm; "
        f"by held-out loss {fooled} of {len(planted)} spoiled runs are better than the base"
    )
