"""A run that trains is steered from its page: a text that is typed is said and heard, and the run saves and stops."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import command, write_clips, write_recipe

ENDLESS = ("train.steps=1000000", "eval.every=1000000", "sample.every=1000000", "sample.count=1", "judge.enabled=false")


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    recipe = write_recipe(tmp_path / "small.yaml", data=write_clips(tmp_path / "clips"))
    wanted = ("finetune", recipe, *ENDLESS, "checkpoint.every=1000000", "name=steered", f"run_dir={tmp_path}")
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command(*wanted), stdout=log, stderr=log) as process:
        yield process
        process.kill()


@pytest.fixture
def address(tmp_path: Path, training: subprocess.Popen[bytes]) -> Iterator[str]:
    """Watch the run as a user does, once it trains."""
    until((tmp_path / "steered" / "metrics.jsonl").exists, training)
    watch = command("watch", tmp_path / "steered")
    with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def until(holds: Callable[[], Any], training: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert training.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def test_a_text_is_typed_said_and_heard_and_the_run_saves_and_stops(
    open_tab: Callable[..., Any], address: str, training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    tab = open_tab(address)
    page = tab.page
    page.set_default_timeout(120_000)
    page.fill("#say-text", "What a <day> & night!")
    page.click("#ask-sample")
    page.wait_for_selector("text=The samples come after the step that runs now.")
    row = page.locator(".grid tbody tr", has=page.locator(".said", has_text="& night!"))
    row.locator("button.sound").first.wait_for()
    assert row.locator("button.sound").count() == 2  # raw and EMA
    row.locator("button.sound").first.click()
    while page.evaluate("player.audio.currentTime") == 0:
        page.wait_for_timeout(50)
    assert page.evaluate("player.button.dataset.title").endswith("raw: What a <day> & night!")
    page.click("#ask-save")
    page.wait_for_selector("text=The checkpoint comes after the step that runs now.")
    saved = tmp_path / "steered" / "checkpoints" / "last"
    until(saved.exists, training)
    first = saved.read_text()
    page.click("#ask-stop")
    page.wait_for_selector("text=The run saves and stops after the step that runs now.")
    assert training.wait(timeout=120) == 0
    assert saved.read_text() > first
    page.click("#ask-save")
    page.wait_for_selector("text=No process trains this run now")
    assert [error for error in tab.errors if "409" not in error] == ["dialog Save and stop the run?"]
