"""What is told about a recording and its clips: loudness, noise under the speech, sound that is no speech.

Legend: s samples at 16 kHz, n frames of 32 ms.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.recordings.speech import FRAME, RATE, Stretch

NO_SPEECH = 0.2  # probability below which a frame is a pause
SPEECH = 0.5
TAIL_FRAMES = 3  # on either side of speech, where it dies away
DIGITAL_SILENCE_DB = -95.0  # a quieter pause holds no sound of the room
AROUND_S = 20.0  # in which pauses tell of the noise under a clip
LOUD_RANGE_DB = 20.0  # sound without speech counts when it is at most so much below the speech
SHORTEST_LOUDNESS_S = 0.5  # BS.1770 measures blocks of 0.4 s
SILENT_DB = -60.0


@dataclass(frozen=True, slots=True)
class Sound:
    """Levels and speech of a recording, frame by frame."""

    levels: Tensor  # (n,) dB of full scale
    speech: Tensor  # (n,) probability

    @property
    def is_silent(self) -> bool:
        return bool(self.levels.quantile(0.99) < SILENT_DB)

    def loud_share(self) -> float:
        """Return the share of the recording that is loud and no speech: music, applause, noise."""
        spoken = self.levels[self.speech > SPEECH]
        level = float(spoken.median()) if len(spoken) else float(self.levels.quantile(0.95))
        loud = self._pauses() & (self.levels > level - LOUD_RANGE_DB)
        return float(loud.float().mean())

    def _pauses(self) -> Tensor:
        """Return which frames (n,) are pauses, without the ends of words beside them."""
        heard = (self.speech >= NO_SPEECH).float()[None, None]
        near: Tensor = F.max_pool1d(heard, 2 * TAIL_FRAMES + 1, stride=1, padding=TAIL_FRAMES)
        return near[0, 0] == 0

    def snr_db(self, part: Stretch) -> float | None:
        """Return how far a part's speech is above the pauses around it, in dB; None without pauses that hold sound."""
        first, last = (round(second * RATE / FRAME) for second in part)
        spoken = self.levels[first:last][self.speech[first:last] > SPEECH]
        reach = round(AROUND_S * RATE / FRAME)
        near = slice(max(0, first - reach), last + reach)
        pauses = self.levels[near][self._pauses()[near]]
        pauses = pauses[pauses > DIGITAL_SILENCE_DB]
        if not len(spoken) or len(pauses) < 3:
            return None
        return 10 * math.log10(_power(spoken)) - float(
            pauses.quantile(0.25)
        )  # soft speech that was not heard is no noise


def sound_of(wav: Tensor, speech: Tensor) -> Sound:
    """Measure a recording (s,) with its probabilities of speech (n,)."""
    frames = F.pad(wav, (0, len(speech) * FRAME - len(wav))).view(-1, FRAME)
    return Sound(10 * frames.square().mean(1).clamp(min=1e-12).log10(), speech)


def _power(levels: Tensor) -> float:
    return float((10 ** (levels / 10)).mean())


class LoudnessMeter:
    """Integrated loudness by ITU-R BS.1770-4, as pyloudnorm measures it."""

    def __init__(self) -> None:
        try:
            import pyloudnorm
        except ImportError as error:
            raise RecipeError(
                "measuring loudness needs pyloudnorm", hint="install `ttstrain[raw]`, which brings it"
            ) from error
        self._meter = pyloudnorm.Meter(RATE)

    def lufs(self, wav: Tensor) -> float | None:
        """Return the loudness of a waveform (s,) in LUFS; None below 0.5 s and for silence."""
        if len(wav) < SHORTEST_LOUDNESS_S * RATE:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the logarithm of digital silence
            found = float(self._meter.integrated_loudness(wav.to(torch.float64).numpy()))
        return found if math.isfinite(found) else None
