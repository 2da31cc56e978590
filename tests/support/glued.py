"""Clips with known texts glued into one long recording, and how well it is cut into them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttstrain.contract.table import Row
from ttstrain.recordings.units import units

WITHIN_S = 0.2
GAPS_S = (0.5, 1.2)


@dataclass(frozen=True)
class Glued:
    """Where the clips lie in the recording, in seconds, and what they say."""

    edges: list[tuple[float, float]]
    texts: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@dataclass(frozen=True)
class Found:
    """How well the recording was cut and its text divided."""

    borders: int
    kept: int  # borders with a cut within 0.2 s
    words: int
    misplaced: int  # words in a clip that overlaps with none of their sentence's clip, and words in no clip

    @property
    def border_share(self) -> float:
        return self.kept / self.borders

    @property
    def misplaced_share(self) -> float:
        return self.misplaced / self.words


def glue(rows: Sequence[Row], path: Path, *, seed: int = 7, trim: bool = False) -> Glued:
    """Write the rows' recordings one after the other, with gaps of 0.5 to 1.2 s that sound like their quiet parts.

    `trim` shortens the silence at the recordings' own edges to 0.1 s, so that their edges are those of their speech.
    """
    rng = np.random.default_rng(seed)
    edges, parts, at = [], [], 0
    rate = soundfile.info(str(rows[0].audio)).samplerate
    for row in rows:
        samples, own_rate = soundfile.read(str(row.audio), dtype="int16")
        assert own_rate == rate
        hop = rate // 100
        levels = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64).std(axis=1)
        if trim:
            loud = np.flatnonzero(levels > np.sqrt(np.percentile(levels, 5) * np.percentile(levels, 95)))
            samples = samples[max(0, loud[0] - 10) * hop : (loud[-1] + 10) * hop]
        gap = rng.normal(size=int(rate * rng.uniform(*GAPS_S))) * np.percentile(levels, 5)
        parts += [gap.astype(np.int16), samples]
        at += len(gap)
        edges.append((at / rate, (at + len(samples)) / rate))
        at += len(samples)
    parts.append((rng.normal(size=rate) * np.percentile(levels, 5)).astype(np.int16))
    soundfile.write(path, np.concatenate(parts), rate, subtype="PCM_16")
    glued = Glued(edges, [row.text for row in rows])
    path.with_suffix(".txt").write_text(glued.text + "\n", encoding="utf-8")
    return glued


def compare(glued: Glued, folder: Path) -> Found:
    """Compare a folder of clips with what was glued."""
    clips = [json.loads(line) for line in (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    starts = np.array([clip["start"] / clip["sample_rate"] for clip in clips])
    ends = np.array([clip["end"] / clip["sample_rate"] for clip in clips])
    near = [
        float(np.abs(cuts - border).min()) <= WITHIN_S
        for start, end in glued.edges
        for cuts, border in ((starts, start), (ends, end))
    ]
    owner = [number for number, text in enumerate(glued.texts) for _ in units(text)]
    return Found(len(near), sum(near), len(owner), _misplaced(glued, clips, owner))


def _misplaced(glued: Glued, clips: Sequence[dict[str, Any]], owner: Sequence[int]) -> int:
    keys = [unit.key for unit in units(glued.text)]
    at = bad = 0
    for clip in clips:
        start, end = (clip[name] / clip["sample_rate"] for name in ("start", "end"))
        there = {i for i, (a, b) in enumerate(glued.edges) if min(b, end) - max(a, start) > 0.3}
        for unit in units(clip["text"]):
            skipped = keys[at:].index(unit.key)  # words that are in no clip
            bad += skipped + (owner[at + skipped] not in there)
            at += skipped + 1
    return bad + len(keys) - at
