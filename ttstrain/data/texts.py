"""Tokenize the texts of the data: unknown tokens, and words that the front end splits. No torch."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ttstrain.contract.data import FrontEnd, Token
from ttstrain.data.in_columns import column

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip


VOCAB = "vocab"  # the entry of `FrontEnd.versions` that is a hash of the vocabulary
TEXTS_AT_ONCE = 2000
NO_TOKENS = {"Cc", "Cs"}  # Unicode categories that a file of one token per line cannot hold

_Counted = TypeVar("_Counted", str, tuple[str, str])


@dataclass(frozen=True, slots=True)
class TextReport:
    """Statistics of some texts' tokens."""

    front_end: Mapping[str, str]  # its versions
    vocab_source: str
    vocab_size: int
    max_unknown: float
    num_tokens: int
    num_words: int  # 0 if the tokens do not show words
    unknown: Mapping[str, int] = field(default_factory=dict)  # token -> count, most frequent first
    examples: Mapping[str, str] = field(default_factory=dict)  # token -> the first text with it
    split: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (word, as it is read) -> count
    unknown_as: str = "spaces"

    @property
    def num_unknown(self) -> int:
        return sum(self.unknown.values())

    @property
    def unknown_share(self) -> float:
        return self.num_unknown / self.num_tokens if self.num_tokens else 0.0

    @property
    def refused(self) -> bool:
        """Whether the share of unknown tokens is over the limit."""
        return self.unknown_share > self.max_unknown

    @property
    def num_split(self) -> int:
        return sum(self.split.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "front_end": dict(self.front_end),
            "vocab": self.vocab_source,
            "vocab_size": self.vocab_size,
            "tokens": self.num_tokens,
            "unknown": [
                {"symbol": symbol, "count": count, "example": self.examples[symbol]}
                for symbol, count in self.unknown.items()
            ],
            "unknown_share": self.unknown_share,
            "max_unknown": self.max_unknown,
            "words": self.num_words or None,
            "split_words": [{"word": word, "read": read, "count": count} for (word, read), count in self.split.items()],
        }


def read_clip_text(clip: Clip, front_end: FrontEnd) -> Sequence[Token]:
    """Tokenize a clip's text, or use another trainer's tokens if the clip has only those."""
    if not clip.tokens:
        return front_end.tokens(clip.text, clip.language)
    known = set(front_end.vocab).intersection(clip.tokens)
    return [Token(token, "known" if token in known else "unknown") for token in clip.tokens]


def read_texts(clips: Sequence[Clip], front_end: FrontEnd) -> TextReport:
    """Count unknown tokens, and words that the front end splits."""
    by_word = front_end.by_word and not any(column(clips, "tokens"))
    if by_word and [token.kind for token in front_end.tokens(" ")] == ["known"]:
        counts = _count_words(clips, front_end)
    else:
        counts = _Counts()
        for clip in clips:
            counts.add(read_clip_text(clip, front_end), text=clip.text, with_words=not front_end.separator)
    ordered = _by_frequency(counts.unknown)
    return TextReport(
        front_end=front_end.versions,
        vocab_source=front_end.vocab_source,
        vocab_size=len(front_end.vocab),
        max_unknown=front_end.max_unknown,
        num_tokens=counts.num_tokens,
        num_words=counts.num_words,
        unknown=ordered,
        examples={token: counts.examples[token] for token in ordered},
        split=_by_frequency(counts.split),
        unknown_as=front_end.unknown_as,
    )


@dataclass(slots=True)
class _Counts:
    num_tokens: int = 0
    num_words: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    split: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # unknown token -> the first text with it

    def add(self, tokens: Sequence[Token], *, text: str, with_words: bool, times: int = 1) -> None:
        """Count the tokens of a text that occurs so many times."""
        self.num_tokens += times * len(tokens)
        for token in tokens:
            if token.kind == "unknown":
                self.unknown[token.text] += times
                self.examples.setdefault(token.text, text)
        for word in words(tokens) if with_words else ():
            self.num_words += times
            if any(token.kind == "split" for token in word):
                whole = "".join(token.text for token in word if token.kind != "split")
                self.split[whole, "".join(token.text for token in word)] += times


def _count_words(clips: Sequence[Clip], front_end: FrontEnd) -> _Counts:
    """Read each word once, however often it occurs: a million texts hold a few ten thousand."""
    counts = _Counts()
    by_language: dict[str, Counter[str]] = defaultdict(Counter)  # in the order in which words first occur
    for language, some in _texts_by_language(clips):
        by_language[language].update(found := " ".join(some).split(" "))
        counts.num_tokens += len(found) - len(some)  # the spaces within texts
    unknown: dict[tuple[str, str], list[str]] = {}  # language and word -> unknown tokens
    for language, times in by_language.items():
        for word, count in times.items():
            tokens = front_end.tokens(word, language)
            counts.add(tokens, text="", with_words=not front_end.separator, times=count)
            if missing := [token.text for token in tokens if token.kind == "unknown"]:
                unknown[language, word] = missing
    counts.examples = _first_texts(clips, unknown)
    return counts


def _texts_by_language(clips: Sequence[Clip]) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts, some at a time that are of one language: their words are counted together."""
    texts, languages = column(clips, "text"), column(clips, "language")
    for start in range(0, len(clips), TEXTS_AT_ONCE):
        at_once = slice(start, start + TEXTS_AT_ONCE)
        found = dict.fromkeys(languages[at_once])
        for language in found:
            pairs = zip(texts[at_once], languages[at_once], strict=True)
            one_of_many = [text for text, own in pairs if own == language] if len(found) > 1 else texts[at_once]
            yield language, list(one_of_many)


def _first_texts(clips: Sequence[Clip], unknown: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, str]:
    """Map each unknown token to the first text with it; `unknown` are the tokens of a language's word."""
    examples: dict[str, str] = {}
    left = set(unknown)
    for text, language in zip(column(clips, "text"), column(clips, "language"), strict=True):
        if not left:
            break
        for place in left.intersection((language, word) for word in text.split(" ")):
            left.discard(place)
            for token in unknown[place]:
                examples.setdefault(token, text)
    return examples


def words(tokens: Iterable[Token]) -> Iterable[list[Token]]:
    """Group tokens into words, at spaces that are in the text."""
    word: list[Token] = []
    for token in tokens:
        if token.text == " " and token.kind != "split":
            if word:
                yield word
            word = []
        else:
            word.append(token)
    if word:
        yield word


def extended_vocab(vocab: Sequence[str], unknown: Iterable[str]) -> list[str]:
    """Append the unknown tokens to a vocabulary, in the order of their code points.

    Old tokens keep their indices. Control characters, which would break the file's lines, are left out.
    """
    held = set(vocab)
    usable = {token for token in unknown if not any(unicodedata.category(c) in NO_TOKENS for c in token)}
    return [*vocab, *sorted(usable - held)]


def _by_frequency(counts: Counter[_Counted]) -> dict[_Counted, int]:
    """Order counts from the highest; equal counts by key."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
