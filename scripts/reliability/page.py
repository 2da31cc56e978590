"""Results of the parts: kept as JSON, one file for each part, and shown as docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from textwrap import fill

from reliability.frame import Part, Row
from ttstrain.recipe.faults import KINDS, MEANINGS

REPO = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
MENDED = Path(__file__).parent / "mended.md"  # written by hand: the page ends with it
PAGE = REPO / "docs" / "reliability.md"
HEAD = ("| fault | guarantee | tried | survived |", "|---|---|---:|---:|")
INTRODUCTION = """\
# Reliability: every fault is tried and counted

`python scripts/reliability.py` breaks things on purpose, counts what ttstrain survives, and writes this page. A fault
has been survived when what its row guarantees was checked and true. A short form of every part runs with the tests.

    python scripts/reliability.py                     in half an hour on two cores: all but the next two
    python scripts/reliability.py soak hostile_files  a long run; every reader on changed files
    python scripts/reliability.py --list              the names of all parts
    python scripts/reliability.py NAME --minutes 5    one part, for as long as you like

Bring faults upon a run of your own with `debug.inject`, a list of `fault@step`, such as
`debug.inject=["nan_loss@17", "kill@80"]`. Each fault enters once: `injected.jsonl` in the run's folder lists those that
have, and neither a rollback nor a resume repeats them. Those of the disk enter with the next checkpoint; `worker_death`
needs `data.workers`, `lost_rank` several processes, and a spike is refused only once the guard knows `guard.window`
losses. Such a run says in its plan, `env.json`, log, metrics (`debug/injected`) and checkpoints that its weights are
not for use, and an export of it warns. The faults:

{faults}
"""


@dataclass(frozen=True)
class Result:
    """The rows of a part, and when and on what they were counted."""

    rows: tuple[Row, ...]
    day: str  # ISO 8601, UTC
    commit: str
    minutes: float  # that the count took
    seed: int

    @property
    def failures(self) -> list[str]:
        """What did not survive, one line each."""
        return [f"{row.fault}: {failure}" for row in self.rows for failure in row.failures]


def make_result(rows: Sequence[Row], *, minutes: float, seed: int) -> Result:
    """Date a part's rows. The commit is followed by `+` where tracked files have changed, but for page and results."""
    return Result(tuple(rows), datetime.now(timezone.utc).date().isoformat(), _commit(), round(minutes, 1), seed)


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(REPO), *words], capture_output=True, text=True, check=True).stdout

    code = ("--", ".", *(f":!{place.relative_to(REPO)}" for place in (PAGE, RESULTS)))
    try:
        return git("rev-parse", "--short", "HEAD").strip() + "+" * bool(
            git("status", "--porcelain", "-uno", *code).strip()
        )
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        return "unknown"


def write_result(name: str, result: Result) -> None:
    """Keep a part's latest result."""
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def read_results() -> dict[str, Result]:
    """Read the latest result of every part that has been counted."""
    found: dict[str, Result] = {}
    for path in sorted(RESULTS.glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(Row(**{**row, "failures": tuple(row["failures"])}) for row in values.pop("rows"))
        found[path.stem] = Result(rows=rows, **values)
    return found


def table(rows: Sequence[Row]) -> str:
    """Lay rows out as a Markdown table."""
    lines = (f"| {row.fault} | {row.guarantee} | {row.tried:,} | {row.survived:,} |" for row in rows)
    return "\n".join((*HEAD, *lines))


def page(parts: Mapping[str, Part], results: Mapping[str, Result]) -> str:
    """Write the guide's page: a section for each part that has been counted."""
    introduction = INTRODUCTION.replace("{faults}", "\n".join(f"- `{kind}`: {MEANINGS[kind]}" for kind in KINDS))
    sections = (_section(parts[name], results[name]) for name in parts if name in results)
    return "\n".join((introduction, *sections, MENDED.read_text(encoding="utf-8")))


def _section(part: Part, result: Result) -> str:
    took = f"Counted on {result.day} at commit {result.commit} in {result.minutes:g} minutes, seed {result.seed}."
    lines = [f"## {part.title}", "", fill(part.method, width=120), "", took, "", table(result.rows), ""]
    if result.failures:
        lines += ["Not survived:", "", *(f"- {failure}" for failure in result.failures), ""]
    return "\n".join(lines)
