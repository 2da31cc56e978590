"""Recordings with a fault planted in them, for scripts/judge_proof.py.

Each function reads a data set as training does and writes a folder of WAV files with a metadata.jsonl.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ttstrain.contract.data import Clip
from ttstrain.data.audio import read_clip
from ttstrain.judge.evaluate import clips_of_data

FRAME_S = 0.04
SEARCH_S = 0.008  # on either side: at least half a period of the lowest voice

Samples = npt.NDArray[np.float32]


def plant_pace(data: str, folder: Path, *, speed: float) -> Path:
    """Speed recordings up; their pitch stays."""
    clips = clips_of_data(data)
    return write(folder, clips, [faster(samples(clip), rate=clip.sample_rate, speed=speed) for clip in clips])


def plant_speaker(data: str, folder: Path, *, other: str) -> Path:
    """Put another speaker's recordings, with their own texts, under the name of the speaker of `data`."""
    name = clips_of_data(data)[0].speaker
    clips = clips_of_data(other)
    return write(folder, clips, [samples(clip) for clip in clips], speaker=name)


def plant_transcripts(data: str, folder: Path, *, seed: int = 0) -> Path:
    """Give every recording the text of another one of about its length, as the audit would refuse an impossible one."""
    clips = clips_of_data(data)
    texts = exchanged([clip.text for clip in clips], lengths=[clip.duration_s for clip in clips], seed=seed)
    return write(folder, clips, [samples(clip) for clip in clips], texts=texts)


def exchanged(texts: Sequence[str], *, lengths: Sequence[float], seed: int) -> list[str]:
    """Exchange texts among neighbours by length, in pairs and one group of three where their number is odd."""
    if len(texts) < 2:
        raise ValueError("one text cannot be exchanged")
    order = sorted(range(len(texts)), key=lambda number: lengths[number])
    starts = list(range(0, len(texts) - 1, 2))
    groups = [order[start : start + 2] for start in starts]
    if len(texts) % 2:
        groups[-1] = order[starts[-1] :]
    found = list(texts)
    turn = random.Random(seed)
    for group in groups:
        by = 1 if len(group) == 2 else turn.choice((1, 2))
        for place, number in enumerate(group):
            found[number] = texts[group[(place + by) % len(group)]]
    return found


def faster(wav: Samples, *, rate: int, speed: float) -> Samples:
    """Shorten sound (t,) by `speed` at the same pitch: frames that overlap by half, each where it fits the last best.

    Waveform similarity overlap-add (Verhelst and Roelands 1993).
    """
    half = round(FRAME_S * rate / 2)
    reach = round(SEARCH_S * rate)
    window = np.hanning(2 * half + 1)[:-1].astype(np.float32)  # two that overlap by half add up to 1
    num_frames = max(1, int(len(wav) / speed / half) - 1)
    padded = np.pad(wav, (reach, 4 * half + reach))
    out = np.zeros((num_frames + 1) * half, dtype=np.float32)
    start = reach
    for number in range(num_frames):
        if number:
            wanted = padded[start + half : start + 3 * half]  # what would follow the frame before
            around = round(number * half * speed) + reach
            region = padded[around - reach : around + reach + 2 * half]
            start = around - reach + int(np.argmax(np.correlate(region, wanted, mode="valid")))
        out[number * half : (number + 2) * half] += window * padded[start : start + 2 * half]
    return out


def samples(clip: Clip) -> Samples:
    """Read a clip's samples (t,) at its own rate."""
    return np.asarray(read_clip(clip, clip.sample_rate).numpy(), dtype=np.float32)


def write(
    folder: Path,
    clips: Sequence[Clip],
    sounds: Sequence[Samples],
    *,
    texts: Sequence[str] | None = None,
    speaker: str | None = None,
) -> Path:
    """Write clips with these sounds; their texts and their speaker are their own unless others are given."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "clips").mkdir(parents=True)
    rows = []
    for number, (clip, sound) in enumerate(zip(clips, sounds, strict=True)):
        name = f"clips/{number:04d}.wav"
        soundfile.write(folder / name, np.clip(sound, -1, 1), clip.sample_rate, subtype="PCM_16")
        row = {
            "id": f"{number:04d}",
            "audio": name,
            "text": clip.text if texts is None else texts[number],
            "speaker": clip.speaker if speaker is None else speaker,
            "language": clip.language,
        }
        rows.append(json.dumps(row, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    return folder
