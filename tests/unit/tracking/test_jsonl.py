"""metrics.jsonl survives what happens to runs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ttstrain.errors import DataError
from ttstrain.tracking import jsonl
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tracker import RunInfo


def info(run_dir: Path, *, start_step: int = 0, resumed: bool = False) -> RunInfo:
    return RunInfo(
        name="test",
        run_dir=run_dir,
        run_id="test-1",
        resumed=resumed,
        recipe={},
        plan_summary=(),
        total_steps=100,
        start_step=start_step,
        steps_per_epoch=10.0,
    )


def silent(message: str) -> None:
    pytest.fail(f"warned: {message}")


def record(run_dir: Path, steps: Any, *, resumed_at: int | None = None) -> Path:
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(run_dir, start_step=resumed_at or 0, resumed=resumed_at is not None))
    for step in steps:
        tracker.log(step, {"train/loss/total": 1 / step, "guard/rollbacks": 0})
    tracker.finish("done")
    return run_dir / "metrics.jsonl"


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_holds_the_step_first_then_keys_as_logged_with_exact_floats(tmp_path: Path) -> None:
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(tmp_path))
    values = {"train/loss/total": 0.1 + 0.2, "optim/lr/model/default": 1e-5 / 3, "guard/skipped": 2}
    tracker.log(7, values)
    tracker.finish("done")
    pairs = json.loads((tmp_path / "metrics.jsonl").read_text(), object_pairs_hook=list)
    assert pairs == [("step", 7), *values.items()]


def test_a_line_is_readable_as_soon_as_log_returns(tmp_path: Path) -> None:
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(tmp_path))
    tracker.log(1, {"a/b/c": 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "a/b/c": 1.0}\n'


def test_an_evaluation_joins_the_line_of_its_step(tmp_path: Path) -> None:
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(tmp_path))
    tracker.log(1, {"train/loss/total": 1.0})
    tracker.log(2, {"train/loss/total": 0.9})
    tracker.log(2, {"eval/loss/total": 0.8})
    tracker.log(3, {"train/loss/total": 0.7})
    assert jsonl.read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss/total": 1.0},
        {"step": 2, "train/loss/total": 0.9, "eval/loss/total": 0.8},
        {"step": 3, "train/loss/total": 0.7},
    ]


def test_steps_repeated_after_a_rollback_are_appended(tmp_path: Path) -> None:
    path = record(tmp_path, [1, 2, 3, 3, 2, 3, 4])
    assert steps_in(path) == [1, 2, 3, 3, 2, 3, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_null_in_valid_json_and_read_back_as_nan(tmp_path: Path, value: float) -> None:
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(tmp_path))
    tracker.log(1, {"train/loss/total": value})
    path = tmp_path / "metrics.jsonl"
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"step": 1, "train/loss/total": None}
    assert math.isnan(jsonl.read(path)[0]["train/loss/total"])


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "train/lo', b"\x00\x00"])
@pytest.mark.parametrize("cut", [0, 3, 7])
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path: Path, cut: int, torn: bytes) -> None:
    whole = record(tmp_path / "whole", range(1, 11)).read_bytes()
    path = record(tmp_path / "cut", range(1, 8))
    path.write_bytes(path.read_bytes() + torn)
    record(tmp_path / "cut", range(cut + 1, 11), resumed_at=cut)
    assert path.read_bytes() == whole


def test_resuming_where_no_line_was_logged_keeps_what_came_before(tmp_path: Path) -> None:
    path = record(tmp_path, [5, 10, 15])
    jsonl.trim(path, 13)
    assert steps_in(path) == [5, 10]


@pytest.mark.parametrize(
    ("logged", "step", "kept"),
    [
        ([1, 2, 3, 4, 2, 3, 4, 5], 4, [1, 2, 3, 4, 2, 3, 4]),  # saved again after the rollback
        ([1, 2, 3, 4, 5, 2, 3], 4, [1, 2, 3, 4]),  # not reached again: the checkpoint is the first one's
    ],
)
def test_resuming_after_a_rollback_keeps_the_story_up_to_the_checkpoint(
    tmp_path: Path, logged: list[int], step: int, kept: list[int]
) -> None:
    path = record(tmp_path, logged)
    jsonl.trim(path, step)
    assert steps_in(path) == kept


def test_a_new_run_in_a_used_folder_sets_the_old_file_aside(tmp_path: Path) -> None:
    old = record(tmp_path, [1, 2]).read_bytes()
    record(tmp_path, [1])
    record(tmp_path, [1])
    assert steps_in(tmp_path / "metrics.jsonl") == [1]
    assert (tmp_path / "metrics.1.jsonl").read_bytes() == old
    assert steps_in(tmp_path / "metrics.2.jsonl") == [1]


def test_a_course_that_is_left_keeps_its_file_and_gets_it_back(tmp_path: Path) -> None:
    path = record(tmp_path, range(1, 13))
    whole = path.read_bytes()
    assert jsonl.keep_course(path, 12) is None
    kept = jsonl.keep_course(path, 4)
    assert kept == tmp_path / "metrics.1.jsonl"
    assert kept.read_bytes() == whole
    record(tmp_path, (5, 6), resumed_at=4)
    other = path.read_bytes()
    again = jsonl.keep_course(path, 8)
    assert (again, path.read_bytes()) == (tmp_path / "metrics.2.jsonl", whole)
    assert (tmp_path / "metrics.2.jsonl").read_bytes() == other
    record(tmp_path, (9, 10), resumed_at=8)
    assert steps_in(path) == list(range(1, 11))
    assert jsonl.keep_course(path, 14) is None  # nobody knows a course that came so far
    assert jsonl.keep_course(tmp_path / "none.jsonl", 4) is None


def test_reading_names_a_damaged_line_and_leaves_a_torn_last_one_out(tmp_path: Path) -> None:
    path = record(tmp_path, [1, 2])
    path.write_bytes(path.read_bytes() + b'{"step": 3, "tr')
    assert [row["step"] for row in jsonl.read(path)] == [1, 2]
    path.write_bytes(b'{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 "):
        jsonl.read(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
class FullDisk:
    """A file that takes five more bytes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        self.file.write(data[:5])  # what fits
        with Path("/dev/full").open("wb", buffering=0) as full:
            return full.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room_again", ["for the next line", "at the end"])
