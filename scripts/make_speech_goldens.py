"""Make tests/parity/data/speech.json: what F5-TTS's own inference does around its net.

Run it where `f5-tts` from PyPI is installed; ttstrain is not needed, and no weights are downloaded:

    python scripts/make_speech_goldens.py tests/parity/data/speech.json

The net is replaced by one that writes down what it is asked for, the vocoder by one that makes a ramp of each mel.
Recordings follow a recipe, `recording`, which the test follows too.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Each recording is (rate, loudness, stretches of speech and of silence in turn, in seconds).
RECORDINGS: dict[str, tuple[int, float, Sequence[float]]] = {
    "plain": (24000, 0.2, [2.0]),
    "quiet": (24000, 0.03, [3.0]),
    "edges": (16000, 0.2, [0, 0.337, 2.5, 0.6]),
    "other_rate": (22050, 0.05, [0, 0.2, 3.21, 0.05]),
    "long_silence": (24000, 0.2, [2.0, 3.5, 2.0]),
    "no_pause": (24000, 0.2, [14.0]),
    "short_pauses": (24000, 0.2, [4.0, 0.3, 3.5, 0.25, 3.0, 0.4, 4.0]),
    "long_pauses": (16000, 0.15, [4.0, 1.4, 3.5, 1.2, 5.0]),
}
TEXTS = [
    ("One sentence. ", "Hello there"),
    ("One sentence. ", "Yes."),
    ("一句话。", "你好，世界。今天天气很好！"),
    ("Some words", "First, a clause; then another: and more! Did it end? No. " * 4),
    ("Ends well.", "no punctuation at all " * 12),
    ("Mixed. ", "Eins, zwei。三！four ; five"),
]


def recording(name: str) -> tuple[Tensor, int]:
    """Return a waveform (t,) of 16-bit values and its rate: a swelling tone for speech, a soft hum for silence."""
    rate, loudness, stretches = RECORDINGS[name]
    parts = []
    for number, seconds in enumerate(stretches):
        time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
        if number % 2:
            parts.append(0.001 * torch.sin(2 * math.pi * 50 * time))
        else:
            parts.append(loudness * (1 + 0.3 * torch.sin(5 * time)) * torch.sin(2 * math.pi * 220 * time))
    return (torch.cat(parts) * 32768).round() / 32768, rate


class Recorder:
    """In place of the net: remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def sample(self, *, cond: Tensor, text: list[list[str]], duration: int, **_: Any) -> tuple[Tensor, None]:
        self.asked.append({"text": "|".join(text[0]), "duration": duration, "samples": cond.shape[-1]})
        return torch.zeros(1, duration, 100) + torch.arange(duration)[None, :, None], None


class Ramp:
    """In place of the vocoder: 256 samples for each frame, each the frame's number."""

    def decode(self, mel: Tensor) -> Tensor:
        return mel[:, 0].repeat_interleave(256, dim=-1) / 1000


def main(target: Path) -> None:
    import soundfile
    import torchaudio
    from f5_tts.infer import utils_infer

    def load(path: str) -> tuple[Tensor, int]:  # torchaudio's own needs ffmpeg
        wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(wav.T), rate

    torchaudio.load = load
    prompts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in RECORDINGS:
            wav, rate = recording(name)
            path = Path(folder, f"{name}.wav")
            soundfile.write(path, wav.numpy(), rate, subtype="PCM_16")
            made, text = utils_infer.preprocess_ref_audio_text(str(path), "Some words", show_info=lambda _: None)
            out, rate = soundfile.read(made)
            prompts[name] = {
                "samples": len(out),
                "text": text,
                "sum": float((out**2).sum()),
            }
        spoken = []
        made, _ = utils_infer.preprocess_ref_audio_text(str(Path(folder, "quiet.wav")), "x", show_info=lambda _: None)
        for (given, text), speed in zip(TEXTS, (1.0, 1.3, 1.0, 1.0, 0.8, 1.0), strict=True):
            net = Recorder()
            spoken_text = utils_infer.preprocess_ref_audio_text(made, given, show_info=lambda _: None)[1]
            wav, _, _ = utils_infer.infer_process(
                made, spoken_text, text, net, Ramp(), progress=None, show_info=lambda _: None, speed=speed, device="cpu"
            )
            asked = sorted(net.asked, key=lambda each: text.find(each["text"].replace("|", "")[-6:]))
            spoken.append(
                {
                    "reference_text": spoken_text,
                    "text": text,
                    "speed": speed,
                    "chunks": utils_infer.chunk_text(text, max_chars=chunk_size(made, spoken_text, speed)),
                    "asked": asked,
                    "samples": len(wav),
                    "wav": [float(value) for value in wav[:: max(1, len(wav) // 60)]],
                }
            )
    target.write_text(json.dumps({"prompts": prompts, "spoken": spoken}, indent=1, ensure_ascii=False) + "\n")
    print(f"{target}: {target.stat().st_size:,} bytes")


def chunk_size(path: str, text: str, speed: float) -> int:
    import soundfile

    seconds = soundfile.info(path).duration
    return int(len(text.encode()) / seconds * (22 - seconds) * speed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
