"""Check the third column of `id|text|...`: LJSpeech's normalised text, something else, or the end of the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttstrain.data.readers.quoting import Record
from ttstrain.data.readers.rows import TableError, printable

LEAST_SHARED = 0.5  # of the second column's letters, in words that the third holds too
LEAST_TO_REFUSE = 4  # rows


@dataclass(frozen=True, slots=True)
class Third:
    """Rows whose third column is not the second one spelled out."""

    odd: frozenset[int] = frozenset()  # line numbers of rows with a column too many, which are left out
    doubtful: frozenset[int] = frozenset()  # line numbers of rows that are used, with a note


def check_third(path: Path, body: Sequence[Record]) -> Third:
    """Compare the third column with the second. Raises TableError where it is mostly something else."""
    counts = Counter(len(record.fields) for record in body)
    filled = [r for r in body if len(r.fields) == 3 and r.fields[1].strip() and r.fields[2].strip()]
    unlike = [record for record in filled if not spells_out(record.fields[1], record.fields[2])]
    numbers = frozenset(record.number for record in unlike)
    if counts[2] > counts[3]:
        return Third(odd=numbers)
    if len(filled) >= LEAST_TO_REFUSE and 2 * len(unlike) > len(filled):
        shown = unlike[0].fields
        raise TableError(
            "columns",
            f"the third column of `{path}` is no normalised text: it says `{printable(shown[2])}` where the second "
            f"says `{printable(shown[1])}`",
            hint="name the columns in a first line, such as `file|text|speaker`; a column with a name of your own is "
            "not used; `id|text|normalized_text` takes the third for the text all the same",
        )
    return Third(doubtful=numbers)


def spells_out(text: str, normalised: str) -> bool:
    """Tell whether `normalised` may be `text` spelled out: most words are the same."""
    words, others = _words(text), set(_words(normalised))
    num_letters = sum(map(len, words))
    shared = sum(len(word) for word in words if word in others)
    return shared >= LEAST_SHARED * num_letters


def _words(text: str) -> list[str]:
    """Return words of letters; in scripts without spaces, each character is a word."""
    words: list[str] = []
    word = ""
    for c in text.casefold():
        if "\u2e80" <= c <= "\uffef" and c.isalpha():
            words += [word, c]
            word = ""
        elif c.isalpha() or (word and c in "'’"):
            word += c
        else:
            words.append(word)
            word = ""
    return [word for word in [*words, word] if word]
