"""The voices of one_minute.py: what is trained on, what is said, and after which prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttstrain.contract.data import Clip
from ttstrain.data import atomic
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.recipe.schema import DataConfig

HANDY_S = (1.5, 9.0)  # of a judged sentence: long enough to tell a voice, short enough to be generated soon
FEWEST_S = 40.0  # of speech left to train on
FEWEST_SENTENCES = 3
PROMPT_S = (2.3, 6.0)  # tells a voice; a longer prompt makes every sentence dearer
MOST_JUDGED_S = 24.0


@dataclass(frozen=True, slots=True)
class Cut:
    """One voice's clips, by use."""

    train: Sequence[Clip]
    judged: Sequence[Clip]
    prompt: Clip  # one of those to train on, which every sentence is said after


def read_voice(place: str, language: str) -> list[Clip]:
    """Read the clips of a folder, or of speech that ships."""
    return list(audit(read_rows(place), DataConfig(path=place, language=language)).clips)


def name_of(place: str) -> str:
    return Path(place.rpartition(":")[2]).name


def cut(clips: Sequence[Clip], *, voice: str, seed: int, seconds: float, sentences: int, longest_s: float) -> Cut:
    """Choose a prompt, the judged sentences, and at most so many seconds to train on, others for each seed.

    A clip becomes a judged sentence if it is of a handy length and `FEWEST_S` remain to train on. Where chance finds
    too few in that way, the shortest clips are taken. Raises SystemExit where even these are too few.
    """
    order = [clip for clip in clips if clip.duration_s <= longest_s]
    random.Random(f"{voice}/{seed}").shuffle(order)
    low, high = PROMPT_S
    prompt = next((clip for clip in order if low <= clip.duration_s <= high), None)
    if prompt is None:
        raise SystemExit(f"error: `{voice}` has no clip of {low:g} to {high:g} s as a prompt")
    order = [prompt, *(clip for clip in order if clip.id != prompt.id)]
    judged = _judged(order[1:], order, sentences)
    if len(judged) < FEWEST_SENTENCES:
        judged = _judged(sorted(order[1:], key=lambda clip: clip.duration_s), order, sentences)
    if len(judged) < FEWEST_SENTENCES:
        raise SystemExit(f"error: `{voice}` has too little speech to train on {FEWEST_S:.0f} s and judge the rest")
    ids = {clip.id for clip in judged}
    chosen: list[Clip] = []
    for clip in order:
        if clip.id not in ids and sum(one.duration_s for one in chosen) + clip.duration_s <= seconds:
            chosen.append(clip)
    return Cut(chosen, judged, prompt)


def _judged(candidates: Sequence[Clip], usable: Sequence[Clip], sentences: int) -> list[Clip]:
    """Take handy clips in their order while enough speech is left to train on."""
    spare = min(MOST_JUDGED_S, sum(clip.duration_s for clip in usable) - FEWEST_S)
    low, high = HANDY_S
    judged: list[Clip] = []
    for clip in candidates:
        if len(judged) < sentences and low <= clip.duration_s <= high and clip.duration_s <= spare:
            judged.append(clip)
            spare -= clip.duration_s
    return judged


def write_table(path: Path, clips: Sequence[Clip], *, speaker: str | None = None) -> Path:
    rows = [
        {
            "audio_file": str(clip.path.resolve()),
            "text": clip.text,
            "speaker": clip.speaker if speaker is None else speaker,
            "language": clip.language,
        }
        for clip in clips
    ]
    atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
