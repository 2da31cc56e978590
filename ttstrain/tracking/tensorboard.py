"""TensorBoard, for those who like it: the same names, read from the run's `tensorboard` folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from ttstrain.errors import RecipeError
from ttstrain.tracking import spectrogram
from ttstrain.tracking.tracker import RunInfo, Spoken, Weights


class TensorboardTracker:
    """Writes event files, in single precision: their format knows no other for a plain number."""

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise RecipeError(
                "`tracking.tensorboard` needs the package tensorboard", hint="pip install 'ttstrain[tensorboard]'"
            )
        self._writer: Any = None  # torch.utils.tensorboard.SummaryWriter
        self._step = 0

    def start(self, info: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = info.start_step + 1 if info.resumed else None  # hides what was recorded after the checkpoint
        self._writer = SummaryWriter(log_dir=str(info.run_dir / "tensorboard"), purge_step=purge_step)
        self._step = info.start_step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = step
        # One event for all values: `add_scalar` would take ten times as long.
        summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        self._writer.file_writer.add_summary(summary, step)

    def sample(self, step: int, name: str, text: str, spoken: Mapping[Weights, Spoken]) -> None:
        self._writer.add_text(f"sample/text/{name}", text, step)
        for weights, one in spoken.items():
            if one.sample is None:
                continue
            key = name if weights == "online" else f"{name}.{weights}"
            self._writer.add_audio(f"sample/audio/{key}", one.sample.audio.wav, step, one.sample.audio.sample_rate)
            if one.sample.mel is not None:
                picture = spectrogram.picture(one.sample.mel)
                self._writer.add_image(f"sample/mel/{key}", picture, step, dataformats="HWC")

    def incident(self, step: int, kind: str, message: str) -> None:
        self._writer.add_text(f"incident/{kind}", message, step)

    def note(self, message: str) -> None:
        self._writer.add_text("note", message, self._step)

    def finish(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
