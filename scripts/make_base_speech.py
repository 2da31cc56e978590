r"""Make the speech that the small base is trained on: real voices, the same at other speeds, and synthetic voices.

    sudo apt-get install flite festival festvox-us-slt-hts festvox-kdlpc16k espeak-ng
    python scripts/make_base_speech.py first --ljspeech LJSPEECH --librispeech LIBRISPEECH --texts METADATA --out FIRST
    python scripts/make_base_speech.py second --first FIRST --librispeech LIBRISPEECH --speakers SPEAKERS --out SECOND
    python scripts/make_base_speech.py phrases --first FIRST --ljspeech LJSPEECH --librispeech LIBRISPEECH \
        --speakers SPEAKERS --out PHRASES
    python scripts/make_base_speech.py one_voice --ljspeech LJSPEECH --librispeech LIBRISPEECH --texts METADATA \
        --out ONE_VOICE
    python scripts/make_base_speech.py few_words --out FEW_WORDS

LJSPEECH holds `metadata.csv` (`id|text|normalised text`) and `wavs/`. LIBRISPEECH holds a folder for each speaker with
`metadata.csv` (`file|text`), SPEAKERS one recording of each of many speakers and `metadata.csv`. METADATA is the table
of texts of the whole LJSpeech, `id|...|text`, for the synthetic voices; texts whose recordings are in LJSPEECH are left
out. Writes FLAC files and `metadata.jsonl`.

The base that ships was trained on `first`. The others are for training it further. `second` and `phrases` have fewer
synthetic clips and more speakers, and leave out fourteen sentences of LJSpeech at every speed. `phrases` cuts the
recordings at pauses: a net of this size spreads a text evenly over the time, so short clips teach it where each letter
is heard. `one_voice` is mostly phrases of one synthetic voice, which says a letter always alike, beside phrases of
recorded ones. `few_words` is one synthetic voice too: sentences of 52 words, each sentence said once, for language
models that are too small for more.

A recording played faster or slower by a factor has another pitch and other formants, so it stands for another speaker.
The silence of synthesizers is digital zero, whose log mel is a floor that no microphone records: noise at -56 dBFS
takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import cut_phrases
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample

Row = dict[str, str]

SAMPLE_RATE = 24_000  # Hz
LEVEL = 0.1  # RMS of what is louder than `QUIET`
QUIET, EDGE = 0.01, {"real": 0.012, "synthetic": 0.008}  # amplitudes; quieter edges are cut off
KEPT_EDGE_S = 0.06
NOISE = 10 ** (-56 / 20)
LONGEST_S = {"ljspeech": 11.5, "librispeech": 16.0}
TEXT_LETTERS = (18, 85)
FLITE = ("slt", "rms", "awb")  # voices made from people's recordings

LJSPEECH_SPEEDS = (1.0, 0.85, 0.93, 1.14)
LIBRISPEECH_SPEAKERS = ("1688", "1998", "2033", "2414", "2609", "3005")  # the others stay unheard
LIBRISPEECH_SPEEDS = (1.0, 0.92, 1.09)
NUM_SYNTHETIC = 4020

SECOND_LIBRISPEECH_SPEEDS = (0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12)
SPEAKERS_SPEEDS, SPEAKERS_LONGEST_S = (1.0, 0.94, 1.06), 17.5
LEFT_OUT = 14  # sentences of LJSpeech
# Clips of flite's voices made from people's recordings, and of the other synthetic voices.
SECOND_SYNTHETIC, PHRASES_SYNTHETIC = (900, 250), (1200, 300)
PHRASES_SPEEDS = {
    "ljspeech": (1.0, 0.85, 0.93, 1.14),
    "librispeech": (0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12),
    "speakers": (1.0, 0.93, 1.07),
}
SHORTEST_PHRASE_S = 1.0

ONE_VOICE = ("flite", "-voice", "slt", "--setf", "duration_stretch=1.0", "-t", "{text}", "-o", "{file}")
ONE_VOICE_PHRASES = 3200
SPOKEN_PHRASE_LETTERS = (14, 64)

NUM_SENTENCES = 2400
# What a sentence of few words is made of, part after part.
PARTS = (
    ("the old man", "a young girl", "my brother", "our teacher", "the captain", "her sister", "nobody", "the doctor"),
    ("found", "lost", "sold", "painted", "carried", "bought", "forgot", "wanted"),
    ("a red", "the small", "my green", "a heavy", "the last", "our white"),
    ("boat", "house", "apple", "stone", "letter", "garden", "window", "horse"),
    ("in the morning", "near the river", "by the sea", "after dinner", "at school", "this summer", "again", "for us"),
)


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
    for path, text in _ljspeech_table(folder):
        yield from _at_speeds(path, f"lj{path.stem}", "lj", text, LJSPEECH_SPEEDS, longest_s=LONGEST_S["ljspeech"])


def from_librispeech(folder: Path, speeds: tuple[float, ...] = LIBRISPEECH_SPEEDS) -> Iterator[Clip]:
    """Yield the recordings of some speakers at every speed."""
    for speaker in LIBRISPEECH_SPEAKERS:
        for path, text in _read_table(folder / speaker):
            longest = LONGEST_S["librispeech"]
            yield from _at_speeds(path, path.stem, f"{speaker}-", text, speeds, longest_s=longest)


def from_speakers(folder: Path) -> Iterator[Clip]:
    """Yield one recording of each of many speakers, at every speed."""
    for path, text in _read_table(folder):
        speaker = path.stem.partition("-")[0]
        yield from _at_speeds(path, path.stem, f"{speaker}-", text, SPEAKERS_SPEEDS, longest_s=SPEAKERS_LONGEST_S)


def _ljspeech_table(folder: Path) -> Iterator[tuple[Path, str]]:
    for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines():
        name, _, text = line.split("|")
        (path,) = (folder / "wavs").glob(f"{name}.*")
        yield path, text


def _read_table(folder: Path) -> list[tuple[Path, str]]:
    rows = (line.split("|") for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines())
    return [(folder / file, text) for file, text in rows]


def _at_speeds(
    path: Path, name: str, speaker: str, text: str, speeds: tuple[float, ...], *, longest_s: float
) -> Iterator[Clip]:
    wav, rate = soundfile.read(path, dtype="float32")
    for percent, played in _played(wav, rate, speeds):
        if len(played) < longest_s * SAMPLE_RATE:
            yield Clip(f"{name}-{percent}", f"{speaker}{percent}", text, played)


def _played(
    wav: NDArray[np.float32], rate: int, speeds: tuple[float, ...]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for speed in speeds:
        played = prepare(wav, rate, speed=speed, kind="real")
        if played is not None:
            yield round(100 * speed), played


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


def phrases_of(
    recordings: Iterable[tuple[Path, str, str]], speeds: tuple[float, ...], aligner: cut_phrases.Aligner
) -> Iterator[Clip]:
    """Yield the phrases of recordings, given as file, text and speaker, at every speed."""
    for path, text, speaker in recordings:
        wav, rate = soundfile.read(path, dtype="float32")
        for number, (phrase, words) in enumerate(cut_phrases.phrases(aligner, wav, rate, text)):
            for percent, played in _played(phrase, rate, speeds):
                if len(played) >= SHORTEST_PHRASE_S * SAMPLE_RATE:
                    yield Clip(f"{path.stem}_{number}-{percent}", f"{speaker}{percent}", words, played)


def all_phrases(given: argparse.Namespace, left_out: set[str]) -> Iterator[Clip]:
    """Yield the phrases of all recorded speakers."""
    aligner = cut_phrases.Aligner()
    ljspeech = ((path, text, "lj") for path, text in _ljspeech_table(given.ljspeech) if path.stem not in left_out)
    yield from phrases_of(ljspeech, PHRASES_SPEEDS["ljspeech"], aligner)
    for speaker in LIBRISPEECH_SPEAKERS:
        own = ((path, text, f"{speaker}-") for path, text in _read_table(given.librispeech / speaker))
        yield from phrases_of(own, PHRASES_SPEEDS["librispeech"], aligner)
    many = ((path, text, path.stem.partition("-")[0] + "-") for path, text in _read_table(given.speakers))
    yield from phrases_of(many, PHRASES_SPEEDS["speakers"], aligner)


def spoken_phrases(table: Path, *, without: set[str]) -> list[str]:
    """Cut sentences of plain letters at their commas, and longer pieces between words; in an order drawn once."""
    shortest, longest = SPOKEN_PHRASE_LETTERS
    found: dict[str, None] = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition("|")
        text = text.rpartition("|")[2].strip()
        if re.search(r"\d|[^\x20-\x7e]", text) or Path(name).stem in without:
            continue
        for piece in re.split(r"(?<=[,;:.?!])\s+", text):
            for phrase in textwrap.wrap(piece, longest):
                if len(phrase) >= shortest:
                    found[phrase] = None
    phrases = list(found)
    random.Random(7).shuffle(phrases)
    return phrases


def few_word_sentences() -> list[str]:
    """Return sentences of few words, each once, in an order drawn once."""
    sentences = [" ".join(parts) for parts in product(*PARTS)]
    return random.Random(7).sample(sentences, NUM_SENTENCES)


def by_one_voice(phrases: list[str]) -> Iterator[Clip]:
    """Let one synthesizer say the phrases."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "spoken.wav"
        for number, phrase in enumerate(phrases):
            command = [part.format(text=phrase, file=file) for part in ONE_VOICE]
            subprocess.run(command, check=True, capture_output=True)
            wav, rate = soundfile.read(file, dtype="float32")
            played = prepare(wav, rate, speed=1.0, kind="synthetic")
            if played is not None:
                noise = np.random.default_rng(number).standard_normal(len(played)).astype(np.float32) * NOISE
                yield Clip(f"slt-{number:05d}", "slt", phrase, np.clip(played + noise, -0.99, 0.99))


