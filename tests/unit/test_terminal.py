"""What is printed is escaped, and can be spelled in the encoding of whatever it is printed to."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ttstrain import terminal
from ttstrain.cli import main as command_line
from ttstrain.shell import quoted
from ttstrain.tensors import tensorfile

EVIL = "\x1b]0;owned\x07\x1b[2K\r\x9b31m\u202e\x08\x7f"


class Screen(io.TextIOWrapper):
    """A stream with an encoding of its own, as a terminal is."""

    def __init__(self, encoding: str, *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def shown(self) -> str:
        data: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return data.decode(self.encoding)


def ttstrain(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, encoding: str = "utf-8", is_terminal: bool = False
) -> tuple[int, str, str]:
    """Run the program on streams of an encoding; return its code and what it wrote."""
    out, err = (Screen(encoding, is_terminal=is_terminal) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "argv", ["ttstrain", *arguments])
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert sys.stdout is out
    return int(ended.value.code or 0), out.shown(), err.shown()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_a_plan_can_be_spelled_everywhere(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path))
    code, document, error = ttstrain(monkeypatch, "plan", "from_scratch", "name=日本🎙", "--json", encoding=encoding)
    assert (code, error) == (0, "")
    assert json.loads(document)["recipe"]["name"] == "日本🎙"
    code, shown, error = ttstrain(monkeypatch, "plan", "from_scratch", encoding=encoding, is_terminal=True)
    assert code == 0
    assert "error" not in error
    assert "from_scratch" in shown


@pytest.mark.parametrize("is_terminal", [True, False])
def test_names_cannot_move_the_cursor(is_terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(
        path, {f"{EVIL}.a": torch.ones(2), f"{EVIL}.b\nnumbers   all finite": torch.tensor([float("nan")])}
    )
    for arguments in ([], ["--tensors", "*"], [str(path), "--json"]):
        code, out, err = ttstrain(monkeypatch, "inspect-ckpt", str(path), *arguments, is_terminal=is_terminal)
        assert (code, err) == (0, "")
        assert_harmless(out)
        assert "\nnumbers   all finite" not in out


def test_errors_are_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, err = ttstrain(monkeypatch, "inspect-ckpt", str(tmp_path / f"{EVIL[1:]}\udcff"), encoding="ascii")
    assert (code, out) == (4, "")
    assert_harmless(err)
    assert "\\u202e" in err
    assert "\\udcff" in err
    code, out, err = ttstrain(monkeypatch, EVIL)
    assert code == 2
    assert_harmless(err)


BROKEN = "a\nb\x1b[31mc\rd\u202ee\u200ff\u2028g\u0085h\ti"
ON_ITS_LINE = "a\\nb\\u001b[31mc\\u000dd\\u202ee\\u200ff\\u2028g\\u0085h\\ti"
REFUSED: dict[str, tuple[int, list[str]]] = {  # a command that names BROKEN, its exit code
    "checkpoint": (4, ["inspect-ckpt", "{}"]),
    "data": (3, ["prepare", "{}"]),
    "recipe": (2, ["plan", "{}.yaml"]),
    "base": (4, ["plan", "from_scratch", "--base", "{}"]),
    "run": (4, ["export", "{}", "-o", "out"]),
    "resume": (2, ["resume", "{}"]),
    "key": (2, ["plan", "from_scratch", BROKEN + "=1"]),
    "value": (2, ["plan", "from_scratch", "train.steps=" + json.dumps(BROKEN)]),
    "command": (2, [BROKEN]),
}


@pytest.mark.parametrize(("code", "arguments"), REFUSED.values(), ids=REFUSED)
def test_an_error_is_one_line_whatever_it_names(
    code: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path / "cache"))
    ended, _, err = ttstrain(monkeypatch, *(argument.format(tmp_path / BROKEN) for argument in arguments))
    assert ended == code, err
    error, *hint = err.removesuffix("\n").split("\n")
    assert error.startswith("error: ")
    assert ON_ITS_LINE in error
    assert len(hint) <= 1
    assert all(line.startswith("hint: ") for line in hint)
    assert terminal.on_one_line(err.replace("\n", "")) == err.replace("\n", "")


def test_a_plan_keeps_its_lines_whatever_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path / "cache"))
    data = tmp_path / BROKEN
    data.symlink_to(Path(terminal.__file__).parent / "_demo")
    code, out, err = ttstrain(monkeypatch, "plan", "from_scratch", "--data", str(data))
    assert code == 0, err
    first = next(line for line in out.split("\n") if line.startswith("data "))
    assert first.endswith(ON_ITS_LINE)


@pytest.mark.parametrize("word", ["plain", "two words", BROKEN, "it's\n", "back\\slash\x1b", "\udcff\n", "-\n1"])
def test_a_printed_command_is_one_line_that_a_shell_reads_back(word: str) -> None:
    line = quoted("printf", "%s", word)
    assert terminal.on_one_line(line) == line
    said = subprocess.run(["bash", "-c", line], check=True, capture_output=True).stdout
    assert said == os.fsencode(word)


def assert_harmless(shown: str) -> None:
    """Only colours of rich's own may be left."""
    without_colours = shown
    for colour in ("\x1b[1m", "\x1b[0m", "\x1b[1;31m", "\x1b[2m", "\x1b[22m"):
        without_colours = without_colours.replace(colour, "")
    assert terminal.escaped(without_colours) == without_colours


@pytest.mark.parametrize("character", [chr(number) for number in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E)])
def test_an_escape_is_json_for_what_it_was(character: str) -> None:
    assert json.loads(f'"{terminal.on_one_line(character)}"') == character
    assert terminal.on_one_line(character) != character
    if character in "\n\t":
        assert terminal.escaped(character) == character
    else:
        assert terminal.escaped(character) != character
        assert json.loads(f'"{terminal.escaped(character)}"') == character


def test_ordinary_text_is_left_alone() -> None:
    for text in ("plain", "Ångström 日本 🎙 वर्ण", "a\tb\nc", "سلام\u200c", "é"):
        assert terminal.escaped(text) == text


def test_a_message_of_a_logger_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen("ascii")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(logging.getLogger("ttstrain.x"), "parent", None)
    with terminal.protected():
        logging.getLogger("ttstrain.x").warning("clip %s é", EVIL)
    assert "\\u001b]0;owned" in screen.shown()
    assert_harmless(screen.shown())


def test_a_stream_that_is_no_text_file_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    with terminal.protected():
        print("a\x1bb")
        sys.stdout.writelines(["c\n", "\x07"])
    assert plain.getvalue() == "a\\u001bb\nc\n\\u0007"
