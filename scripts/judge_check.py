"""Check the judge's figures on real speech, and what Griffin-Lim costs by them.

    python scripts/judge_check.py DATA/ljspeech DATA/libri/* [--clips 12]

Each folder is one speaker, with a metadata.csv (`file|text`, the file with or without its ending). Prints two tables:
how well speaker similarity separates the speakers, and what the judge hears in the recordings, in their mels turned
back into sound by Griffin-Lim (how a small base speaks without a trained vocoder), and, where they are installed, in
the same sentences by espeak-ng and flite. Words are retrieved among the speaker's own recordings. The similarity of a
recording is measured against the speaker's other recordings, so that of Griffin-Lim is, too.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.figures import Figures, Interval, paired, summarise
from ttstrain.judge.listen import Ears, Target, listen
from ttstrain.judge.voice import centroid, embed, similarity
from ttstrain.judge.waveform import at_rate
from ttstrain.modules.griffin_lim import griffin_lim
from ttstrain.modules.mel import MelSpectrogram

Clips = list[tuple[Audio, str]]
SHOWN = ("voice", "words", "words_margin", "cer", "mos", "mcd", "f0_shift", "pace", "repeats", "silence_share")


def read(folder: Path, *, most: int, longest_s: float) -> Clips:
    clips: Clips = []
    for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines():
        name, text = line.split("|")[:2]
        path = next(path for path in folder.rglob(f"{Path(name).stem}.*") if path.suffix in (".wav", ".flac", ".ogg"))
        if 2.0 <= soundfile.info(path).duration <= longest_s and len(clips) < most:
            wav, rate = soundfile.read(path, dtype="float32")
            clips.append((Audio(torch.from_numpy(wav), rate), text))
    return clips


def by_griffin_lim(audio: Audio, text: str) -> Audio:
    mel = MelSpectrogram("vocos")(at_rate(audio, 24_000)[None])[0].T  # (n, 100)
    return Audio(griffin_lim(mel, kind="vocos"), 24_000)


def by_program(command: Sequence[str]) -> Callable[[Audio, str], Audio]:
    def speak(audio: Audio, text: str) -> Audio:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/spoken.wav"
            subprocess.run([part.format(path=path, text=text) for part in command], check=True)
            wav, rate = soundfile.read(path, dtype="float32")
        return Audio(torch.from_numpy(wav), rate)

    return speak


def ways() -> dict[str, Callable[[Audio, str], Audio]]:
    found: dict[str, Callable[[Audio, str], Audio]] = {
        "recordings": lambda audio, text: audio,
        "Griffin-Lim": by_griffin_lim,
    }
    if shutil.which("espeak-ng"):
        found["espeak-ng"] = by_program(["espeak-ng", "-v", "en-us", "-w", "{path}", "{text}"])
    if shutil.which("flite"):
        found["flite"] = by_program(["flite", "-voice", "slt", "-t", "{text}", "-o", "{path}"])
    return found


def separation(voices: dict[str, list[Tensor]]) -> str:
    """Compare pairs of clips, and clips with speakers."""
    labelled = [(speaker, one) for speaker, embeddings in voices.items() for one in embeddings]
    same, other = [], []
    for (s, a), (t, b) in itertools.combinations(labelled, 2):
        (same if s == t else other).append(similarity(a, b))
    own_voice, other_voices, nearest = [], [], 0
    for speaker, embeddings in voices.items():
        for number, one in enumerate(embeddings):
            rest = [*embeddings[:number], *embeddings[number + 1 :]]
            own = similarity(one, centroid(rest))
            others = [similarity(one, centroid(them)) for name, them in voices.items() if name != speaker]
            nearest += own > max(others)
            own_voice.append(own)
            other_voices += others
    reached = statistics.quantiles(other_voices, n=100)[98]
    return (
        f"{len(same)} pairs of one speaker {statistics.fmean(same):.3f}, {len(other)} of two "
        f"{statistics.fmean(other):.3f}; equal error {equal_error(same, other):.1%}; "
        f"{nearest} of {len(labelled)} clips nearest to their own speaker; to its own speaker the lowest clip is "
        f"{min(own_voice):.2f}, to another one in a hundred is above {reached:.2f}"
    )


def equal_error(same: Sequence[float], other: Sequence[float]) -> float:
    thresholds = sorted({*same, *other})
    rates = [
        (sum(value < t for value in same) / len(same), sum(value >= t for value in other) / len(other))
        for t in thresholds[:: max(1, len(thresholds) // 500)]
    ]
    missed, accepted = min(rates, key=lambda rate: abs(rate[0] - rate[1]))
    return (missed + accepted) / 2


def heard(
    clips: Clips, speak: Callable[[Audio, str], Audio], voices: Sequence[Tensor | None], ears: Ears
) -> list[Figures]:
    """Listen to every sentence; a clip's own recording does not count as the wanted voice."""
    target = Target.of(clips, ears=ears)
    figures = []
    for number, (audio, text) in enumerate(clips):
        rest = [one for place, one in enumerate(voices) if place != number and one is not None]
        figures.append(listen(speak(audio, text), text, target=replace(target, voice=centroid(rest)), ears=ears))
    return figures


def show(title: str, cells: Iterable[str]) -> None:
    print(f"{title:<14}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def cell(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.3f} ({interval.low:.3f}, {interval.high:.3f})"


def check(speakers: dict[str, Clips], ears: Ears) -> None:
    voices = {name: [embed(audio) for audio, _ in clips] for name, clips in speakers.items()}
    print("voice:", separation({name: [one for one in them if one is not None] for name, them in voices.items()}))
    print(f"{sum(len(clips) for clips in speakers.values())} clips of {len(speakers)} speakers; mean (95 % interval)")
    show("", SHOWN)
    recorded: list[Figures] = []
    for way, speak in ways().items():
        started = time.perf_counter()
        figures = [one for name in speakers for one in heard(speakers[name], speak, voices[name], ears)]
        recorded = recorded or figures
        summary = summarise(figures)
        show(way, [cell(summary.get(name)) for name in SHOWN])
        if way != "recordings":
            sides = [([getattr(f, n) for f in figures], [getattr(f, n) for f in recorded]) for n in SHOWN]
            show("  less record.", [cell(paired(ours, theirs)) for ours, theirs in sides])
        print(f"  ({(time.perf_counter() - started) / len(figures):.2f} s a clip)")
    for note in ears.notes:
        print("note:", note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=12, help="of each speaker")
    parser.add_argument("--longest", type=float, default=8.0, help="of a clip, in seconds")
    parser.add_argument("--transcribe", action="store_true", help="measure character errors too, which is slow")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {folder.name: read(folder, most=asked.clips, longest_s=asked.longest) for folder in asked.folders}
    check(
        {name: clips for name, clips in found.items() if len(clips) >= 4},
        Ears.open(language="en", transcribe=asked.transcribe),
    )
