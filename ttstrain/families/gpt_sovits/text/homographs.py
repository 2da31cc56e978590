"""English homographs: words with two pronunciations, mostly as verb and as noun: `the record`, `to record`.

The nearest words that are no adverbs decide. The table is g2p_en's (Apache-2.0), with upstream's corrections and one
more word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).parent / "data" / "homographs.txt"


class Homograph(NamedTuple):
    """Phonemes as a verb, or as the part of speech the table names, and as anything else."""

    marked: tuple[str, ...]
    other: tuple[str, ...]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_AUXILIARIES = _set(
    "to will would can could shall should may might must do does did cannot let's please "
    "don't doesn't didn't won't wouldn't can't couldn't shouldn't mustn't "
    "i'll you'll we'll they'll he'll she'll it'll i'd you'd we'd they'd he'd she'd"
)
_BEFORE_VERBS = _AUXILIARIES | _set("i you we they who")
_BEFORE_VERBS_IN_S = _set("he she it who which that")
_BEFORE_NOUNS = _set(
    "the a an this that these those my your his her its our their no some any each every of in on at by for with from "
    "as into than is are was were be been being very more most so and or"
)
_OBJECTS = _set("the a an this that these those my your his her its our their it him them me us")
_ADVERBS = _set("not never always also often only still just even then now ever")


@cache
def homographs() -> Mapping[str, Homograph]:
    """Return the table, by words in lower case."""
    table = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        word, marked, other, _ = line.split("|")
        table[word] = Homograph(tuple(marked.split()), tuple(other.split()))
    table["live"] = Homograph(("L", "IH1", "V"), ("L", "AY1", "V"))
    return table


def choose(tokens: Sequence[str], index: int) -> tuple[str, ...]:
    """Return the phonemes of the word at `index` of a sentence of words and marks."""
    word = tokens[index].lower()
    marked, other = homographs()[word]
    before, after = _neighbour(tokens, index, -1), _neighbour(tokens, index, 1)
    if word == "read":  # the present
        return marked if before in _AUXILIARIES or (not before and after in _OBJECTS) else other
    if word == "used":  # the participle; `used to` is the habit
        return other if after == "to" else marked
    if word == "content":  # the noun
        return marked if before in ("the", "a", "this", "its", "of", "their") else other
    if word in ("closer", "complex"):  # the adjectives
        return other
    if word == "live":  # a live show
        return other if before in _BEFORE_NOUNS else marked
    return marked if _is_verb(word, before, after) else other


def _is_verb(word: str, before: str, after: str) -> bool:
    """Decide by a word's neighbours whether it is a verb; an infinitive never has the `s` of the third person."""
    if word.endswith("s") and word[:-1] in homographs():
        return before in _BEFORE_VERBS_IN_S
    return before in _BEFORE_VERBS or (after in _OBJECTS and before not in _BEFORE_NOUNS)


def _neighbour(tokens: Sequence[str], index: int, step: int) -> str:
    """Return the next word that is no adverb, in lower case; nothing at a mark or the sentence's end."""
    index += step
    while 0 <= index < len(tokens) and (tokens[index].lower() in _ADVERBS or tokens[index].lower().endswith("ly")):
        index += step
    found = tokens[index].lower() if 0 <= index < len(tokens) else ""
    return found if found[:1].isalpha() else ""
