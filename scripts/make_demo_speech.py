"""Speak the sentences of the demo data set again, with espeak-ng.

    pip install "ttstrain[demo]"        # espeakng-loader carries espeak-ng, which is GPL-3.0-or-later
    python scripts/make_demo_speech.py

Writes `ttstrain/_demo`: compressed clips, metadata.jsonl and provenance.json. The program runs in a child process of
its own: that keeps it apart from this project, and its samples repeat only in a fresh process with a fixed seed and
order. The Ogg files do not repeat byte for byte, as every stream gets a new serial number; provenance.json holds a hash
of the samples.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SENTENCES = REPO / "scripts" / "demo_sentences.txt"
DESTINATION = REPO / "ttstrain" / "_demo"
SAMPLE_RATE = 24_000  # Hz
PEAK = 0.7  # of each voice's loudest sample, so that the clips of a voice keep their relative loudness
BUDGET_BYTES = 4_000_000


@dataclass(frozen=True)
class Voice:
    speaker: str
    espeak: str  # language and variant, as espeak_SetVoiceByName takes them
    rate: int  # words per minute
    pitch: int  # 0-100, espeak's own scale
    pitch_range: int  # 0-100


VOICES = (
    Voice("ada", "en-us+f3", rate=172, pitch=52, pitch_range=60),
    Voice("tom", "en+m7", rate=178, pitch=42, pitch_range=55),
    Voice("mae", "en+f2", rate=165, pitch=60, pitch_range=65),
)


@dataclass(frozen=True)
class Line:
    id: str
    voice: Voice
    text: str


def lines() -> list[Line]:
    """Deal the sentences to the voices in turn."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()
    counts = dict.fromkeys(VOICES, 0)
    dealt = []
    for index, text in enumerate(texts):
        voice = VOICES[index % len(VOICES)]
        counts[voice] += 1
        dealt.append(Line(id=f"{voice.speaker}-{counts[voice]:03d}", voice=voice, text=text))
    return dealt


# ---------------------------------------------------------------- the child process: espeak-ng

SYNCHRONOUS, RATE, VOLUME, PITCH, RANGE, POSITION_CHARACTER, UTF8 = 2, 1, 2, 3, 4, 1, 1  # espeak-ng's speak_lib.h
VOLUME_PERCENT = 60  # some voices reach full scale at the default 100


def speak_all(folder: Path) -> None:
    """Write one file of 16-bit samples per line, and print espeak-ng's rate and version as JSON."""
    import espeakng_loader

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    data_path = str(espeakng_loader.get_data_path()).encode()  # the built-in path is the build machine's
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, data_path, 0)
    if rate <= 0:
        raise SystemExit(f"error: espeak-ng did not start ({rate})")
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))  # breath noise is otherwise seeded by the clock
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, count * 2))
        return 0  # go on

    espeak.espeak_SetSynthCallback(collect)
    for line in lines():
        check(espeak.espeak_SetVoiceByName(line.voice.espeak.encode()), f"voice {line.voice.espeak}")
        settings = {
            RATE: line.voice.rate,
            VOLUME: VOLUME_PERCENT,
            PITCH: line.voice.pitch,
            RANGE: line.voice.pitch_range,
        }
        for parameter, value in settings.items():
            check(espeak.espeak_SetParameter(parameter, value, 0), f"parameter {parameter}")
        pieces.clear()
        text = line.text.encode() + b"\0"
        check(espeak.espeak_Synth(text, len(text), 0, POSITION_CHARACTER, 0, UTF8, None, None), line.id)
        check(espeak.espeak_Synchronize(), line.id)
        (folder / f"{line.id}.s16").write_bytes(b"".join(pieces))

    espeak.espeak_Info.restype = ctypes.c_char_p
    print(json.dumps({"rate": rate, "espeak_ng": espeak.espeak_Info(None).decode()}))


def check(status: int, what: str) -> None:
    if status != 0:
        raise SystemExit(f"error: espeak-ng refused {what} ({status})")


# ---------------------------------------------------------------- the parent: resample, level, compress, describe


def encode_all(folder: Path, spoken_rate: int) -> dict[str, object]:
    """Write the clips and metadata.jsonl; return what provenance.json says about the sound."""
    import numpy as np
    import soundfile
    import torch
    from torchaudio.functional import resample

    wavs = {}
    for line in lines():
        samples = np.frombuffer((folder / f"{line.id}.s16").read_bytes(), dtype="<i2").astype(np.float32) / 32768
        wavs[line.id] = resample(torch.from_numpy(samples), spoken_rate, SAMPLE_RATE).numpy()
    gains = {voice: PEAK / max(abs(wavs[line.id]).max() for line in lines() if line.voice == voice) for voice in VOICES}

    shutil.rmtree(DESTINATION / "clips", ignore_errors=True)
    (DESTINATION / "clips").mkdir(parents=True)
    digest = hashlib.sha256()
    seconds = 0.0
    rows = []
    for line in lines():
        wav = wavs[line.id] * gains[line.voice]
        digest.update((wav * 32767).round().astype("<i2").tobytes())
        seconds += len(wav) / SAMPLE_RATE
        file = f"clips/{line.id}.ogg"
        with soundfile.SoundFile(
            DESTINATION / file, "w", SAMPLE_RATE, channels=1, format="OGG", subtype="VORBIS", compression_level=0.4
        ) as sound:
            for start in range(0, len(wav), SAMPLE_RATE):  # libsndfile's Vorbis writer fails on long blocks
                sound.write(wav[start : start + SAMPLE_RATE])
        row = {"id": line.id, "audio": file, "text": line.text, "speaker": line.voice.speaker, "language": "en"}
        rows.append(json.dumps(row, ensure_ascii=False))
    (DESTINATION / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    return {
        "clips": len(rows),
        "seconds": round(seconds, 1),
        "sample_rate": SAMPLE_RATE,
        "sha256_of_16_bit_samples": digest.hexdigest(),
        "libsndfile": soundfile.__libsndfile_version__,
        "torchaudio": version("torchaudio"),
    }


def make() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--speak-into", str(folder)]
        spoken = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sound = encode_all(folder, spoken["rate"])
    provenance = {
        "script": "scripts/make_demo_speech.py",
        "espeak_ng": spoken["espeak_ng"],
        "espeakng_loader": version("espeakng-loader"),
        "voices": {voice.speaker: voice.espeak for voice in VOICES},
        **sound,
    }
    text = json.dumps(provenance, indent=2) + "\n"
    (DESTINATION / "provenance.json").write_text(text, encoding="utf-8", newline="\n")
    size = sum(path.stat().st_size for path in DESTINATION.rglob("*") if path.is_file())
    print(f"{sound['clips']} clips, {sound['seconds']} s, {size:,} bytes of {BUDGET_BYTES:,}")
    if size > BUDGET_BYTES:
        raise SystemExit("error: over the budget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speak-into", type=Path, help=argparse.SUPPRESS)
    folder: Path | None = parser.parse_args().speak_into
    if folder is None:
        make()
    else:
        speak_all(folder)


if __name__ == "__main__":
    main()
