"""The live page answers this machine's user only, shows what is new, and writes nothing but three request files."""

from __future__ import annotations

import errno
import http.client
import io
import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import run_folders
import soundfile

from ttstrain.checkpoint.lock import hold
from ttstrain.errors import RecipeError
from ttstrain.report import live
from ttstrain.report.live import SHARE, Server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folders.write_run(tmp_path / "made")


@pytest.fixture
def server(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(live, "FRESH_S", 0.0)
    monkeypatch.setattr(live, "SHARE", math.inf)
    with Server(run) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(
    server: Server, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    content = None if body is None else json.dumps(body)
    own = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, content, {**own, **(headers or {})})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def post(server: Server, what: str, body: Any = None, **headers: str) -> tuple[int, str]:
    status, content, _ = ask(server, f"/{server.token}/{what}", method="POST", body=body or {}, headers=headers)
    return status, content.decode()


def files(run: Path) -> set[Path]:
    return {path for path in run.rglob("*") if path.is_file() and "recordings" not in path.parts}


def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/{server.token}/"


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/data.json", "//", "/%2e%2e/"])
def test_nothing_is_said_without_the_token(server: Server, path: str) -> None:
    status, content, _ = ask(server, path)
    assert (status, content) == (404, b"not found\n")


def test_a_name_that_leads_here_is_no_way_in(server: Server) -> None:
    assert ask(server, f"/{server.token}/", headers={"Host": f"evil.example:{server.server_port}"})[0] == 404
    assert ask(server, f"/{server.token}/", headers={"Host": "evil.example"})[0] == 404
    assert ask(server, f"/{server.token}/", headers={"Host": f"localhost:{server.server_port}"})[0] == 200


def test_a_forwarded_port_may_be_another_one(server: Server, run: Path) -> None:
    here = {"Host": "localhost:8080"}
    assert ask(server, f"/{server.token}/", headers=here)[0] == 200
    with hold(run):
        assert post(server, "save", Origin="http://localhost:8080", **here)[0] == 200
        assert post(server, "stop", Origin="http://localhost:9999", **here)[0] == 404  # a page of another server


def test_the_page_and_what_is_new(server: Server, run: Path) -> None:
    status, content, headers = ask(server, f"/{server.token}/")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert b"connect-src 'self'" in content
    assert json.dumps(f"/{server.token}").encode() in content
    status, content, headers = ask(server, f"/{server.token}/data.json")
    version = headers["X-Version"]
    assert json.loads(content)["runs"][0]["name"] == "made"
    assert ask(server, f"/{server.token}/data.json?since={version}")[0] == 204
    run_folders.write_metrics(run, [run_folders.row(step) for step in range(71)])
    status, content, headers = ask(server, f"/{server.token}/data.json?since={version}")
    assert status == 200
    assert headers["X-Version"] != version
    assert next(one for one in json.loads(content)["runs"][0]["charts"] if one["id"] == "held-out")["steps"][-1] == 70


def test_sounds_of_the_run_are_served_whole_and_in_part(server: Server, run: Path) -> None:
    path = "samples/step-00000020/clip-0.wav"
    status, content, headers = ask(server, f"/{server.token}/{path}")
    assert (status, headers["Content-Type"]) == (200, "audio/wav")
    assert content == (run / path).read_bytes()
    assert soundfile.info(io.BytesIO(content)).samplerate == run_folders.RATE
    status, part, headers = ask(server, f"/{server.token}/{path}", headers={"Range": "bytes=100-199"})
    assert (status, part) == (206, content[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    assert ask(server, f"/{server.token}/{path}", headers={"Range": "bytes=44-"})[1] == content[44:]
    for none in ("bytes=5-2", f"bytes={len(content)}-", f"bytes={'9' * 5000}-", "bytes=-5"):
        status, whole, headers = ask(server, f"/{server.token}/{path}", headers={"Range": none})
        assert (status, len(whole), "Content-Range" in headers) == (200, len(content), False)


@pytest.mark.parametrize(
    "path",
    [
        "plan.json",
        "samples/../plan.json",
        "samples/%2e%2e/plan.json",
        "samples/step-00000020/numbers.json",
        "samples/link.wav",
        "samples/none.wav",
        "samples/%00.wav",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_served(server: Server, run: Path, path: str) -> None:
    (run / "samples" / "link.wav").symlink_to(run / "recording.wav")
    assert ask(server, f"/{server.token}/{path}")[0] == 404


def test_requests_become_the_files_that_a_run_looks_for(server: Server, run: Path) -> None:
    with hold(run):
        before = files(run)
        assert post(server, "sample", {"text": " What a \n day! "})[0] == 200
        assert (run / "SAMPLE").read_text() == "What a day!\n"
        assert post(server, "sample", {"text": "Another."})[0] == 409  # the first is not answered yet
        assert post(server, "save")[0] == post(server, "stop")[0] == 200
        assert files(run) - before == {run / "SAMPLE", run / "SAVE", run / "STOP"}
        (run / "SAMPLE").unlink()
        assert post(server, "sample", {"text": ""})[0] == 200
        assert (run / "SAMPLE").read_text() == ""


def test_nothing_is_written_where_nobody_would_read_it(server: Server, run: Path) -> None:
    before = files(run)
    status, said = post(server, "stop")
    assert (status, "No process trains this run" in said) == (409, True)
    assert files(run) == before


@pytest.mark.parametrize(
    ("what", "body", "headers"),
    [
        ("plan.json", {}, {}),
        ("../SAVE", {}, {}),
        ("save", {}, {"Origin": "http://evil.example"}),
        ("save", {}, {"Content-Type": "text/plain"}),
        ("save", {}, {"Host": "evil.example"}),
        ("save", ["no object"], {}),
        ("sample", {"text": "long " * 2000}, {}),
        ("sample", {"text": "long " * 150}, {}),
        ("sample", {"text": "half \ud800"}, {}),
        ("save", {}, {"Content-Length": "9" * 5000}),
    ],
)
def test_other_writes_are_refused(server: Server, run: Path, what: str, body: Any, headers: dict[str, str]) -> None:
    with hold(run):
        before = files(run)
        assert post(server, what, body, **headers)[0] in (400, 404)
        assert files(run) == before


def test_a_port_that_is_taken_is_an_error_of_the_users(server: Server, run: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be used"):
        Server(run, port=server.server_port)


@pytest.mark.parametrize("line", [b"GET http://[ HTTP/1.1", b"GET /\xff/ HTTP/1.1", b"POST /%%/save HTTP/1.1"])
def test_an_address_that_is_none_is_not_found(server: Server, line: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        host = f"Host: 127.0.0.1:{server.server_port}".encode()
        connection.sendall(line + b"\r\n" + host + b"\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 404")
    assert capfd.readouterr().err == ""


def test_a_browser_that_hangs_up_is_no_error(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for error in (BrokenPipeError(), ConnectionResetError(), TimeoutError()):
        try:
            raise error
        except OSError:
            server.handle_error(None, ("127.0.0.1", 1))
    assert capfd.readouterr().err == ""


def test_a_run_without_samples_says_so(server: Server, run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    plan["recipe"]["sample"]["every"] = None
    (run / "plan.json").write_text(json.dumps(plan))
    with hold(run):
        status, said = post(server, "sample", {"text": "What a day!"})
        assert (status, "generates no samples" in said) == (409, True)
        assert not (run / "SAMPLE").exists()


def test_where_there_are_no_locks_requests_are_written(
    server: Server, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / ".lock").touch()
    assert post(server, "save")[0] == 409

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert post(server, "save")[0] == 200


def test_reading_takes_a_tenth_of_the_time_at_most(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    reads: list[float] = []
    watched = live.Watched(run)
    record = watched._reader.read()

    def read(**_: Any) -> Any:
        reads.append(clock[0])
        clock[0] += 3.0  # a long run on a busy machine
        return record

    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live.Reader, "read", lambda _self, **_: read())
    for _ in range(300):
        watched.latest()
        clock[0] += 1.0
    assert 1 < len(reads) <= SHARE * clock[0] / 3 + 1
