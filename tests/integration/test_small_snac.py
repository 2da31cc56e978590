"""A small codec trained by the script is one that Orpheus reads and writes, and its codebooks are in use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import soundfile
import torch

from ttstrain.families.orpheus.codec import load_codec

SCRIPT = Path(__file__).parents[2] / "scripts/make_small_snac.py"
SAMPLE_RATE = 24_000


def write_recordings(folder: Path, number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    rows = []
    for i in range(number):
        pitch = 100 + 200 * torch.rand((), generator=generator)
        wav = 0.3 * torch.sin(2 * torch.pi * pitch * times * (1 + 0.3 * times))
        soundfile.write(folder / f"{i}.wav", wav.numpy(), SAMPLE_RATE)
        rows.append(json.dumps({"audio": f"{i}.wav"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def test_a_codec_is_trained_and_read(tmp_path: Path) -> None:
    write_recordings(tmp_path, 4)
    sizes = ["--encoder-dim", "4", "--decoder-dim", "32", "--codes", "64"]
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "codec"), "--minutes", "0.05", *sizes]
    done = subprocess.run([*command, "--held-out", "2"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    in_use = done.stdout.splitlines()[-1]
    assert in_use.startswith("codes in use (perplexity): ")
    assert all(float(level) > 1 for level in in_use.partition(": ")[2].split(", "))
    codec = load_codec(str(tmp_path / "codec"))
    wav = torch.from_numpy(soundfile.read(tmp_path / "0.wav", dtype="float32")[0])
    (frames,) = codec.encode([wav])
    assert frames.shape == (12, 7)
    assert codec.decode(frames, num_samples=len(wav)).shape == wav.shape
