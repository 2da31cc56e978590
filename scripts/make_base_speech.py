"""Make the speech that the small base is trained on: real voices, the same at other speeds, and synthetic voices.

    sudo apt-get install flite festival festvox-us-slt-hts festvox-kdlpc16k espeak-ng
    python scripts/make_base_speech.py --ljspeech LJSPEECH --librispeech LIBRISPEECH --texts METADATA --out FOLDER

LJSPEECH holds `metadata.csv` (`id|text|normalised text`) and `wavs/`. LIBRISPEECH holds a folder for each speaker with
`metadata.csv` (`file|text`). METADATA is the table of texts of the whole LJSpeech, `id|...|text`, for the synthetic
voices; texts whose recordings are in LJSPEECH are left out. Writes FLAC files and `metadata.jsonl`.

A recording played faster or slower by a factor has another pitch and other formants, so it stands for another speaker.
The silence of synthesizers is digital zero, whose log mel is a floor that no microphone records: noise at -56 dBFS
takes its place.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample

SAMPLE_RATE = 24_000  # Hz
LEVEL = 0.1  # RMS of what is louder than `QUIET`
QUIET, EDGE = 0.01, {"real": 0.012, "synthetic": 0.008}  # amplitudes; quieter edges are cut off
KEPT_EDGE_S = 0.06
NOISE = 10 ** (-56 / 20)
LONGEST_S = {"ljspeech": 11.5, "librispeech": 16.0}
TEXT_LETTERS = (18, 85)

LJSPEECH_SPEEDS = (1.0, 0.85, 0.93, 1.14)
LIBRISPEECH_SPEAKERS = ("1688", "1998", "2033", "2414", "2609", "3005")  # the others stay unheard
LIBRISPEECH_SPEEDS = (1.0, 0.92, 1.09)
NUM_SYNTHETIC = 4020


@dataclass(frozen=True)
class Voice:
    """A synthesizer's voice, played at a speed."""

    name: str
    command: tuple[str, ...]  # `{text}` and `{file}` are filled in; without `{text}` it reads the text from its input
    speed: float
    share: int  # how often it speaks, relative to the others


def voices() -> list[Voice]:
    """Return all voices. Those made from recordings of people speak most."""
    found = []
    flite = {"slt": (0.86, 0.93, 1.0, 1.08, 1.16), "rms": (0.86, 0.93, 1.0, 1.08, 1.16)}
    flite["awb"] = flite["rms"]
    for kind, speeds in flite.items():
        command = ("flite", "-voice", kind, "--setf", "duration_stretch=1.0", "-t", "{text}", "-o", "{file}")
        share = 4 if kind == "awb" else 5
        found += [Voice(f"{kind}{k}", command, speed, share) for k, speed in enumerate(speeds)]
    command = ("flite", "-voice", "kal16", "--setf", "duration_stretch=1.0", "-t", "{text}", "-o", "{file}")
    found += [Voice(f"kal{k}", command, speed, 2) for k, speed in enumerate((0.9, 1.0, 1.12))]
    festival = (
        ("ked", "ked_diphone", (0.92, 1.0, 1.1), 2),
        ("hts", "cmu_us_slt_arctic_hts", (0.84, 0.92, 1.0, 1.1), 3),
    )
    for name, kind, speeds, share in festival:
        command = ("text2wave", "-eval", f"(voice_{kind})", "-o", "{file}")
        found += [Voice(f"{name}{k}", command, speed, share) for k, speed in enumerate(speeds)]
    espeak = (
        ("en-us+f3", 165, 50),
        ("en-us+m3", 160, 40),
        ("en-gb+f2", 165, 60),
        ("en-gb-x-rp+m7", 170, 40),
        ("en-us+f5", 155, 45),
        ("en-us+m1", 170, 30),
        ("en-gb-scotland+m4", 160, 45),
        ("en-us+klatt4", 160, 50),
        ("en-us+Andrea", 165, 50),
        ("en-us+michael", 160, 35),
    )
    for k, (kind, rate, pitch) in enumerate(espeak):
        command = ("espeak-ng", "-v", kind, "-s", str(rate), "-p", str(pitch), "-w", "{file}", "{text}")
        found.append(Voice(f"esp{k}", command, 1.0, 2))
    return found


@dataclass(frozen=True)
class Clip:
    """One clip of the data set."""

    name: str
    speaker: str
    text: str
    wav: NDArray[np.float32]  # (t,) at `SAMPLE_RATE`


