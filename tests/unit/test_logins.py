"""Addresses are shown without the names and passwords in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ttstrain.checkpoint.lock import LOCK, hold
from ttstrain.cli.main import print_error
from ttstrain.logins import without_logins
from ttstrain.tracking.jsonl import WARNINGS, JsonlTracker
from ttstrain.tracking.tracker import RunInfo, Trackers

ADDRESS = "http://me:s3cret@host:80/a"
SHOWN = "http://host:80/a"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"no answer from {ADDRESS}, or `{ADDRESS}`", f"no answer from {SHOWN}, or `{SHOWN}`"),
        ("https://token@host", "https://host"),
        ("https://me:p@ss@host/x", "https://host/x"),
        ("https://host/a@b?c=d@e", "https://host/a@b?c=d@e"),
        ("hf://owner/repo@main/path, mail me@host", "hf://owner/repo@main/path, mail me@host"),
        ("a://b and c@d", "a://b and c@d"),
        ("hf://repo@main", "hf://repo@main"),
    ],
)
def test_only_the_login_of_an_address_goes(text: str, shown: str) -> None:
    assert without_logins(text) == shown


def test_neither_warnings_nor_errors_nor_the_lock_show_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttstrain", "finetune", f"base={ADDRESS}"])
    trackers = Trackers()
    trackers.append(JsonlTracker(warn=trackers.warn))
    trackers.start(RunInfo("t", tmp_path, "t", False, {}, (), 9, 0, 1.0))
    trackers.warn(f"lost {ADDRESS}")
    trackers.note(f"WARNING: lost {ADDRESS}")
    trackers.finish("done")
    print_error(f"lost {ADDRESS}", hint=f"look at {ADDRESS}")
    with hold(tmp_path):
        held = json.loads((tmp_path / LOCK).read_text())["command"]
    assert held == f"ttstrain finetune base={SHOWN}"
    said = (tmp_path / WARNINGS).read_text() + capsys.readouterr().err
    assert said.count(SHOWN) == 4
    assert "s3cret" not in said
