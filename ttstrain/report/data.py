"""What a run trained on, from the clip lists in its folder: durations, rates, pace, letters, and what was left out."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.data import Clip
from ttstrain.data.manifest import read_manifest
from ttstrain.errors import DataError

MOST_BYTES = 64 * documents.MEBIBYTE  # of a clip list that is read; about a hundred thousand clips
BINS = 20
EXAMPLES = 5  # of each reason
MOST_NAMES = 12
MOST_SYMBOLS = 60


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many clips lie between two neighbouring edges."""

    title: str
    unit: str
    edges: Sequence[float]  # one more than counts
    counts: Sequence[int]
    median: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that were left out or repaired for one reason."""

    action: str  # skip or fix
    reason: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The data of a run, for people."""

    facts: Sequence[tuple[str, str]] = ()  # label, text
    histograms: Sequence[Histogram] = ()
    symbols: Sequence[tuple[str, int]] = ()  # letters of the texts, the most frequent first
    num_symbols: int = 0
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()


def summarise(run: Path, plan: Mapping[str, Any]) -> DataSummary:
    """Summarise the clip lists of a run; what is missing or too long to read is told in `notes`."""
    notes: list[str] = []
    train = _clips(run / "data" / "train.jsonl", notes)
    held_out = _clips(run / "data" / "held_out.jsonl", notes)
    letters = Counter(letter for clip in train for letter in clip.text if not letter.isspace())
    return DataSummary(
        facts=[*_facts(train, held_out), *_planned(plan)],
        histograms=_histograms(train),
        symbols=letters.most_common(MOST_SYMBOLS),
        num_symbols=len(letters),
        left_out=_left_out(run / "data" / "quarantine.jsonl", notes),
        notes=notes,
    )


def held_out_clips(run: Path) -> list[Clip]:
    """Return the held-out clips of a run, with which samples are compared; none where the list cannot be read."""
    return _clips(run / "data" / "held_out.jsonl", [])


def _clips(path: Path, notes: list[str]) -> list[Clip]:
    try:
        if path.stat().st_size > MOST_BYTES:
            notes.append(f"{path.name} is larger than {MOST_BYTES // documents.MEBIBYTE} MiB and is not summarised")
            return []
        return read_manifest(path)
    except FileNotFoundError:
        return []
    except (OSError, DataError) as error:
        notes.append(str(error))
        return []


def _facts(train: Sequence[Clip], held_out: Sequence[Clip]) -> list[tuple[str, str]]:
    if not train:
        return []
    facts = [
        ("trained on", _amount(train)),
        ("held out", _amount(held_out)),
        ("speakers", _tally(clip.speaker or "unnamed" for clip in train)),
        ("language", _tally(clip.language or "unnamed" for clip in train)),
        ("rates", _tally(f"{clip.sample_rate / 1000:g} kHz" for clip in train)),
    ]
    paces = _paces(train)
    if len(paces) > 1:
        low, middle, high = (_quantile(paces, share) for share in (0.05, 0.5, 0.95))
        facts.append(("pace", f"{middle:.1f} letters a second; nine of ten clips {low:.1f} to {high:.1f}"))
    return facts


def _planned(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what only the plan knows: padding, clips too long for a batch, coverage of the vocabulary."""
    facts, found = [], plan.get("data")
    if not isinstance(found, Mapping):
        return []
    if isinstance(found.get("padding_share"), int | float):
        facts.append(("padding", f"{100 * found['padding_share']:.0f} % of a batch"))
    overlong = found.get("overlong")
    if isinstance(overlong, list) and overlong:
        facts.append(("too long", f"{len(overlong):,} left out, longer than a batch holds: {_some(overlong)}"))
    texts = found.get("texts")
    if isinstance(texts, Mapping):
        unknown = texts.get("unknown") or ()
        symbols = ", ".join(f"{one.get('symbol')} ({one.get('count')})" for one in unknown[:MOST_NAMES])
        covered = f"all {texts.get('tokens', 0):,} tokens are known to {texts.get('vocab') or 'the vocabulary'}"
        facts.append(("coverage", f"unknown to {texts.get('vocab')}: {symbols}" if unknown else covered))
        if split := texts.get("split_words"):
            facts.append(("split words", _some([f"{one.get('word')} read {one.get('read')}" for one in split])))
    return facts


def _histograms(train: Sequence[Clip]) -> list[Histogram]:
    found = [
        ("Duration", "s", [clip.duration_s for clip in train]),
        ("Pace", "letters a second", _paces(train)),
    ]
    return [_histogram(title, unit, values) for title, unit, values in found if len(values) > 1]


def _histogram(title: str, unit: str, values: Sequence[float]) -> Histogram:
    low, high = min(values), max(values)
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - low) / width), BINS - 1)] += 1
    edges = [round(low + number * width, 3) for number in range(BINS + 1)]
    return Histogram(title, unit, edges, counts, median=round(statistics.median(values), 3))


def _paces(clips: Iterable[Clip]) -> list[float]:
    return [
        sum(letter.isalnum() for letter in clip.text) / clip.duration_s
        for clip in clips
        if clip.text and math.isfinite(clip.duration_s) and clip.duration_s > 0
    ]


def _left_out(path: Path, notes: list[str]) -> list[LeftOut]:
    try:
        content = documents.read_bytes(path, error=DataError, most_bytes=MOST_BYTES) if path.is_file() else b""
    except DataError as error:
        notes.append(error.message)
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for line in content.splitlines():
        try:
            row = documents.check_object(documents.parse(line), {"action": str, "reason": str, "why": str})
        except documents.DocumentError:
            continue
        where = str(row.get("id") or row.get("source") or "")
        found.setdefault((row["action"], row["reason"]), []).append(f"{where}: {row['why']}")
    groups = [LeftOut(*key, len(rows), rows[:EXAMPLES]) for key, rows in found.items()]
    return sorted(groups, key=lambda group: (group.action != "skip", -group.count))


def _amount(clips: Sequence[Clip]) -> str:
    seconds = sum(clip.duration_s for clip in clips)
    time = f"{seconds / 60:.1f} minutes" if 60 <= seconds < 3600 else f"{seconds / 3600:.1f} hours"
    time = f"{seconds:.0f} seconds" if seconds < 60 else time
    return f"{len(clips):,} clip{'s' * (len(clips) != 1)}, {time}"


def _tally(names: Iterable[str]) -> str:
    counts = Counter(names)
    shown = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(MOST_NAMES))
    return shown + (f" and {len(counts) - MOST_NAMES} more" if len(counts) > MOST_NAMES else "")


def _some(names: Sequence[Any]) -> str:
    return ", ".join(str(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]
