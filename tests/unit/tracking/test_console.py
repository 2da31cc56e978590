"""A person sees what happens, at 80 columns, and stdout stays free for data."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ttstrain.tracking.console import MEDIAN_STEPS, PLAIN_LINES, ConsoleTracker, duration, fill, number
from ttstrain.tracking.tracker import RunInfo, Spoken

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A console that a test can read."""

    def __init__(self, *, terminal: bool = False, width: int = 80) -> None:
        self.file = io.StringIO()
        self.clock = Clock()
        console = Console(file=self.file, force_terminal=terminal, width=width, highlight=False, _environ={})
        self.tracker = ConsoleTracker(console, clock=self.clock)

    @property
    def lines(self) -> list[str]:
        return ANSI.sub("", self.file.getvalue()).splitlines()

    def log(self, step: int, *, seconds: float = 1.0, **values: float) -> None:
        self.clock.now += seconds
        self.tracker.log(step, values or step_values(step))


def info(run_dir: Path, *, total: int = 100, start_step: int = 0, resumed: bool = False) -> RunInfo:
    return RunInfo(
        name="test",
        run_dir=run_dir,
        run_id="test",
        resumed=resumed,
        recipe={},
        plan_summary=("a plan [in brackets]",),
        total_steps=total,
        start_step=start_step,
        steps_per_epoch=5.0,
    )


def step_values(step: int, *, groups: int = 1, losses: tuple[str, ...] = ("total",)) -> dict[str, float]:
    return {
        **{f"train/loss/{name}": 1 / step for name in losses},
        **{f"optim/lr/model/group{group}": 1e-5 * 0.9**group for group in range(groups)},
        "optim/grad_norm/model": 0.83,
        "perf/frames_per_s": 2345.6,
    }


@pytest.fixture
def screen() -> Iterator[Screen]:
    yield Screen()


def test_a_line_names_step_loss_median_lr_grad_norm_speed_and_time_left(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(replace(info(tmp_path, total=10), recipe={"task": "orpheus"}))
    for step in range(1, 6):
        screen.log(step, seconds=2.0)
    text = "\n".join(screen.lines)
    assert "step 5/10  loss 0.2000 (0.3333)  grad 0.83\n" in text  # the median of 1, 1/2, 1/3, 1/4 and 1/5
    assert screen.lines[-1] == "  lr 1.00e-05  2,346 tokens/s  0:10 left"


def test_the_start_says_what_the_numbers_mean(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    assert screen.lines[0].startswith("run test starts: 100 steps")
    assert screen.lines[1] == "a plan [in brackets]"
    assert screen.lines[2] == f"losses: of the last step (median of the last {MEDIAN_STEPS})"


@pytest.mark.parametrize("groups", [1, 2, 3, 26])
@pytest.mark.parametrize("losses", [("total",), ("generator", "discriminator")])
def test_plain_lines_keep_to_80_columns(screen: Screen, tmp_path: Path, groups: int, losses: tuple[str, ...]) -> None:
    screen.tracker.start(info(Path("runs/test"), total=1_200_000))
    for step in (1, 24_000, 1_200_000):
        screen.log(step, **step_values(step, groups=groups, losses=losses))
    assert max(map(len, screen.lines)) <= 80


def test_few_groups_are_named_and_many_are_a_range(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    screen.log(1, **step_values(1, groups=2))
    assert "lr group0 1.00e-05, group1 9.00e-06" in screen.lines[-1]
    screen.log(2, **step_values(2, groups=26))
    assert "lr 7.18e-07 to 1.00e-05 (26 groups)" in screen.lines[-1]


def test_groups_of_several_optimizers_are_told_apart(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    lrs = {"optim/lr/generator/text": 1e-4, "optim/lr/generator/flow": 3e-4, "optim/lr/discriminator/default": 2e-4}
    screen.log(1, **{"train/loss/total": 1.0}, **lrs)
    text = "\n".join(screen.lines)
    assert "lr generator 1.00e-04 to 3.00e-04 (2 groups)  lr discriminator 2.00e-04" in text


def test_a_log_file_of_a_long_run_stays_short(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=100_000))
    for step in range(1, 100_001):
        screen.clock.now += 0.001
        screen.tracker.log(step, {"train/loss/total": 1.0})
    assert len(screen.lines) <= PLAIN_LINES + 5


def test_slow_steps_are_shown_each_minute(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=100_000))
    for step in range(1, 11):
        screen.log(step, seconds=31.0)
    shown = [line for line in screen.lines if line.startswith("step ")]
    assert [line.split("/")[0] for line in shown] == ["step 1", "step 3", "step 5", "step 7", "step 9"]


def test_a_nan_loss_is_shown_and_does_not_poison_the_median(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=3))
    for step, loss in enumerate([1.0, math.nan, 3.0], start=1):
        screen.log(step, **{"train/loss/total": loss})
    assert "step 2/3  loss nan (1.0000)" in "\n".join(screen.lines)
    assert "step 3/3  loss 3.0000 (2.0000)" in "\n".join(screen.lines)


@pytest.mark.parametrize("start_step", [0, 40])
def test_time_left_does_not_count_what_came_before_the_first_step(
    screen: Screen, tmp_path: Path, start_step: int
) -> None:
    screen.tracker.start(info(tmp_path, total=100, start_step=start_step))
    screen.log(start_step, seconds=60.0, **{"eval/loss/total": 1.0})
    screen.log(start_step, seconds=60.0, **{"sample/mel_distance/mean": 1.0})
    screen.log(start_step + 1, seconds=2.0)
    assert screen.lines[-1].endswith(f"  {'3:18' if start_step == 0 else '1:58'} left")  # 99 or 59 steps of 2 s


def test_time_left_follows_the_pace_after_a_rollback(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=100))
    for step in (*range(1, 50), *range(30, 41)):
        screen.log(step, seconds=2.0)
    assert "2:00 left" in screen.lines[-1]  # 60 steps of 2 s


