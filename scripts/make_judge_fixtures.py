"""Pack the real speech on which the judge's figures are tested, and what independent packages measure in it.

    pip download --no-deps Resemblyzer==0.1.4
    pip install mel-cepstral-distance==0.0.4 librosa
    python scripts/make_judge_fixtures.py LJSPEECH LIBRISPEECH --wheel Resemblyzer-0.1.4-py3-none-any.whl

LJSPEECH is a folder with metadata.csv and wavs/, LIBRISPEECH one with a folder for each speaker that holds a
metadata.csv (`file|text`). Also needs espeak-ng and flite, which speak the sentences of LJSPEECH once more. Writes
`tests/fixtures_judge`: Ogg Vorbis at 16 kHz, clips.json and goldens.json. The goldens are by upstream's own code: that
of Resemblyzer, with librosa's mel, and mel-cepstral-distance.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

DESTINATION = Path(__file__).resolve().parents[1] / "tests" / "fixtures_judge"
RATE = 16_000  # Hz
LJSPEECH = ("LJ001-0043", "LJ001-0061", "LJ001-0107", "LJ001-0125", "LJ001-0160", "LJ001-0179")
LIBRISPEECH = {
    "1688": ("1688-142285-0002", "1688-142285-0005", "1688-142285-0009"),
    "2414": ("2414-128291-0000", "2414-128291-0006", "2414-128291-0008"),
    "367": ("367-130732-0001", "367-130732-0008", "367-130732-0009"),
    "533": ("533-1066-0000", "533-1066-0006", "533-1066-0009"),
}
VOICES = ("espeak", "flite")
BUDGET_BYTES = 1_000_000


def synthesise(voice: str, text: str, path: Path) -> None:
    command = {
        "espeak": ["espeak-ng", "-v", "en-us", "-w", str(path), text],
        "flite": ["flite", "-voice", "slt", "-t", text, "-o", str(path)],
    }
    subprocess.run(command[voice], check=True)


def write(source: Path, name: str) -> np.ndarray:
    """Write a recording as mono Ogg Vorbis at 16 kHz and return what a reader of it hears (t,)."""
    wav, rate = soundfile.read(source, dtype="float32")
    heard = torchaudio.functional.resample(torch.from_numpy(wav), rate, RATE).clamp(-1, 1).numpy()
    path = DESTINATION / f"{name}.ogg"
    soundfile.write(path, heard, RATE, format="OGG", subtype="VORBIS")
    return soundfile.read(path, dtype="float32")[0]


def texts(folder: Path) -> dict[str, str]:
    rows = (line.split("|")[:2] for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines())
    return {Path(file).stem: text for file, text in rows}


def find(folder: Path, name: str) -> Path:
    return next(path for path in folder.rglob(f"{name}.*") if path.suffix in (".wav", ".flac"))


def pack(ljspeech: Path, librispeech: Path) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    clips, heard = [], {}

    def add(name: str, speaker: str, text: str, source: Path) -> None:
        clips.append({"name": name, "speaker": speaker, "text": text})
        heard[name] = write(source, name)

    for name in LJSPEECH:
        text = texts(ljspeech)[name]
        add(name, "ljspeech", text, find(ljspeech, name))
        for voice in VOICES:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "spoken.wav"
                synthesise(voice, text, path)
                add(f"{name}-{voice}", voice, text, path)
    for speaker, names in LIBRISPEECH.items():
        for name in names:
            add(name, speaker, texts(librispeech / speaker)[name], find(librispeech / speaker, name))
    return clips, heard


def resemblyzer_encoder(wheel: Path, folder: Path) -> object:
    """Import upstream's encoder from the wheel; its voice detection is not used, so it need not be there."""
    zipfile.ZipFile(wheel).extractall(folder)
    sys.path.insert(0, str(folder))
    for missing, content in (("webrtcvad", {}), ("scipy.ndimage.morphology", {"binary_dilation": None})):
        module = types.ModuleType(missing)
        module.__dict__.update(content)
        sys.modules[missing] = module
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def package_distance(a: np.ndarray, b: np.ndarray) -> float:
    from mel_cepstral_distance import compare_audio_files
    from scipy.io import wavfile

    files = []
    for wav in (a, b):
        file = io.BytesIO()
        wavfile.write(file, RATE, wav)
        file.seek(0)
        files.append(file)
    return float(compare_audio_files(*files, dtw_radius=None)[0])


def goldens(heard: dict[str, np.ndarray], wheel: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        encoder = resemblyzer_encoder(wheel, Path(folder))
        some = [LJSPEECH[0], next(iter(LIBRISPEECH.values()))[0], f"{LJSPEECH[1]}-espeak"]
        embeddings = {name: encoder.embed_utterance(heard[name]).round(6).tolist() for name in some}
    pairs = [(LJSPEECH[0], f"{LJSPEECH[0]}-flite"), (LJSPEECH[1], f"{LJSPEECH[1]}-espeak"), LJSPEECH[:2]]
    distances = [{"a": a, "b": b, "distance": package_distance(heard[a], heard[b])} for a, b in pairs]
    return {"resemblyzer 0.1.4": embeddings, "mel-cepstral-distance 0.0.4": distances}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ljspeech", type=Path)
    parser.add_argument("librispeech", type=Path)
    parser.add_argument("--wheel", type=Path, required=True)
    asked = parser.parse_args()
    for old in DESTINATION.glob("*.ogg"):
        old.unlink()
    DESTINATION.mkdir(exist_ok=True)
    packed, sounds = pack(asked.ljspeech, asked.librispeech)
    (DESTINATION / "clips.json").write_text(json.dumps(packed, indent=1) + "\n", encoding="utf-8")
    measured = goldens(sounds, asked.wheel)
    (DESTINATION / "goldens.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in DESTINATION.iterdir())
    print(f"{len(packed)} clips, {size:,} bytes")
    if size > BUDGET_BYTES:
        raise SystemExit(f"more than the {BUDGET_BYTES:,} bytes that a checkout should carry")
