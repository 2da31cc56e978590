"""The commands that the README and the guides show: where they stand, and what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GUIDES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md", "ttstrain/**/README.md")
    for path in REPO.glob(pattern)
)
SHELLS = {"bash", "sh", "shell", "console"}
PLACEHOLDERS: Mapping[str, str] = {  # what a guide writes for the reader's own, and what a test takes for it
    "RUN": "runs/my_run",
    "RUN/recipe.yaml": "runs/my_run/recipe.yaml",
    "DATA": "my_recordings",
    "PATH": "my_recordings",
    "FOLDER": "long_recordings",
    "OTHERS": "other_voices",
    "FILE": "model_1250000.pt",
    "RECIPE": "f5_new_voice",
    "NAME": "quickstart",
    "<name>": "quickstart",
    "OUT": "out",
    "SHARE": "0.7",
    "../shared/data/ljspeech-42min": "my_recordings",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A command as a guide shows it."""

    guide: str
    arguments: tuple[str, ...]  # after `ttstrain`
    whole: bool = True  # false for a span in a text, which may leave arguments out

    def __str__(self) -> str:
        return shlex.join(self.arguments)


def shown() -> list[Shown]:
    """List every command of every guide once, in the order of the guides; blocks before spans."""
    found: dict[tuple[str, ...], Shown] = {}
    for read, whole in ((in_blocks, True), (in_spans, False)):
        for guide in GUIDES:
            for arguments in read(guide.read_text(encoding="utf-8")):
                found.setdefault(arguments, Shown(guide.relative_to(REPO).as_posix(), arguments, whole))
    return list(found.values())


def in_blocks(markdown: str) -> Iterator[tuple[str, ...]]:
    """Yield the arguments after `ttstrain` of each command line in a fenced block of shell."""
    for fence, block in re.findall(r"^ *```(\w+)\n(.*?)^ *```", markdown, flags=re.MULTILINE | re.DOTALL):
        if fence not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            for part in _split_at(words, {"&&", "||", ";", "|"}):
                names = [Path(word).name for word in part]
                if "ttstrain" in names and "pip" not in names:
                    yield _named(part[names.index("ttstrain") + 1 :])


def in_spans(markdown: str) -> Iterator[tuple[str, ...]]:
    """Yield the arguments of each span of code in a text that begins with `ttstrain`."""
    text = re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"(?<!`)`ttstrain ([^`]+)`(?!`)", text):
        words = shlex.split(span.replace("\n", " "))
        if words and not words[0].endswith("…"):
            yield _named(words)


def _named(words: list[str]) -> tuple[str, ...]:
    return tuple(PLACEHOLDERS.get(word, word) for word in words)


def _split_at(words: list[str], separators: set[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if word in separators:
            yield part
            part = []
        else:
            part.append(word)