def test_an_evaluation_is_compared_with_base_and_best(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=1000))
    for step, loss in ((0, 0.634), (300, 0.5), (400, 0.512)):
        screen.log(step, **{"eval/loss/t0": 1.0, "eval/loss/total": loss, "eval/loss/t1": 2.0})
    shown = [line for line in screen.lines if "eval loss" in line]
    assert shown == [
        "step 0  eval loss 0.6340",
        "step 300  eval loss 0.5000 (base 0.6340, best so far)",
        "step 400  eval loss 0.5120 (base 0.6340, best 0.5000 at step 300)",
    ]
    assert screen.lines[-1] == "  t0 1.0000  t1 2.0000"


def test_a_resumed_run_remembers_base_and_best(screen: Screen, tmp_path: Path) -> None:
    rows = [(0, 0.9), (100, 0.4), (200, 0.5), (300, 0.1)]  # the last was after the checkpoint
    text = "".join(json.dumps({"step": step, "eval/loss/total": loss}) + "\n" for step, loss in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    screen.tracker.start(info(tmp_path, total=1000, start_step=200, resumed=True))
    screen.log(300, **{"eval/loss/total": 0.45})
    assert screen.lines[0].startswith("run test resumes at step 200")
    assert screen.lines[-1] == "step 300  eval loss 0.4500 (base 0.9000, best 0.4000 at step 100)"


def test_the_end_of_a_resumed_run_compares_samples_with_those_of_its_first_step(screen: Screen, tmp_path: Path) -> None:
    key = "sample/mel_distance/mean"
    rows = [(0, 1.4), (100, 1.2), (300, 9.0)]  # the last was after the checkpoint
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, key: far}) + "\n" for step, far in rows))
    screen.tracker.start(info(tmp_path, total=1000, start_step=200, resumed=True))
    screen.log(300, **{key: 1.1})
    screen.tracker.finish("done")
    assert "  mel distance of samples: 1.4000 at step 0, 1.1000 at step 300" in screen.lines