def test_a_full_disk_warns_once_and_what_it_refused_is_written_later(tmp_path: Path, room_again: str) -> None:
    warnings: list[str] = []
    tracker = JsonlTracker(warn=warnings.append)
    tracker.start(info(tmp_path))
    tracker.log(1, {"a/b/c": 1.0})
    disk = tracker._file
    tracker._file = FullDisk(disk)  # type: ignore[assignment]
    tracker.log(1, {"a/b/d": 1.5})  # joins a line that is on the disk
    tracker.log(2, {"a/b/c": 2.0})
    tracker.log(2, {"a/b/d": 2.5})  # joins a line that waits
    tracker.log(3, {"a/b/c": 3.0})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 0
    tracker._file = disk
    if room_again == "for the next line":
        tracker.log(4, {"a/b/c": 4.0})
    tracker.finish("done")
    expected = [{"step": 1, "a/b/c": 1, "a/b/d": 1.5}, {"step": 2, "a/b/c": 2, "a/b/d": 2.5}, {"step": 3, "a/b/c": 3}]
    expected += [{"step": 4, "a/b/c": 4}] if room_again == "for the next line" else []
    assert jsonl.read(tmp_path / "metrics.jsonl") == expected
    assert len(warnings) == 1
    assert "No space left" in warnings[0]


def test_what_waits_for_a_full_disk_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MOST_WAITING", 100)
    tracker = JsonlTracker(warn=lambda message: None)
    tracker.start(info(tmp_path))
    disk = tracker._file
    tracker._file = FullDisk(disk)  # type: ignore[assignment]
    for step in range(1, 9):
        tracker.log(step, {"a/b/c": step})
    tracker._file = disk
    tracker.log(9, {"a/b/c": 9.0})
    tracker.log(10, {"a/b/c": 10.0})
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 9, 10]


def test_warnings_that_a_full_disk_refused_are_written_later(tmp_path: Path) -> None:
    tracker = JsonlTracker(warn=lambda message: None)
    tracker.start(info(tmp_path))
    (tmp_path / "warnings.jsonl").symlink_to("/dev/full")
    tracker.warn("first")
    tracker.warn("second")
    (tmp_path / "warnings.jsonl").unlink()
    tracker.log(1, {"a/b/c": 1.0})
    tracker.finish("done")
    lines = (tmp_path / "warnings.jsonl").read_text().splitlines()
    assert [json.loads(line)["warning"] for line in lines] == ["first", "second"]


WRITER = """
import sys
from pathlib import Path
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tracker import RunInfo
tracker = JsonlTracker(warn=print)
tracker.start(RunInfo("t", Path(sys.argv[1]), "t", False, {}, (), 10**9, 0, 1.0))
for step in range(1, 10**9):
    tracker.log(step, {f"train/metric/{i}": step / 3 for i in range(40)})
"""


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    path = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    data = path.read_bytes()
    assert data.endswith(b"}\n")
    assert [row["step"] for row in jsonl.read(path)] == list(range(1, data.count(b"\n") + 1))


def test_an_evaluation_that_a_resume_makes_up_for_joins_the_line_of_its_step(tmp_path: Path) -> None:
    record(tmp_path, [1, 2])
    tracker = JsonlTracker(warn=silent)
    tracker.start(info(tmp_path, start_step=2, resumed=True))
    tracker.log(2, {"eval/loss/total": 0.5})
    tracker.log(3, {"train/loss/total": 0.25})
    tracker.finish("done")
    rows = jsonl.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1] == {"step": 2, "train/loss/total": 0.5, "guard/rollbacks": 0, "eval/loss/total": 0.5}


def test_a_step_that_no_run_reaches_is_no_step(tmp_path: Path) -> None:
    """Python refuses to turn 5,000 digits into a number."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 3}\n{"step": ' + b"9" * 5000 + b"}\n")
    assert jsonl.last_step(path) == 3
    jsonl.trim(path, 3)
    assert path.read_bytes() == b'{"step": 3}\n'
