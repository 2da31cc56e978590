"""W&B gets the values unchanged, and no failure of W&B stops a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support import wandb_file
from tests.support.wandb_file import read_offline_run, run_files
from ttstrain.contract.task import Audio, Sample
from ttstrain.tracking import spectrogram, wandb, wandb_rows
from ttstrain.tracking.tracker import RunInfo, Spoken
from ttstrain.tracking.wandb import WandbNames, WandbTracker

pytestmark = pytest.mark.timeout(120)


class Heard:
    """What a person was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(autouse=True)
def _fresh_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No login, no home, no telemetry, and a service of the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_MODE", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in at a server that refuses connections."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nothing listens
    monkeypatch.setattr(wandb, "INIT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT_S", 2.0)


def info(run_dir: Path, *, start_step: int = 0, resumed: bool = False) -> RunInfo:
    run_dir.mkdir(exist_ok=True)
    return RunInfo(
        name="a run",
        run_dir=run_dir,
        run_id="run-7f3a",
        resumed=resumed,
        recipe={"task": "flow", "optim": {"lr": 1e-5}},
        plan_summary=(),
        total_steps=100,
        start_step=start_step,
        steps_per_epoch=10.0,
    )


def tracker(heard: Heard, mode: Any = "offline") -> WandbTracker:
    return WandbTracker(
        mode=mode, names=WandbNames("p", tags=["t"]), note=heard.notes.append, warn=heard.warnings.append
    )


def values(step: int) -> dict[str, float]:
    return {"optim/lr/model/default": 1e-5 / 3 * step, "train/loss/total": math.exp(-step), "guard/skipped": 0}


def logged(path: Path) -> list[dict[str, Any]]:
    """Read the rows that were logged, without what W&B adds."""
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in read_offline_run(path)]


def records(path: Path, kind: str) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    parsed = [wandb_internal_pb2.Record.FromString(data) for data in wandb_file.records(path.read_bytes())]
    return [getattr(record, kind) for record in parsed if record.WhichOneof("record_type") == kind]


