"""Where people speak in a recording: the probability of speech every 32 ms, by the net of Silero VAD.

The net is that of the package `silero-vad` (extra `raw`, MIT), the file that takes many frames at once, run by
onnxruntime. It is found without importing the package, which would set torch's number of threads.

Legend: s samples at 16 kHz, n frames of 512 samples.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.errors import RecipeError

NET = Path("data") / "silero_vad_16k_sequence.onnx"
RATE = 16_000  # Hz
FRAME = 512  # samples
CONTEXT = 64  # samples before a frame that the net sees too
SIZE = 128  # of the net's state
FRAMES_AT_ONCE = 4096  # 2 minutes
ON, OFF = 0.5, 0.35  # speech begins above the first and ends below the second, as in the package
SHORTEST_SPEECH_S = 0.1  # shorter bursts are clicks
INSTALL = "install `ttstrain[raw]`, which brings silero-vad and onnxruntime"


class Stretch(NamedTuple):
    """A part of a recording, in seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@functools.cache
def open_vad() -> Any:
    """Open the net once per process. Raises RecipeError without the packages."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None or importlib.util.find_spec("onnxruntime") is None:
        raise RecipeError("cutting recordings needs silero-vad and onnxruntime", hint=INSTALL)
    path = Path(found.origin).parent / NET
    if not path.is_file():
        raise RecipeError(f"the silero-vad that is installed has no `{NET.name}`: it is older than 6.2.3", hint=INSTALL)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: it warns of every machine without a GPU
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def speech_probabilities(wav: Tensor) -> Tensor:
    """Return the probability of speech in each frame (n,) of a recording (s,) at 16 kHz."""
    net = open_vad()
    n = -(-len(wav) // FRAME)
    padded = F.pad(wav, (CONTEXT, n * FRAME - len(wav)))
    hidden = cell = np.zeros((1, 1, SIZE), np.float32)
    found: list[Tensor] = []
    frames = padded.unfold(0, CONTEXT + FRAME, FRAME) if n else padded.new_zeros(0, CONTEXT + FRAME)  # (n, 576)
    for first in range(0, n, FRAMES_AT_ONCE):
        block = frames[first : first + FRAMES_AT_ONCE]
        inputs = {"input": block.numpy(), "h": hidden, "c": cell}
        values, hidden, cell = net.run(["speech_probs", "hn", "cn"], inputs)
        found.append(torch.from_numpy(values))
    return torch.cat(found) if found else torch.zeros(0)


def stretches(probabilities: Tensor) -> list[Stretch]:
    """Return where speech is, by its probability in each frame (n,)."""
    found: list[Stretch] = []
    begun: int | None = None
    values = [*probabilities.tolist(), 0.0]
    for number, value in enumerate(values):
        if begun is None and value >= ON:
            begun = number
        elif begun is not None and value < OFF:
            stretch = Stretch(begun * FRAME / RATE, number * FRAME / RATE)
            if stretch.duration_s >= SHORTEST_SPEECH_S:
                found.append(stretch)
            begun = None
    return found