def test_samples_incidents_and_notes_are_shown_as_written(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    folder = Path("runs/test/samples/a rather long name of a folder, to see that paths are not broken/step-00000050")
    screen.tracker.sample(50, "a", "Hello [bold]there[/bold]. " * 9, {"online": Spoken(folder / "a.wav", 1.5)})
    screen.tracker.incident(51, "skipped", "loss is nan, clips [a], [/b]")
    screen.tracker.note("checkpoint :smile: [x]")
    path, said, incident, note = screen.lines[-4:]
    assert path == f"step 50  samples in {folder}"
    assert said.startswith("  a  1.5 s  Hello [bold]there[/bold]. Hello")
    assert len(said) == 80
    assert incident == "step 51  skipped: loss is nan, clips [a], [/b]"
    assert note == "checkpoint :smile: [x]"


def test_a_preview_is_one_line_with_all_three_distances(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    online = Spoken(tmp_path / "a.wav", 4.2, mel_distance=0.8123, duration_ratio=1.04)
    ema = Spoken(tmp_path / "a.ema.wav", 4.2, mel_distance=0.7981, duration_ratio=1.04)
    base = Spoken(tmp_path / "a.base.wav", 4.4, mel_distance=1.412, duration_ratio=1.1)
    for name in ("LJ042-0110", "LJ042-0111-with-a-name-that-leaves-no-room"):
        screen.tracker.sample(50, name, "Printing, in the only sense", {"online": online, "ema": ema, "base": base})
    numbers = "4.2 s (1.04x)  mel 0.812, ema 0.798, base 1.412"
    assert screen.lines[-2] == f"  LJ042-0110  {numbers}  Printing, in the…"
    assert len(screen.lines[-2]) <= 80
    assert screen.lines[-1] == f"  LJ042-0111-with-a-name-that-leaves-no-room  {numbers}"
    screen.log(50, **{"sample/mel_distance/mean": 0.8, "sample/base_mel_distance/mean": 1.4})
    assert screen.lines[-1] == "step 50  mel distance of the samples to the recordings 0.800, base 1.400"


def test_the_end_counts_steps_and_not_the_lines_that_were_logged(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    for step in range(10, 101, 10):
        screen.log(step, **{"train/loss/total": 1.0})
    screen.tracker.finish("done")
    assert any(line.startswith("done: step 100/100, 100 steps in ") for line in screen.lines)


def test_the_end_says_how_it_went_and_where_things_are(screen: Screen, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "best").write_text("step-00000050\n")
    screen.tracker.start(info(tmp_path))
    for step in range(1, 101):
        screen.log(step, **{"train/loss/total": 1.0 if step <= 50 else 0.25})
        if step % 50 == 0:
            screen.log(step, seconds=0, **{"eval/loss/total": 0.5 + step / 1000})
    screen.tracker.incident(77, "skipped", "loss is nan")
    before = len(screen.lines)
    screen.tracker.finish("done")
    assert screen.lines[before:] == [
        "done: step 100/100, 100 steps in 1:40",
        f"  train loss total: 1.0000 to 0.2500 (medians of {MEDIAN_STEPS})",
        "  eval loss: 0.5500 at step 50, 0.6000 at step 100, best 0.5500 at step 50",
        f"  incidents: skipped 1 ({tmp_path}/incidents)",
        f"  run: {tmp_path}",
        f"  best checkpoint: {checkpoints}/step-00000050",
    ]


@pytest.mark.parametrize(("averaged", "winner"), [(0.4, "the EMA weights"), (0.6, "the raw weights")])
def test_the_end_names_what_an_export_would_take(screen: Screen, tmp_path: Path, averaged: float, winner: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best").write_text("step-00000003\n")
    screen.tracker.start(replace(info(tmp_path), recipe={"task": "flow"}))
    screen.tracker.log(3, {"eval/loss/total": 0.5, "eval/ema_loss/total": averaged})
    screen.tracker.log(6, {"eval/loss/total": 0.7, "eval/ema_loss/total": 0.1})
    screen.tracker.finish("done")
    assert screen.lines[-2:] == [
        f"  export: ttstrain export {tmp_path} -o {tmp_path / 'export'}",
        f"    it writes {winner}: eval loss ema {averaged:.4f}, online 0.5000 at step 3",
    ]


def test_a_short_run_compares_its_first_half_with_its_last(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path, total=4))
    for step, loss in enumerate((4.0, 3.0, 2.0, 1.0), start=1):
        screen.log(step, **{"train/loss/model": loss})
    screen.tracker.finish("done")
    assert "  train loss model: 3.5000 to 1.5000 (medians of 2)" in screen.lines


def test_a_run_that_was_stopped_says_how_to_go_on(screen: Screen, tmp_path: Path) -> None:
    screen.tracker.start(info(tmp_path))
    screen.tracker.finish("stopped")
    assert screen.lines[-1] == f"  resume with: ttstrain resume {tmp_path}"


# ---------------------------------------------------------------- on a terminal


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_panel_never_exceeds_the_terminal(tmp_path: Path, width: int) -> None:
    screen = Screen(terminal=True, width=width)
    screen.tracker.start(info(Path("runs/test"), total=1_200_000))
    for step in range(1, 4):
        values = step_values(step, groups=26, losses=("generator", "discriminator"))
        screen.log(step, **values, **{"eval/loss/total": 0.5})
    drawn = [line for chunk in screen.file.getvalue().split("\r") for line in ANSI.sub("", chunk).splitlines()]
    panels = [line for line in drawn if not line.startswith(("run ", "losses", "a plan"))]
    assert any(line.startswith("step 3/1200000 ") for line in panels)
    assert max(map(len, panels)) <= width


def test_the_panel_is_redrawn_a_few_times_a_second_at_most(tmp_path: Path) -> None:
    screen = Screen(terminal=True)
    screen.tracker.start(info(tmp_path, total=10_000))
    for step in range(1, 1001):
        screen.clock.now += 0.01
        screen.tracker.log(step, step_values(step))
    assert 10 <= screen.file.getvalue().count("/10000") <= 25


def test_the_panel_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    screen = Screen(terminal=True)
    screen.tracker.start(info(tmp_path))
    for step in range(1, 101):
        screen.log(step)
        if step == 50:
            screen.tracker.note("between")
    screen.tracker.finish("done")
    written = screen.file.getvalue()
    assert "\x1b[2J" not in written  # never clears the screen: that flickers
    assert "\x1b[?1049h" not in written  # nor leaves it for another one
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back
    assert written.index("between") < written.rindex("step 51/100")


def test_a_failed_run_gives_the_terminal_back_before_the_first_step(tmp_path: Path) -> None:
    screen = Screen(terminal=True)
    screen.tracker.start(info(tmp_path))
    screen.tracker.finish("failed")
    assert screen.file.getvalue().rindex("\x1b[?25h") > screen.file.getvalue().rindex("\x1b[?25l")


# ---------------------------------------------------------------- elsewhere

SCRIPT = """
import sys
from pathlib import Path
from ttstrain.tracking.console import ConsoleTracker
from ttstrain.tracking.tracker import RunInfo
tracker = ConsoleTracker()
tracker.start(RunInfo("t", Path("runs/t"), "t", False, {}, (), 20, 0, 1.0))
for step in range(1, 21):
    tracker.log(step, {"train/loss/total": 1 / step, "optim/lr/model/default": 1e-5, "perf/frames_per_s": 1e5})
print("data")
tracker.finish("done")
print("torch" in sys.modules, "wandb" in sys.modules)
"""


def test_stdout_is_left_to_data_and_a_log_file_gets_no_escapes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout == "data\nFalse False\n"
    assert "\x1b" not in result.stderr
    assert max(map(len, result.stderr.splitlines())) <= 80
    assert result.stderr.splitlines()[-1] == "  run: runs/t"


def test_pieces_fill_lines_and_are_never_cut() -> None:
    pieces = ["alpha", "beta", "gamma", "delta"]
    assert fill(pieces, width=80) == ["alpha  beta  gamma  delta"]
    assert fill(pieces, width=14) == ["alpha  beta", "  gamma  delta"]
    assert fill([], width=80) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.61234, "0.6123"), (0.0, "0.0000"), (12.3456, "12.3456"), (1234.5, "1.234e+03"), (1e-5, "1.000e-05")],
)
def test_losses_of_any_size_are_readable(value: float, shown: str) -> None:
    assert number(value) == shown
    assert number(-value).lstrip("-") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (360000, "100:00:00")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_line_for_each_tracker_in_turn_and_the_last_word_to_the_first(tmp_path: Path) -> None:
    from ttstrain.tracking.tracker import Trackers

    heard: list[Any] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getattr__(self, event: str) -> Any:
            return lambda *args: heard.append((self.name, event, *args))

    trackers: Any = Trackers([Listener("a"), Listener("b")])  # type: ignore[list-item]
    trackers.log(1, {"x": 1.0})
    trackers.note("n")
    trackers.finish("done")
    assert heard == [
        ("a", "log", 1, {"x": 1.0}),
        ("b", "log", 1, {"x": 1.0}),
        ("a", "note", "n"),
        ("b", "note", "n"),
        ("b", "finish", "done"),
        ("a", "finish", "done"),
    ]