def test_the_values_in_the_run_file_are_those_that_were_logged(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    steps = [1, 2, 3, 4, 5, 3, 4, 5, 6]  # rolled back to 2 after 5
    for step in steps:
        run.log(step, values(step))
    run.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert logged(file) == [{"step": step, **values(step)} for step in steps]
    assert heard.warnings == []
    assert str(file.parent.relative_to(tmp_path)) in heard.notes[0]


def test_a_row_of_hundreds_of_keys_is_read_back(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    row = {f"optim/lr/model/layers.{layer}": math.pi * layer for layer in range(1500)}  # more than a 32 KiB block
    run.log(1, row)
    run.finish("done")
    assert logged(run_files(tmp_path / "run", "run-7f3a")[0]) == [{"step": 1, **row}]


def test_every_metric_is_plotted_over_our_step(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    run.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    steps = {metric.name or metric.glob_name: metric.step_metric for metric in records(file, "metric")}
    assert steps.pop("step") == ""
    assert set(steps.values()) == {"step"}
    assert "*" in steps
    (header,) = records(file, "run")
    assert (header.run_id, header.project, header.display_name, list(header.tags)) == ("run-7f3a", "p", "a run", ["t"])
    config = {update.key: update.value_json for update in header.config.update}
    assert json.loads(config["optim"]) == {"lr": 1e-5}


def test_non_finite_values_are_logged_as_they_are(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    run.log(1, {"a": math.nan, "b": math.inf})
    run.finish("done")
    (row,) = logged(run_files(tmp_path / "run", "run-7f3a")[0])
    assert math.isnan(row["a"])
    assert row["b"] == math.inf


def test_a_resumed_run_continues_its_id_and_its_row_numbers(tmp_path: Path, heard: Heard) -> None:
    for start_step in (0, 3, 6):
        run = tracker(heard)
        run.start(info(tmp_path / "run", start_step=start_step, resumed=start_step > 0))
        for step in range(start_step + 1, start_step + 4):
            run.log(step, values(step))
        run.finish("preempted")
        time.sleep(1.1)  # W&B names its folders by the second
    files = run_files(tmp_path / "run", "run-7f3a")
    rows = [row for file in files for row in read_offline_run(file)]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["_step"] for row in rows] == list(range(9))
    assert {records(file, "run")[0].run_id for file in files} == {"run-7f3a"}


def test_a_killed_run_uses_no_row_number_again(tmp_path: Path, heard: Heard) -> None:
    kill = SCRIPT.replace('run.finish("done")', "import os; os.kill(os.getpid(), 9)")
    command = [sys.executable, "-c", kill, str(tmp_path / "run"), str(Path(__file__).parent), "offline"]
    assert subprocess.run(command, check=False, timeout=100).returncode == -signal.SIGKILL
    assert wandb_rows.read(tmp_path / "run") == 20
    run = tracker(heard)
    run.start(info(tmp_path / "run", start_step=19, resumed=True))
    run.log(20, values(20))
    run.finish("done")
    (row,) = read_offline_run(run_files(tmp_path / "run", "run-7f3a")[-1])
    assert (row["step"], row["_step"]) == (20, 20)


@pytest.mark.parametrize("content", [b"", b"-4", b"12\xff", b"9" * 40, b"1.5", "٣".encode()])
def test_a_damaged_number_counts_as_none(tmp_path: Path, content: bytes) -> None:
    wandb_rows.write(tmp_path, 12)
    assert wandb_rows.read(tmp_path) == 12
    (tmp_path / "wandb" / "next_row").write_bytes(content)
    assert wandb_rows.read(tmp_path) is None


def test_rows_go_on_beyond_those_of_a_run_that_kept_no_number(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    for step in range(1, 30):
        run.log(step, {"a": 1.0})
    run.finish("preempted")
    (tmp_path / "run" / "wandb" / "next_row").unlink()
    heard.notes.clear()
    time.sleep(1.1)  # W&B names its folders by the second
    run = tracker(heard)
    run.start(info(tmp_path / "run", start_step=29, resumed=True))
    for step in (30, 31):
        run.log(step, {"a": 1.0})
    run.finish("done")
    rows = read_offline_run(run_files(tmp_path / "run", "run-7f3a")[-1])
    assert [row["step"] for row in rows] == [30, 31]
    assert rows[0]["_step"] > 28
    assert rows[1]["_step"] == rows[0]["_step"] + 1
    assert [f"continue at number {rows[0]['_step']:,}," in note for note in heard.notes] == [True, False]


def test_a_number_that_cannot_be_kept_costs_warnings_and_no_step(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    (tmp_path / "run" / "wandb" / "next_row").mkdir()
    for step in (1, 2):
        run.log(step, values(step))
    run.finish("done")
    assert len(heard.warnings) == 2
    assert "is off" in heard.warnings[1]


def test_a_sample_is_kept_as_audio_and_as_a_picture(tmp_path: Path, heard: Heard) -> None:
    wav = tmp_path / "run" / "samples" / "a.wav"
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    wav.parent.mkdir()
    with wave.open(str(wav), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes(bytes(range(200)))
    mel = torch.linspace(-11, 2, 50 * 100).reshape(50, 100)
    run.sample(5, "a", "Hello [there].", {"online": Spoken(wav, 0.1, Sample(Audio(torch.zeros(100), 24000), mel))})
    run.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    (row,) = [row for row in logged(file) if "sample/audio/a" in row]
    assert row["step"] == 5
    media = file.parent / "files"
    assert (media / row["sample/audio/a"]["path"]).read_bytes() == wav.read_bytes()
    assert row["sample/audio/a"]["caption"] == "Hello [there]."
    with Image.open(media / row["sample/mel/a"]["path"]) as picture:
        assert picture.convert("RGB").tobytes() == spectrogram.picture(mel).tobytes()
    assert heard.warnings == []


def test_online_without_a_login_goes_on_offline_with_one_warning(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard, "online")
    run.start(info(tmp_path / "run"))
    run.log(1, values(1))
    run.finish("done")
    assert logged(run_files(tmp_path / "run", "run-7f3a")[0]) == [{"step": 1, **values(1)}]
    assert len(heard.warnings) == 1
    assert "wandb login" in heard.warnings[0]


def test_auto_without_a_login_is_offline_without_a_warning(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard, "auto")
    run.start(info(tmp_path / "run"))
    run.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert file.parent.name.startswith("offline-")
    assert heard.warnings == []


def test_auto_is_off_where_wandb_is_disabled(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = tracker(heard, "auto")
    run.start(info(tmp_path / "run"))
    run.log(1, values(1))
    run.finish("done")
    assert list((tmp_path / "run").iterdir()) == []
    assert heard.warnings == []


@pytest.mark.parametrize("entry", ["machine 127.0.0.1 login user password " + "0" * 40, None])
def test_auto_is_online_where_the_netrc_file_has_a_login(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, unreachable_server: None, entry: str | None
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    if entry:
        (tmp_path / "home" / ".netrc").write_text(entry)
    run = tracker(heard, "auto")
    run.start(info(tmp_path / "run"))
    run.finish("done")
    assert bool(heard.warnings) == bool(entry)  # it tried, and warned that it could not


def test_an_unreachable_server_costs_one_timeout_and_one_warning(
    tmp_path: Path, heard: Heard, unreachable_server: None
) -> None:
    run = tracker(heard, "online")
    begun = time.monotonic()
    run.start(info(tmp_path / "run"))
    assert time.monotonic() - begun < 15
    run.log(1, values(1))
    run.finish("done")
    assert len(heard.warnings) == 1
    file = run_files(tmp_path / "run", "run-7f3a")[-1]
    assert file.parent.name.startswith("offline-")
    assert logged(file) == [{"step": 1, **values(1)}]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the service through /proc")
def test_a_lost_service_costs_a_warning_and_no_later_row(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    run.log(1, values(1))
    time.sleep(1.1)
    os.kill(service_of(os.getpid()), signal.SIGKILL)
    step = 1
    while not heard.warnings:  # what was sent before the loss is noticed is gone
        step += 1
        assert step < 100
        run.log(step, values(step))
        time.sleep(0.05)
    run.log(step + 1, values(step + 1))
    run.finish("done")
    assert len(heard.warnings) == 1
    assert "continues offline" in heard.warnings[0]
    rows = logged(run_files(tmp_path / "run", "run-7f3a")[-1])
    assert rows == [{"step": again, **values(again)} for again in (step, step + 1)]


def test_a_second_failure_turns_it_off(tmp_path: Path, heard: Heard) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a defect\nwith details")

    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    run._run.log = fail
    run.log(1, values(1))
    assert run._run is not None
    run._run.log = fail
    for step in (2, 3):
        run.log(step, values(step))
        run.incident(step, "skipped", "nan")
    run.finish("done")
    assert len(heard.warnings) == 2
    assert "is off" in heard.warnings[1]
    assert "details" not in heard.warnings[1]


def test_a_broken_installation_is_one_warning(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        run = tracker(heard)
        run.start(info(tmp_path / "run"))
        run.log(1, values(1))
        run.finish("done")
    assert len(heard.warnings) == 1
    assert "is off" in heard.warnings[0]


def test_interrupts_are_not_swallowed(tmp_path: Path, heard: Heard) -> None:
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    kept, run._run = run._run, types.SimpleNamespace(log=lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run.log(1, values(1))
    kept.finish()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_wandb import Heard, info, tracker, values
from ttstrain.tracking import wandb
wandb.INIT_TIMEOUT_S = 2.0
run = tracker(Heard(), sys.argv[3])
run.start(info(Path(sys.argv[1])))
for step in range(20):
    run.log(step, values(step))
run.finish("done")
"""


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_itself_prints_nothing_and_asks_nothing(tmp_path: Path, mode: str, unreachable_server: None) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(Path(__file__).parent), mode]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert (result.stdout, result.stderr) == ("", "")


def service_of(parent: int) -> int:
    """Find the process id of the W&B service that a process started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and b"wandb-core" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise AssertionError("W&B runs no service")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the service through /proc")
def test_a_frozen_service_is_killed_and_does_not_hold_the_end_of_the_run(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(wandb, "LEAVE_S", 1.0)
    run = tracker(heard)
    run.start(info(tmp_path / "run"))
    run.log(1, values(1))
    service = service_of(os.getpid())
    os.kill(service, signal.SIGSTOP)
    try:
        began = time.monotonic()
        run.finish("done")
        assert time.monotonic() - began < 30
        assert not Path(f"/proc/{service}/cmdline").is_file() or not Path(f"/proc/{service}/cmdline").read_bytes()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(service, signal.SIGKILL)
    assert len(heard.warnings) == 1
    assert "did not answer" in heard.warnings[0]
