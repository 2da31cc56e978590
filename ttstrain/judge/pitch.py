"""The pitch of a voice: median and spread of the fundamental frequency, by swift-f0 (extra `judge`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ttstrain.contract.task import Audio
from ttstrain.judge.waveform import RATE, at_rate

LOWEST_HZ, HIGHEST_HZ = 50.0, 600.0  # of a speaking voice
FRAME_S = 0.016
SHORTEST_S = 0.3  # of voiced speech
MISSING = "pitch is not measured: install `ttstrain[judge]`, which brings swift-f0"


@dataclass(frozen=True, slots=True)
class Pitch:
    """The fundamental frequency of a clip's voiced frames."""

    median_hz: float
    spread: float  # semitones from the 10th to the 90th percentile


class PitchDetector(Protocol):
    """What finds the fundamental frequency."""

    def voiced_hz(self, audio: Audio) -> np.ndarray:
        """Return the frequency of every voiced frame of 16 ms, in Hz."""
        ...


class SwiftPitch:
    """swift-f0: a small ONNX net whose weights are in its package; one thread."""

    def __init__(self) -> None:
        from swift_f0 import SwiftF0

        self.detector = SwiftF0(threads=1, spin=False)

    def voiced_hz(self, audio: Audio) -> np.ndarray:
        found = self.detector.detect(at_rate(audio).numpy(), RATE, fmin=LOWEST_HZ, fmax=HIGHEST_HZ)
        voiced: np.ndarray = found.pitch_hz[found.confidence >= 0.5]  # calibrated so by its authors
        return voiced


def open_pitch() -> PitchDetector | None:
    """Return the detector; None where swift-f0 is not installed."""
    try:
        return SwiftPitch()
    except ImportError:
        return None


def pitch(audio: Audio, detector: PitchDetector) -> Pitch | None:
    """Measure a clip; None with less than 0.3 s of voiced speech."""
    voiced = detector.voiced_hz(audio)
    if len(voiced) * FRAME_S < SHORTEST_S:
        return None
    low, median, high = np.quantile(voiced, [0.1, 0.5, 0.9])
    return Pitch(float(median), semitones(float(high), float(low)))


def semitones(hz: float, reference_hz: float) -> float:
    """Return the interval from `reference_hz` to `hz` in semitones."""
    return 12 * math.log2(hz / reference_hz)
