"""What may reach a terminal: nothing that moves its cursor or changes its title, and nothing that it cannot spell.

Names of files, tensors, clips and speakers come from other people. Whatever the program prints for people or scripts
passes here; consoles of rich write their own colours past it, and have their texts escaped before.
"""

from __future__ import annotations

import codecs
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console

# Controls of ASCII and Latin-1, separators that break lines, what turns the direction of text, halves of characters.
_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ESCAPED = re.compile(f"[{_CONTROL}]")
_ESCAPED_ON_ONE_LINE = re.compile(rf"[{_CONTROL}\n\t]")
_SHORT = {"\n": r"\n", "\t": r"\t"}
_UNSPELLABLE = "ttstrain.unspellable"


def escaped(text: str) -> str:
    """Write control characters as `\\u001b`, which JSON reads back as what it was; line ends and tabs stay."""
    return _ESCAPED.sub(_spelled, text)


def on_one_line(text: str) -> str:
    """Escape what has to stay on its line: line ends and tabs become `\\n` and `\\t`."""
    return _ESCAPED_ON_ONE_LINE.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"


def console(**options: Any) -> Console:
    """Make a console on stdout whose texts are escaped, and shown as they are otherwise."""
    file = cast("IO[str]", getattr(sys.stdout, "unescaped", sys.stdout))
    return safe_console(file, **{"highlight": False, "emoji": False, **options})


def safe_console(file: IO[str], **options: Any) -> Console:
    """Make a console that escapes texts and writes its own sequences as they are."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class _Console(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or not _ESCAPED.search(segment.text):
                    yield segment
                else:
                    yield Segment(escaped(segment.text), segment.style)

    return _Console(file=file, **options)


@contextmanager
def protected() -> Iterator[None]:
    """Escape what is printed, and spell what the terminal's encoding lacks, for as long as the program runs."""
    codecs.register_error(_UNSPELLABLE, _spell)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # what stands in their place may be no text file
            stream.reconfigure(errors=_UNSPELLABLE)  # type: ignore[union-attr]
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())
    before = sys.stdout
    sys.stdout = cast("Any", _Escaping(before))
    try:
        yield
    finally:
        sys.stdout = before


class _Escaping:
    """A stream that escapes what is written; everything else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        self.unescaped.write(escaped(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escaped(f"WARNING: {super().format(record)}")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{unit.hex()}" for unit in (units[i : i + 2] for i in range(0, len(units), 2))), error.end
