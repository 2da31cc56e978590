"""TensorBoard shows the same names and values."""

from __future__ import annotations

import errno
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ttstrain.contract.task import Audio, Sample
from ttstrain.errors import RecipeError
from ttstrain.tracking.tensorboard import REOPEN_S, TensorboardTracker
from ttstrain.tracking.tracker import RunInfo, Spoken, SpokenBy

with_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")


def info(run_dir: Path, *, start_step: int = 0) -> RunInfo:
    return RunInfo(
        name="test",
        run_dir=run_dir,
        run_id="test",
        resumed=start_step > 0,
        recipe={},
        plan_summary=(),
        total_steps=10,
        start_step=start_step,
        steps_per_epoch=5.0,
    )


def events(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return accumulator


@with_tensorboard
def test_values_are_read_back_in_single_precision(tmp_path: Path) -> None:
    tracker = TensorboardTracker()
    tracker.start(info(tmp_path))
    for step in (1, 2, 3):
        tracker.log(step, {"optim/lr/model/default": 1e-5 / 3 * step, "guard/skipped": step})
    tracker.finish("done")
    read = events(tmp_path)
    assert set(read.Tags()["scalars"]) == {"optim/lr/model/default", "guard/skipped"}
    lrs = [(event.step, event.value) for event in read.Scalars("optim/lr/model/default")]
    assert lrs == [(step, torch.tensor(1e-5 / 3 * step).item()) for step in (1, 2, 3)]


@with_tensorboard
def test_a_resume_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    for start_step, loss in ((0, 1.0), (3, 2.0)):
        tracker = TensorboardTracker()
        tracker.start(info(tmp_path, start_step=start_step))
        for step in range(start_step + 1, 7):
            tracker.log(step, {"train/loss/total": loss})
        tracker.finish("done")
    read = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss/total")]
    assert read == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


@with_tensorboard
def test_samples_incidents_and_notes_are_kept(tmp_path: Path) -> None:
    tracker = TensorboardTracker()
    tracker.start(info(tmp_path))
    sample = Sample(Audio(torch.zeros(240), 24000), torch.zeros(50, 100))
    spoken: dict[SpokenBy, Spoken] = {
        "online": Spoken(tmp_path / "a.wav", 0.01, sample),
        "ema": Spoken(tmp_path / "a.ema.wav", 0.01, sample),
        "base": Spoken(tmp_path / "a.base.wav", 0.01),  # spoken at an earlier step
    }
    tracker.sample(5, "a", "Hello.", spoken)
    tracker.incident(6, "skipped", "loss is nan")
    tracker.note("a checkpoint")
    tracker.finish("done")
    tags = events(tmp_path).Tags()
    assert tags["audio"] == ["sample/audio/a", "sample/audio/a.ema"]
    assert tags["images"] == ["sample/mel/a", "sample/mel/a.ema"]
    assert {name.removesuffix("/text_summary") for name in tags["tensors"]} == {
        "sample/text/a",
        "incident/skipped",
        "note",
    }


def test_a_missing_package_is_a_recipe_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        TensorboardTracker()
    assert "ttstrain[tensorboard]" in str(caught.value.hint)


@with_tensorboard
def test_after_a_failure_a_new_writer_goes_on_a_while_later(tmp_path: Path) -> None:
    now = [0.0]
    tracker = TensorboardTracker(clock=lambda: now[0])
    tracker.start(info(tmp_path))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker._writer.file_writer.add_summary = fail
    with pytest.raises(OSError, match="No space"):
        tracker.log(1, {"train/loss/model": 1.0})
    tracker.log(2, {"train/loss/model": 2.0})  # left out
    now[0] += REOPEN_S + 1
    tracker.log(3, {"train/loss/model": 3.0})
    tracker.finish("done")
    assert [event.step for event in events(tmp_path).Scalars("train/loss/model")] == [3]


@with_tensorboard
def test_a_warning_is_a_text_of_its_own_at_the_step_it_came(tmp_path: Path) -> None:
    tracker = TensorboardTracker()
    tracker.warn("before there is a folder")
    tracker.start(info(tmp_path))
    tracker.log(4, {"train/loss/total": 1.0})
    tracker.warn("a process that loads data was killed")
    tracker.finish("done")
    [event] = events(tmp_path).Tensors("warning/text_summary")
    assert (event.step, event.tensor_proto.string_val[0]) == (4, b"a process that loads data was killed")
