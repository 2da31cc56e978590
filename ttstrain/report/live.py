"""A run's page while it trains, served to this machine only: the page, what is new, sounds, and three requests.

- The server listens on 127.0.0.1. Every path begins with a random token that only the printed address holds, and a
  request whose `Host` is neither 127.0.0.1 nor localhost is refused: a foreign page that guesses the port, or whose
  name leads here, learns nothing.
- What may be written are the files `SAMPLE`, `SAVE` and `STOP` in the run's folder, which work by hand as well.
- Files are served from the run's `samples` only.
"""

from __future__ import annotations

import math
import re
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from ttstrain import digest, documents
from ttstrain.checkpoint import run_folder
from ttstrain.checkpoint.lock import holder
from ttstrain.data import atomic
from ttstrain.errors import RecipeError, UserError
from ttstrain.report import page
from ttstrain.report.record import Reader, compare
from ttstrain.report.write import status_of

HOST = "127.0.0.1"
FRESH_S = 2.0  # what was read is good for so long
SHARE = 0.1  # of the time, at most, goes into reading: the run may need this machine
LONGEST_BODY = 8_000  # bytes
LONGEST_TEXT = 500  # characters
_TYPES = {".wav": "audio/wav", ".flac": "audio/flac"}
_REQUESTS = {
    "sample": ("SAMPLE", "The samples come after the step that runs now."),
    "save": ("SAVE", "The checkpoint comes after the step that runs now."),
    "stop": ("STOP", "The run saves and stops after the step that runs now."),
}


@dataclass(slots=True)
class Watched:
    """A run, and what was read of it last. Threads take turns."""

    run: Path
    _reader: Reader = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _read_again: float = -math.inf  # time from which on the run is read again
    _version: str = ""
    _values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reader = Reader(self.run)

    def latest(self) -> tuple[str, dict[str, Any]]:
        """Return the run as the page shows it, and a word that changes when that does."""
        with self._lock:
            started = time.monotonic()
            if started >= self._read_again:
                values = compare([self._reader.read(status=status_of(self.run))]).to_json()
                shown = page.as_json({key: value for key, value in values.items() if key != "written"})
                self._version = digest.sha256(page.encoded(shown))[:16]
                ended = time.monotonic()
                self._values, self._read_again = values, ended + max(FRESH_S, (ended - started) / SHARE)
            return self._version, self._values

    def ask(self, what: str, text: str) -> tuple[HTTPStatus, str]:
        """Write a request into the run's folder; return what to say."""
        name, said = _REQUESTS[what]
        if holder(self.run) == "free":
            return HTTPStatus.CONFLICT, "No process trains this run now, so nobody would answer."
        path = self.run / name
        with self._asking:
            if what == "sample" and path.exists():
                return HTTPStatus.CONFLICT, "The run has not answered the last request for samples yet."
            if what == "sample" and run_folder.is_mute(self.run):
                return HTTPStatus.CONFLICT, "This run generates no samples: its recipe says `sample.every: null`."
            if path.is_symlink():
                return HTTPStatus.CONFLICT, f"{name} is a link: nothing is written."
            try:
                atomic.write_text(path, f"{text}\n" if what == "sample" and text else "")
            except OSError as error:
                return HTTPStatus.INTERNAL_SERVER_ERROR, f"{name} cannot be written: {error.strerror or error}"
        return HTTPStatus.OK, said


