"""The TensorBoard tracker: the keys of `metrics.jsonl`, in the run's `tensorboard` folder."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

from ttstrain.errors import RecipeError
from ttstrain.tracking import spectrogram
from ttstrain.tracking.tracker import RunInfo, Spoken, SpokenBy, Tracker

REOPEN_S = 60.0  # wait after a failure, such as a full disk, until a new writer: a failed one cannot write again


class TensorboardTracker(Tracker):
    """Writes event files, in single precision: the format has no other for a plain number."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise RecipeError(
                "`tracking.tensorboard` needs the package tensorboard", hint="pip install 'ttstrain[tensorboard]'"
            )
        self._clock = clock
        self._writer: Any = None  # torch.utils.tensorboard.SummaryWriter, None after a failure
        self._reopen_at = 0.0
        self._folder = ""
        self._step = 0

    def start(self, info: RunInfo) -> None:
        self._folder = str(info.run_dir / "tensorboard")
        self._step = info.start_step
        # After a resume, TensorBoard hides what was recorded after the checkpoint.
        self._open(purge_step=info.start_step + 1 if info.resumed else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = step
        # One event for all values: `add_scalar` would take ten times as long.
        summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        self._write(lambda writer: writer.file_writer.add_summary(summary, step))

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        self._write(lambda writer: _add_sample(writer, step, name, text, spoken))

    def incident(self, step: int, kind: str, message: str) -> None:
        self._write(lambda writer: writer.add_text(f"incident/{kind}", message, step))

    def note(self, message: str) -> None:
        self._write(lambda writer: writer.add_text("note", message, self._step))

    def warn(self, message: str, *, shown: bool = False) -> None:
        if self._folder:  # before the start there is nowhere to write
            self._write(lambda writer: writer.add_text("warning", message, self._step))

    def finish(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, *, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=self._folder, purge_step=purge_step)

    def _write(self, write: Callable[[Any], None]) -> None:
        """Write, or raise the writer's error; `REOPEN_S` later a new writer continues in a new file."""
        if self._writer is None:
            if self._clock() < self._reopen_at:
                return
            self._reopen_at = self._clock() + REOPEN_S
            self._open()
        try:
            write(self._writer)
        except Exception:
            self._writer = None  # not closed: that would wait for a thread that is dead
            self._reopen_at = self._clock() + REOPEN_S
            raise


def _add_sample(writer: Any, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
    writer.add_text(f"sample/text/{name}", text, step)
    for weights, one in spoken.items():
        if one.sample is None:
            continue
        key = name if weights == "online" else f"{name}.{weights}"
        writer.add_audio(f"sample/audio/{key}", one.sample.audio.wav, step, one.sample.audio.sample_rate)
        if one.sample.mel is not None:
            picture = spectrogram.picture(one.sample.mel)
            writer.add_image(f"sample/mel/{key}", picture, step, dataformats="HWC")
