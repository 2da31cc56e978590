"""Cuts a text into pieces that are generated one by one, as upstream's web tool does. Imports no torch.

It cuts after every fourth mark, so that a piece is a sentence or two; pieces of a few letters join their neighbours.
"""

from __future__ import annotations

from typing import Final

MARKS: Final = frozenset("，。？！,.?!~:：—…")  # a clause ends at one of these; upstream's `splits`
CLAUSES: Final = 4  # in a piece
SHORTEST: Final = 5  # letters of a piece


def pieces(text: str, language: str) -> list[str]:
    """Cut a text; each piece ends in a mark, and there are none without a letter."""
    found = [piece for line in text.strip().splitlines() for piece in _fours(clauses(line))]
    return [ended(piece, language) for piece in _joined([piece for piece in found if _speaks(piece)])]


def clauses(line: str) -> list[str]:
    """Cut a line after each mark; not inside a number such as 3.5 or 10:30, where upstream does."""
    found, begin = list[str](), 0
    for place, letter in enumerate(line):
        inside = 0 < place < len(line) - 1 and line[place - 1].isdigit() and line[place + 1].isdigit()
        followed = place + 1 < len(line) and line[place + 1] in MARKS  # the last of several marks ends it
        if letter in MARKS and not inside and not followed:
            found.append(line[begin : place + 1])
            begin = place + 1
    return [*found, line[begin:]] if line[begin:].strip() else found


def ended(text: str, language: str) -> str:
    """Append a full stop if there is no final mark: without one the last word is often cut off."""
    text = text.strip()
    return text if not text or text[-1] in MARKS else text + ("." if language in ("en", "ko") else "。")


def _fours(parts: list[str]) -> list[str]:
    return ["".join(parts[begin : begin + CLAUSES]) for begin in range(0, len(parts), CLAUSES)]


def _joined(parts: list[str]) -> list[str]:
    """Merge a short piece with the next one, and a short last piece with the one before."""
    found, short = list[str](), ""
    for part in parts:
        short += part
        if len(short) >= SHORTEST:
            found.append(short)
            short = ""
    if short and found:
        return [*found[:-1], found[-1] + short]
    return [*found, short] if short else found


def _speaks(piece: str) -> bool:
    return any(letter.isalnum() for letter in piece)
