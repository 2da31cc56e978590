"""What several figures need from a waveform: another rate, where speech is, its mel spectrum and cepstrum.

Legend: t samples, n frames, f frequency bins, m mel bins, c cepstral coefficients.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.data.audio import resampler

RATE = 16_000  # Hz, of everything the judge hears but for the cepstral distance
HOP_S = 0.01
WINDOW_S = 0.025
SILENT_DBFS = -60.0  # a clip whose loud frames are below this holds no speech
RANGE_DB = 35.0  # speech is louder than its loud frames less this
ABOVE_FLOOR = 0.25  # and than the quiet frames by this share of the distance between both
FLOOR = 1e-3  # of the mean mel energy: 30 dB
SHORTEST_PAUSE_S = 0.15  # shorter gaps are closures of stops, within speech
SHORTEST_SOUND_S = 0.05  # shorter bursts are clicks


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a waveform, in seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def at_rate(audio: Audio, sample_rate: int = RATE) -> Tensor:
    """Return the waveform (t,) at another rate, on the CPU."""
    wav = audio.wav.detach().float().cpu()
    return wav if audio.sample_rate == sample_rate else resampler(audio.sample_rate, sample_rate)(wav)


def frame_levels(wav: Tensor) -> Tensor:
    """Return the levels of frames of 25 ms every 10 ms (n,), in dB below full scale, of a waveform at `RATE`."""
    window, hop = int(WINDOW_S * RATE), int(HOP_S * RATE)
    padded = torch.nn.functional.pad(wav, (window // 2, window // 2))
    power = padded.unfold(0, window, hop).square().mean(1)
    return 10 * power.clamp(min=1e-12).log10()


def find_speech(wav: Tensor) -> list[Stretch]:
    """Return the stretches of speech in a waveform at `RATE`, by an energy rule; empty for a silent one.

    A frame is speech where it is louder than both the clip's loud frames less 35 dB and a quarter of the way from its
    quiet frames to its loud ones. Gaps below 0.15 s are filled, then sounds below 0.05 s dropped.
    """
    if len(wav) < int(WINDOW_S * RATE):
        return []
    levels = frame_levels(wav)
    quiet, loud = (float(level) for level in levels.quantile(torch.tensor([0.05, 0.95])))
    if loud < SILENT_DBFS:
        return []
    threshold = max(loud - RANGE_DB, quiet + ABOVE_FLOOR * (loud - quiet))
    runs = _runs(levels > threshold)
    joined: list[tuple[int, int]] = []
    for start, end in runs:
        if joined and (start - joined[-1][1]) * HOP_S < SHORTEST_PAUSE_S:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    duration = len(wav) / RATE
    return [
        Stretch(start * HOP_S, min(end * HOP_S, duration))
        for start, end in joined
        if (end - start) * HOP_S >= SHORTEST_SOUND_S
    ]


def without_edges(wav: Tensor) -> Tensor:
    """Return a waveform at `RATE` from the first sound of speech to the last; empty for a silent one."""
    speech = find_speech(wav)
    return wav[round(speech[0].start_s * RATE) : round(speech[-1].end_s * RATE)] if speech else wav[:0]


def mel_power(wav: Tensor, *, n_mels: int = 40) -> Tensor:
    """Return power mel spectra (n, n_mels) of a waveform at `RATE`: periodic Hann window, Slaney's filters."""
    spectrum: Tensor = _mel(n_mels)(wav)  # (m, n)
    return spectrum.T


def cepstrum(wav: Tensor, *, num: int) -> Tensor:
    """Return mel-frequency cepstral coefficients 1 to `num` (n, num) of a waveform at `RATE`, c0 left out.

    Mel energies more than 30 dB below the clip's mean do not count: they are noise or the lack of it.
    """
    mel = mel_power(wav)
    log_mel = (mel + FLOOR * mel.mean() + 1e-12).log()  # (n, m)
    return log_mel @ _dct(num, log_mel.shape[1])


def _runs(mask: Tensor) -> list[tuple[int, int]]:
    """Return where a mask (n,) is true, as half-open ranges of frames."""
    padded = torch.nn.functional.pad(mask.int(), (1, 1))
    changes = padded.diff()
    starts, ends = (changes == 1).nonzero()[:, 0], (changes == -1).nonzero()[:, 0]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


@functools.cache
def _mel(n_mels: int) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        RATE,
        n_fft=int(WINDOW_S * RATE),
        hop_length=int(HOP_S * RATE),
        n_mels=n_mels,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )


@functools.cache
def _dct(num: int, n_mels: int) -> Tensor:
    """Return the orthonormal DCT-II (n_mels, num) without its constant term."""
    basis: Tensor = torchaudio.functional.create_dct(num + 1, n_mels, norm="ortho")
    return basis[:, 1:]