class Server(ThreadingHTTPServer):
    """Serves one run on this machine until it is shut down."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, run: Path, *, port: int = 0) -> None:
        """Listen on a port, any free one by default. Raises RecipeError where it is taken, or this is no run."""
        self.watched = Watched(run)
        self.token = secrets.token_urlsafe(18)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise RecipeError(
                f"port {port} of {HOST} cannot be used: {error.strerror or error}",
                hint="choose another with `--port`, or leave it out for any free one",
            ) from error

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that hangs up, as it does when a sound is stopped."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def is_here(host: str) -> bool:
    """Tell whether a `Host` names this machine, at any port: `ssh -L` may have given it another one."""
    return re.fullmatch(rf"({re.escape(HOST)}|localhost)(:\d+)?", host, re.ASCII) is not None


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_version, sys_version = "ttstrain", ""

    def do_GET(self) -> None:
        path = self._own_path()
        if path is None:
            self._say(HTTPStatus.NOT_FOUND, "not found")
        elif path == "":
            self._send_page()
        elif path == "data.json":
            self._send_data()
        elif path.startswith("samples/"):
            self._send_sound(path)
        else:
            self._say(HTTPStatus.NOT_FOUND, "not found")

    def do_POST(self) -> None:
        path = self._own_path()
        body = self._body()
        if path not in _REQUESTS or body is None or not self._is_from_page():
            self.close_connection = True
            self._say(HTTPStatus.NOT_FOUND, "not found")
            return
        text = body.get("text", "")
        said = " ".join(text.split()) if isinstance(text, str) else ""
        if any("\ud800" <= letter <= "\udfff" for letter in said):
            self._answer(HTTPStatus.BAD_REQUEST, "The text holds half of a character.")
            return
        if len(said) > LONGEST_TEXT:
            self._answer(HTTPStatus.BAD_REQUEST, f"The text has more than {LONGEST_TEXT} characters.")
            return
        self._answer(*self.server.watched.ask(path, said))

    # ------------------------------------------------------------ who asks, and for what

    def _own_path(self) -> str | None:
        """Return the path behind the token; None for a wrong token or another host's name."""
        token, slash, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not is_here(self.headers.get("Host", "")) or not slash:
            return None
        given, own = token.encode("utf-8", "surrogateescape"), self.server.token.encode()
        return unquote(path, errors="surrogateescape") if secrets.compare_digest(given, own) else None

    def _is_from_page(self) -> bool:
        """Tell whether a request to write comes from the page: no other site can send JSON here unasked."""
        origin = self.headers.get("Origin")
        own = origin is None or origin == f"http://{self.headers.get('Host', '')}"
        return own and self.headers.get("Content-Type", "").partition(";")[0].strip() == "application/json"

    def _body(self) -> dict[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length, re.ASCII) or int(length) > LONGEST_BODY:
            return None
        try:
            return documents.check_object(documents.parse(self.rfile.read(int(length))), {})
        except documents.DocumentError:
            return None

    # ------------------------------------------------------------ answers

    def _send_page(self) -> None:
        try:
            version, values = self.server.watched.latest()
        except (UserError, OSError) as error:
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        live = {"root": f"/{self.server.token}", "version": version}
        self._send(HTTPStatus.OK, page.encoded(page.render(values, live=live)), "text/html; charset=utf-8")

    def _send_data(self) -> None:
        try:
            version, values = self.server.watched.latest()
        except (UserError, OSError) as error:
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        if parse_qs(self.path.partition("?")[2]).get("since") == [version]:
            self._send(HTTPStatus.NO_CONTENT, b"", "application/json")
            return
        content = page.encoded(page.as_json(values))
        self._send(HTTPStatus.OK, content, "application/json", headers={"X-Version": version})

    def _send_sound(self, path: str) -> None:
        """Send a sound of the run, or the part of it that is asked for."""
        root = (self.server.watched.run / "samples").resolve()
        try:
            file = (self.server.watched.run / path).resolve()
            kind = _TYPES.get(file.suffix)
            content = file.read_bytes() if kind and file.is_relative_to(root) else None
        except (OSError, ValueError):
            content = None
        if content is None or kind is None:
            self._say(HTTPStatus.NOT_FOUND, "not found")
            return
        headers = {"Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d{1,15})-(\d{0,15})", self.headers.get("Range", ""), re.ASCII)
        start, end = (int(part[1]), min(int(part[2] or len(content)), len(content) - 1)) if part else (0, -1)
        if start > end:  # no part is asked for, or one that is none
            self._send(HTTPStatus.OK, content, kind, headers=headers)
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(HTTPStatus.PARTIAL_CONTENT, content[start : end + 1], kind, headers=headers)

    def _answer(self, status: HTTPStatus, said: str) -> None:
        self._send(status, page.as_json({"said": said}).encode(), "application/json")

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, page.encoded(text + "\n"), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str, *, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        own = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**own, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if content:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the address holds the token, and requests come every few seconds."""
