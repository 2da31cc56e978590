"""How much the spectrum of speech changes over time: speech whose contrast is far below the recordings' is blurred.

A net that was destroyed, or that learned little, answers with an average of all sounds: a steady hum whose cepstral
distance is *small*, whose voice is about right and whose words are none. Speech synthesis knows this as the loss of
global variance (Toda and Tokuda 2007, "A speech parameter generation algorithm considering global variance for
HMM-based speech synthesis").

Legend: n frames, m mel bands.
"""

from __future__ import annotations

from torch import Tensor

RANGE = 2.5  # of log10 energy, 25 dB: frames that are quieter than the loudest by more are pauses
FLOOR = 6.0  # of log10 energy, 60 dB: a band is not quieter than the loudest by more, as digital silence would be
FEWEST_FRAMES = 40  # 0.3 s


def contrast(spectrum: Tensor) -> float | None:
    """Return the mean over mel bands of how far each spreads over time, in log10 energy; None for too little speech.

    `spectrum` (n, m) holds log10 mel energies, see `distance.spectrum`. The spread is the standard deviation over the
    frames that are no pauses, of each band relative to its frame's mean, so that the level alone makes no contrast.
    """
    bands = spectrum.clamp(min=float(spectrum.max()) - FLOOR)
    level = bands.mean(1)
    speech = level > level.max() - RANGE
    if int(speech.sum()) < FEWEST_FRAMES:
        return None
    shape = bands[speech] - level[speech, None]
    return float(shape.std(0).mean())
