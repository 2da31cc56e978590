"""From a sentence to tokens, exactly as F5-TTS reads it. Imports no torch.

Upstream's inference sends every text through its pinyin function, whatever the language, so training has to as well.
It segments with rjieba, whose word borders decide where a space is put in: between `ß` and `er` of `größer`, for
instance, because every letter outside ASCII ends a word. Both libraries' versions are part of a model's front end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from ttstrain.errors import RecipeError
from ttstrain.families.flow.vocab import Vocab

TokenizerKind = Literal["pinyin", "char", "custom"]

_REPLACED = str.maketrans({";": ",", "“": '"', "”": '"', "‘": "'", "’": "'"})


def tokenize(text: str, *, kind: TokenizerKind) -> list[str]:
    """Split a text into tokens; `pinyin` and `custom` differ only in what is asked of the vocab.

    Raises RecipeError when the libraries of the `flow` extra are missing.
    """
    return list(text) if kind == "char" else pinyin_tokens(text)


def encode(text: str, vocab: Vocab, *, kind: TokenizerKind) -> list[int]:
    """Return the vocab indices of a text."""
    return vocab.encode(tokenize(text, kind=kind))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of some texts a vocab can read."""

    num_tokens: int
    unknown: dict[str, int] = field(default_factory=dict)  # token -> count, most frequent first
    examples: dict[str, str] = field(default_factory=dict)  # token -> the first text that holds it

    @property
    def num_unknown(self) -> int:
        return sum(self.unknown.values())

    @property
    def unknown_share(self) -> float:
        return self.num_unknown / self.num_tokens if self.num_tokens else 0.0


def coverage(texts: Iterable[str], vocab: Vocab, *, kind: TokenizerKind) -> Coverage:
    """Count the tokens of some texts that the vocab does not hold and would read as spaces."""
    unknown: Counter[str] = Counter()
    examples: dict[str, str] = {}
    num_tokens = 0
    for text in texts:
        tokens = tokenize(text, kind=kind)
        num_tokens += len(tokens)
        for token in tokens:
            if token not in vocab.index:
                unknown[token] += 1
                examples.setdefault(token, text)
    ordered = dict(unknown.most_common())
    return Coverage(num_tokens=num_tokens, unknown=ordered, examples={token: examples[token] for token in ordered})


def pinyin_tokens(text: str) -> list[str]:
    """Split into characters, Chinese ones into a space and a syllable with its tone number."""
    cut, syllables = _front_end()
    tokens: list[str] = []
    for word in cut(text.translate(_REPLACED)):
        num_bytes = len(word.encode())
        if num_bytes == len(word):  # ASCII
            if tokens and num_bytes > 1 and tokens[-1] not in (" ", ":", "'", '"'):
                tokens.append(" ")
            tokens.extend(word)
        elif num_bytes == 3 * len(word):  # East Asian throughout: the word decides between readings
            for character, syllable in zip(word, syllables(word), strict=True):
                tokens.extend([" ", syllable] if _is_chinese(character) else [syllable])
        else:
            for character in word:
                tokens.extend([" ", *syllables(character)] if _is_chinese(character) else [character])
    return tokens


def front_end_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on tokens, for a checkpoint to keep."""
    _front_end()
    return {name: metadata.version(name) for name in ("pypinyin", "rjieba")}


def _is_chinese(character: str) -> bool:
    return "\u3100" <= character <= "\u9fff"


def _front_end() -> tuple[Callable[[str], Sequence[str]], Callable[[str], list[str]]]:
    try:
        import pypinyin
        import rjieba
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the `pinyin` tokenizer needs `{error.name}`, which is not installed",
            hint='pip install "ttstrain[flow]", or set `model.tokenizer=char`',
        ) from error

    def syllables(word: str) -> list[str]:
        # One entry per character where pypinyin knows no reading; it would else return the whole stretch as one.
        characters: Any = list
        result: list[str] = pypinyin.lazy_pinyin(word, style=pypinyin.Style.TONE3, tone_sandhi=True, errors=characters)
        return result

    cut: Callable[[str], Sequence[str]] = rjieba.cut
    return cut, syllables