@dataclass(frozen=True)
class First:
    """The table of the first sitting, its files as seen from the folder of a later one."""

    ljspeech: list[Row]
    synthetic: list[Row]

    @classmethod
    def read(cls, first: Path, out: Path) -> First:
        folder = Path(os.path.relpath(first, out))
        lines = (first / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row | {"audio": (folder / row["audio"]).as_posix()} for row in map(json.loads, lines)]
        return cls(
            [row for row in rows if row["speaker"].startswith("lj")],
            [row for row in rows if not row["speaker"].startswith("lj") and "-" not in row["speaker"]],
        )

    def left_out(self, draw: random.Random) -> set[str]:
        """Draw the sentences of LJSpeech that are left out."""
        return set(draw.sample(sorted({_sentence(row) for row in self.ljspeech}), LEFT_OUT))

    def some_synthetic(self, draw: random.Random, numbers: tuple[int, int]) -> list[Row]:
        """Draw clips of flite's voices that were made from people's recordings, and of the others."""
        of_people = [row for row in self.synthetic if row["speaker"][:3] in FLITE]
        others = [row for row in self.synthetic if row["speaker"][:3] not in FLITE]
        return draw.sample(of_people, numbers[0]) + draw.sample(others, numbers[1])


def _sentence(row: Row) -> str:
    return row["id"].rpartition("-")[0].removeprefix("lj")