def prepare(wav: NDArray[np.float32], rate: int, *, speed: float, kind: str) -> NDArray[np.float32] | None:
    """Play a recording at a speed, raise it to `LEVEL` and cut its edges; None if it is silent."""
    sound = torch.from_numpy(wav)
    if speed != 1.0:
        sound = resample(sound, round(100 * speed), 100)
    played = (resample(sound, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else sound).numpy()
    loud = np.abs(played) > QUIET
    if not loud.any():
        return None
    levelled = played * (LEVEL / np.sqrt((played[loud] ** 2).mean()))
    heard = np.flatnonzero(np.abs(levelled) > EDGE[kind])
    edge = round(KEPT_EDGE_S * SAMPLE_RATE)
    return np.clip(levelled[max(0, heard[0] - edge) : heard[-1] + edge], -0.99, 0.99).astype(np.float32)


def from_ljspeech(folder: Path) -> Iterator[Clip]:
    """Yield each recording of LJSpeech at every speed."""
    for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines():
        name, _, text = line.split("|")
        (path,) = (folder / "wavs").glob(f"{name}.*")
        yield from _at_speeds(path, f"lj{name}", "lj", text, LJSPEECH_SPEEDS, longest_s=LONGEST_S["ljspeech"])


def from_librispeech(folder: Path) -> Iterator[Clip]:
    """Yield the recordings of some speakers at every speed."""
    for speaker in LIBRISPEECH_SPEAKERS:
        for line in (folder / speaker / "metadata.csv").read_text(encoding="utf-8").splitlines():
            file, text = line.split("|")
            path = folder / speaker / file
            longest = LONGEST_S["librispeech"]
            yield from _at_speeds(path, path.stem, f"{speaker}-", text, LIBRISPEECH_SPEEDS, longest_s=longest)


def _at_speeds(
    path: Path, name: str, speaker: str, text: str, speeds: tuple[float, ...], *, longest_s: float
) -> Iterator[Clip]:
    wav, rate = soundfile.read(path, dtype="float32")
    for speed in speeds:
        played = prepare(wav, rate, speed=speed, kind="real")
        if played is not None and len(played) < longest_s * SAMPLE_RATE:
            percent = round(100 * speed)
            yield Clip(f"{name}-{percent}", f"{speaker}{percent}", text, played)


def synthetic(texts: list[str]) -> Iterator[Clip]:
    """Let the synthesizers speak the texts, each by a voice drawn by its share."""
    pool = [voice for voice in voices() for _ in range(voice.share)]
    draw = random.Random(11)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "spoken.wav"
        for number in range(NUM_SYNTHETIC):
            voice, text = draw.choice(pool), texts[number % len(texts)]
            command = [part.format(text=text, file=file) for part in voice.command]
            by_input = "{text}" not in voice.command
            subprocess.run(command, input=text if by_input else None, text=True, check=True, capture_output=True)
            wav, rate = soundfile.read(file, dtype="float32")
            played = prepare(wav, rate, speed=voice.speed, kind="synthetic")
            if played is not None:
                noise = np.random.default_rng(number).standard_normal(len(played)).astype(np.float32) * NOISE
                yield Clip(f"{voice.name}-{number:05d}", voice.name, text, np.clip(played + noise, -0.99, 0.99))


def read_texts(table: Path, *, without: set[str]) -> list[str]:
    """Read sentences of plain letters, in an order that is drawn once."""
    found = []
    for line in table.read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition("|")
        text = text.rpartition("|")[2].strip()
        plain = not re.search(r"\d|[^\x20-\x7e]", text) and TEXT_LETTERS[0] <= len(text) <= TEXT_LETTERS[1]
        if plain and Path(name).stem not in without:
            found.append(text[0].upper() + text[1:])
    random.Random(7).shuffle(found)
    return found


def write(clips: Iterator[Clip], out: Path) -> None:
    """Write the clips and their table."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    for clip in clips:
        file = f"clips/{clip.name}.flac"
        soundfile.write(out / file, clip.wav, SAMPLE_RATE, subtype="PCM_16")
        seconds += len(clip.wav) / SAMPLE_RATE
        row = {"id": clip.name, "audio": file, "text": clip.text, "speaker": clip.speaker, "language": "en"}
        rows.append(json.dumps(row, ensure_ascii=False))
    (out / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    print(f"{len(rows):,} clips, {seconds / 3600:.2f} h")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--ljspeech", "--librispeech", "--texts", "--out"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    recorded = {line.split("|")[0] for line in (given.ljspeech / "metadata.csv").read_text("utf-8").splitlines()}
    texts = read_texts(given.texts, without=recorded)

    def everything() -> Iterator[Clip]:
        yield from from_ljspeech(given.ljspeech)
        yield from from_librispeech(given.librispeech)
        yield from synthetic(texts)

    write(everything(), given.out)


if __name__ == "__main__":
    main()
