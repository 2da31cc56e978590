"""The state of a data set in plain words: the worst problem first, and what to do about each."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ttstrain.contract.table import RowFinding
from ttstrain.data.advice import Weight, advice_for
from ttstrain.data.audit import AuditResult
from ttstrain.data.readers.rows import printable

Verdict = Literal["good", "usable", "bad"]
LEAST_S = 10.0  # seconds of speech below which no voice can be learned: quickstart's voice has 95
LITTLE_S = 60.0
MOST_LOST = 0.5  # share of the rows left out above which something is wrong with the set as a whole
SHORT_S = 1.5  # median length of clips below which a voice sounds chopped
EXAMPLES = 2
_ORDER: dict[Weight, int] = {"lost": 0, "harms": 1, "harmless": 2}


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem."""

    weight: Weight
    reason: str  # the audit's code, as in quarantine.jsonl
    count: int
    said: str
    do: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a person should know before training on a data set."""

    verdict: Verdict
    rows: int
    used: int
    seconds: float
    problems: tuple[Problem, ...]  # worst first
    mended: dict[str, int]  # repairs that need nothing, by reason

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(result: AuditResult, *, refused: str = "") -> Diagnosis:
    """Sort an audit's findings by what they cost; `refused` says why a recipe would not take the texts."""
    seconds = 3600 * result.hours
    kinds: dict[tuple[str, str], list[RowFinding]] = defaultdict(list)
    for finding in result.findings:
        kinds[finding.action, finding.reason].append(finding)
    problems = list(_of_the_whole(result, seconds, refused))
    mended: dict[str, int] = {}
    bad = any(problem.weight == "lost" for problem in problems)
    for (action, reason), found in kinds.items():
        weight, advice = advice_for(reason, action)
        if weight == "harmless":
            mended[reason] = mended.get(reason, 0) + len(found)
            continue
        said = f"{_counted(len(found), result.num_rows)}{' left out' * (action == 'skip')}: {advice.what}"
        problems.append(Problem(weight, reason, len(found), said, advice.do, _examples(found)))
    # Of one weight, what concerns the set as a whole comes first; it has no examples.
    problems.sort(key=lambda one: (_ORDER[one.weight], bool(one.examples), -one.count))
    verdict: Verdict = "bad" if bad else "usable" if problems else "good"
    return Diagnosis(verdict, result.num_rows, len(result.clips), seconds, tuple(problems), mended)


def _of_the_whole(result: AuditResult, seconds: float, refused: str) -> Sequence[Problem]:
    """Return the problems of the set as a whole; those of weight `lost` forbid training on it."""
    found = []
    lost = len({finding.row.source for finding in result.quarantine})
    if lost > MOST_LOST * result.num_rows:
        said = f"{lost} of {result.num_rows} rows are left out: something is wrong with the set as a whole"
        found.append(Problem("lost", "most_left_out", lost, said, "mend the first problem below, and look again"))
    if refused:
        found.append(Problem("lost", "texts_refused", 0, refused, "`ttstrain prepare` shows the symbols and the ways"))
    if seconds < LEAST_S:
        said = f"there are {seconds:.0f} seconds of speech: too little to learn a voice from"
        found.append(Problem("lost", "too_little", 0, said, "record more: a minute is enough to begin with"))
    elif seconds < LITTLE_S:
        said = f"there are {seconds:.0f} seconds of speech: little even for the recipes for one minute"
        found.append(Problem("harms", "little", 0, said, "record more if you can"))
    lengths = [clip.duration_s for clip in result.clips]
    if lengths and statistics.median(lengths) < SHORT_S:
        said = f"half of the clips are shorter than {statistics.median(lengths):.1f} seconds"
        found.append(Problem("harms", "short_clips", 0, said, "join neighbours to sentences of 3 to 10 seconds"))
    speakers = {clip.speaker for clip in result.clips}
    if "" in speakers and len(speakers) > 1:
        count = sum(not clip.speaker for clip in result.clips)
        said = f"{_counted(count, result.num_rows)} name no speaker, the others do"
        found.append(Problem("harms", "no_speaker", count, said, "name the speaker in every row"))
    return found


def _counted(count: int, rows: int) -> str:
    share = f" ({100 * count / rows:.0f} %)" if rows and 0.005 * rows <= count <= rows else ""
    return f"{count:,} {'clip' if count == 1 else 'clips'}{share}"


def _examples(found: Sequence[RowFinding]) -> tuple[str, ...]:
    return tuple(
        f"{printable(finding.row.source)} {printable(finding.row.id)}: {finding.why}"
        if finding.row.id != finding.row.source
        else f"{printable(finding.row.source)}: {finding.why}"
        for finding in found[:EXAMPLES]
    )