def write(clips: Iterator[Clip], out: Path, *, kept: Iterable[Row] = ()) -> None:
    """Write the clips and their table, which begins with the rows of the first sitting that are kept."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rows, seconds = [json.dumps(row, ensure_ascii=False) for row in kept], 0.0
    for clip in clips:
        file = f"clips/{clip.name}.flac"
        soundfile.write(out / file, clip.wav, SAMPLE_RATE, subtype="PCM_16")
        seconds += len(clip.wav) / SAMPLE_RATE
        row = {"id": clip.name, "audio": file, "text": clip.text, "speaker": clip.speaker, "language": "en"}
        rows.append(json.dumps(row, ensure_ascii=False))
    (out / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    print(f"{len(rows):,} clips; {seconds / 3600:.2f} h written")


def first(given: argparse.Namespace) -> None:
    recorded = {path.stem for path, _ in _ljspeech_table(given.ljspeech)}
    texts = read_texts(given.texts, without=recorded)
    write(chain(from_ljspeech(given.ljspeech), from_librispeech(given.librispeech), synthetic(texts)), given.out)


def second(given: argparse.Namespace) -> None:
    table, draw = First.read(given.first, given.out), random.Random(5)
    left_out = table.left_out(draw)
    kept = [row for row in table.ljspeech if _sentence(row) not in left_out]
    kept += table.some_synthetic(draw, SECOND_SYNTHETIC)
    clips = chain(from_librispeech(given.librispeech, SECOND_LIBRISPEECH_SPEEDS), from_speakers(given.speakers))
    write(clips, given.out, kept=kept)


def phrases(given: argparse.Namespace) -> None:
    table = First.read(given.first, given.out)
    kept = table.some_synthetic(random.Random(9), PHRASES_SYNTHETIC)
    write(all_phrases(given, table.left_out(random.Random(5))), given.out, kept=kept)


def one_voice(given: argparse.Namespace) -> None:
    """Write phrases of one synthetic voice, and of LJSpeech and LibriSpeech as they were recorded."""
    recorded = list(_ljspeech_table(given.ljspeech))
    said = spoken_phrases(given.texts, without={path.stem for path, _ in recorded})[:ONE_VOICE_PHRASES]
    aligner = cut_phrases.Aligner()
    real = [(path, text, "lj") for path, text in recorded]
    for speaker in LIBRISPEECH_SPEAKERS:
        real += [(path, text, f"{speaker}-") for path, text in _read_table(given.librispeech / speaker)]
    write(chain(by_one_voice(said), phrases_of(real, (1.0,), aligner)), given.out)


def few_words(given: argparse.Namespace) -> None:
    write(by_one_voice(few_word_sentences()), given.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sittings = parser.add_subparsers(required=True)
    needed = {
        first: ("ljspeech", "librispeech", "texts"),
        second: ("first", "librispeech", "speakers"),
        phrases: ("first", "ljspeech", "librispeech", "speakers"),
        one_voice: ("ljspeech", "librispeech", "texts"),
        few_words: (),
    }
    for make, folders in needed.items():
        command = sittings.add_parser(make.__name__)
        for name in (*folders, "out"):
            command.add_argument(f"--{name}", type=Path, required=True)
        command.set_defaults(make=make)
    given = parser.parse_args()
    given.make(given)


if __name__ == "__main__":
    main()
