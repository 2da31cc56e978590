"""Online, against a server on this machine that answers as W&B's does, until it is gone."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.wandb_file import read_offline_run, run_files
from ttstrain.tracking import wandb
from ttstrain.tracking.tracker import RunInfo
from ttstrain.tracking.wandb import WandbNames, WandbTracker

pytestmark = pytest.mark.timeout(120)

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}


class Server(ThreadingHTTPServer):
    """Keeps what a client sends: the operations it asks for, and the run's files line by line."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, dict[int, str]] = {}
        self.known_rows = 0  # of a run that is resumed
        self.gone = False

    def history(self) -> list[dict[str, Any]]:
        rows = [json.loads(line) for _, line in sorted(self.files.get("wandb-history.jsonl", {}).items())]
        return [{key: value for key, value in row.items() if key[0] != "_"} for row in rows]

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.operations.append((operation, variables))
        if operation == "RunResumeStatus":
            return {"model": {**PROJECT, "bucket": self.bucket(variables) if self.known_rows else None}}
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": self.bucket(variables), "inserted": not self.known_rows}}
        if operation == "CreateRunFiles":
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        return {}

    def bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "b",
            "name": variables["name"],
            "displayName": "a run",
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": PROJECT,
            "summaryMetrics": json.dumps({"_step": self.known_rows - 1}),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyLineCount": self.known_rows,
            "historyTail": json.dumps([json.dumps({"_step": self.known_rows - 1, "_runtime": 1})]),
            "eventsTail": "[]",
            "tags": [],
            "notes": "",
            "wandbConfig": json.dumps({"t": {}}),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        if self.server.gone:
            self.close_connection = True
            return
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            assert named is not None
            answer = {"data": self.server.answer(named[1], request.get("variables") or {})}
        for name, part in (request.get("files") or {}).items():
            lines = self.server.files.setdefault(name, {})
            lines |= dict(enumerate(part["content"], start=part["offset"]))
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    import wandb as package

    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        package.teardown()
        yield running
        package.teardown()
        running.shutdown()


def start(run_dir: Path, heard: list[str], *, start_step: int = 0) -> WandbTracker:
    tracker = WandbTracker(mode="auto", names=WandbNames("p", "me"), note=heard.append, warn=heard.append)
    run_dir.mkdir(exist_ok=True)
    info = RunInfo(
        name="a run",
        run_dir=run_dir,
        run_id="run-7f3a",
        resumed=start_step > 0,
        recipe={"task": "flow"},
        plan_summary=(),
        total_steps=100,
        start_step=start_step,
        steps_per_epoch=10.0,
    )
    tracker.start(info)
    return tracker


def values(step: int) -> dict[str, float]:
    return {"optim/lr/model/default": 1e-5 / 3 * step, "train/loss/total": math.exp(-step)}


def test_the_server_gets_the_values_that_were_logged(server: Server, tmp_path: Path) -> None:
    heard: list[str] = []
    tracker = start(tmp_path / "run", heard)
    steps = [1, 2, 3, 4, 2, 3, 4, 5]  # rolled back once
    for step in steps:
        tracker.log(step, values(step))
    tracker.finish("done")
    assert server.history() == [{"step": step, **values(step)} for step in steps]
    assert len(heard) == 1
    assert heard[0].endswith("/me/p/runs/run-7f3a")


def test_a_resumed_run_goes_on_behind_the_rows_the_server_has(server: Server, tmp_path: Path) -> None:
    heard: list[str] = []
    server.known_rows = 7
    tracker = start(tmp_path / "run", heard, start_step=5)
    tracker.log(6, values(6))
    tracker.finish("done")
    assert {variables["name"] for name, variables in server.operations if name == "UpsertBucket"} == {"run-7f3a"}
    assert list(server.files["wandb-history.jsonl"]) == [7]
    row = json.loads(server.files["wandb-history.jsonl"][7])
    assert (row["_step"], row["step"]) == (7, 6)
    assert (tmp_path / "run" / "wandb" / "next_row").read_text() == "8\n"  # for a resume without the server


def test_a_network_lost_while_training_costs_no_step_and_no_value(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT_S", 2.0)
    heard: list[str] = []
    tracker = start(tmp_path / "run", heard)
    tracker.log(1, values(1))
    server.gone = True
    begun = time.monotonic()
    for step in range(2, 52):
        tracker.log(step, values(step))
    assert time.monotonic() - begun < 5
    tracker.finish("done")
    assert time.monotonic() - begun < 30
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert [row["step"] for row in read_offline_run(file)] == list(range(1, 52))
    assert len(heard) == 2  # where it is, and that it could not finish
    assert "could not finish" in heard[1]
    assert "wandb sync" in heard[1]
