"""A server on this machine that answers as W&B's does, until its mood changes: then it fails in one of several ways."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mood = Literal["good", "drops", "stalls", "lies", "fails", "forbids", "limits"]
KEY = "0" * 40
PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
STALL_S = 600.0
LIES = (
    b"<html>welcome to the hotel's network</html>",
    b'{"data": []}',
    b'{"data": {"upsertBucket": 7}}',
    b"\xff\xfe",
    b"",
)
STATUS: dict[Mood, int] = {"fails": 500, "forbids": 403, "limits": 429}


class Server(ThreadingHTTPServer):
    """Counts the requests that it gets in a bad mood."""

    daemon_threads = True

    def __init__(self, mood: Mood) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood = mood
        self.asked_in_mood = 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send W&B here."""
        return {
            "WANDB_API_KEY": KEY,
            "WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_MODE": "online",
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed leave broken connections behind."""


@contextlib.contextmanager
def serving(mood: Mood) -> Iterator[Server]:
    """Serve until the block ends."""
    with Server(mood) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        named = re.search(r"(?:query|mutation)\s+(\w+)", str(request.get("query")))
        self._answer(_reply(named[1] if named else "", request.get("variables") or {}))

    def _answer(self, reply: dict[str, Any]) -> None:
        mood, content = self.server.mood, json.dumps({"data": reply}).encode()
        self.server.asked_in_mood += mood != "good"
        if mood == "drops":
            self.close_connection = True
            return
        if mood == "stalls":
            time.sleep(STALL_S)
        if mood == "lies":
            content = LIES[self.server.asked_in_mood % len(LIES)]
        self.send_response(STATUS.get(mood, 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)


def _reply(operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    if operation == "RunResumeStatus":
        return {"model": {**PROJECT, "bucket": None}}
    if operation == "UpsertBucket":
        bucket = {"id": "b", "name": variables["name"], "displayName": "a run", "config": "{}", "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if operation == "CreateRunFiles":
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
    return {}
