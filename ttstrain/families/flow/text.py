"""From a sentence to tokens, exactly as F5-TTS reads it. Imports no torch.

Upstream's inference sends every text through its pinyin function, whatever the language, so training has to as well.
It segments with rjieba, whose word borders decide where a space is put in: between `ß` and `er` of `größer`, for
instance, because every letter outside ASCII ends a word. Both libraries' versions are part of a model's front end.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, Literal

from ttstrain.contract.data import Token
from ttstrain.data.readers.rows import printable
from ttstrain.data.texts import VOCAB
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
    """Return the vocab indices of a text, its letters spelled as the vocab spells them."""
    return vocab.encode(tokenize(vocab.spelling.of(text), kind=kind))


class FlowFrontEnd:
    """One tokenizer and one vocab, as `ttstrain.contract.data.FrontEnd`."""

    def __init__(self, vocab: Vocab, *, kind: TokenizerKind, max_unknown: float) -> None:
        self.name: str = kind
        self.kind = kind
        self.vocab: Sequence[str] = vocab.tokens
        self.vocab_source = vocab.source
        self.max_unknown = max_unknown
        self.unknown_as = "spaces"
        self.separator = ""
        self.by_word = True  # rjieba never joins what stands on two sides of a space
        self.versions: Mapping[str, str] = {
            "tokenizer": "characters" if kind == "char" else "pinyin",
            **({} if kind == "char" else front_end_versions()),
            VOCAB: f"sha256:{vocab.sha256}",
        }
        self._index = vocab.index
        self._spelling = vocab.spelling

    def tokens(self, text: str, language: str = "") -> list[Token]:
        """Read one text of any language; a token that the vocab lacks would be read as index 0, the space."""
        del language
        text = self._spelling.of(text)
        read = [Token(character) for character in text] if self.kind == "char" else marked_tokens(text)
        return [token if token.text in self._index else Token(token.text, "unknown") for token in read]


@functools.lru_cache(maxsize=4096)
def _known(character: str) -> Token:
    return Token(character)


def pinyin_tokens(text: str) -> list[str]:
    """Split into characters, Chinese ones into a space and a syllable with its tone number."""
    return [token.text for token in marked_tokens(text)]


def marked_tokens(text: str) -> list[Token]:
    """Split as `pinyin_tokens` and mark the spaces that the text does not hold."""
    cut = _front_end()
    tokens: list[Token] = []
    before = ""  # the last character read
    for word in cut(text.translate(_REPLACED)):
        num_bytes = len(word.encode())
        if num_bytes == len(word):  # ASCII
            if tokens and num_bytes > 1 and tokens[-1].text not in (" ", ":", "'", '"'):
                tokens.append(Token(" ", "split" if _has_case(before) and word[0].isalnum() else "inserted"))
            tokens.extend(map(_known, word))
        elif num_bytes == 3 * len(word):  # East Asian throughout: the word decides between readings
            for character, syllable in zip(word, _syllables(word), strict=True):
                tokens.extend(_spoken(syllable) if _is_chinese(character) else [Token(syllable)])
        else:
            for character in word:
                tokens.extend(_spoken(*_syllables(character)) if _is_chinese(character) else [Token(character)])
        before = word[-1:]
    return tokens


def other_readings(texts: Sequence[str]) -> str | None:
    """Say how many texts upstream's inference reads otherwise than as plain characters; None where it is none."""
    try:
        _front_end()
    except RecipeError:
        return (
            "`tokenizer: char` trains on plain characters, but upstream's inference sends every text through its "
            "pinyin function; its package is not installed, so differences are not checked"
        )
    first, count = "", 0
    for text in texts:
        if (read := pinyin_tokens(text)) != list(text):
            count += 1
            first = first or f"{printable(text, limit=30)!r} as {printable(''.join(read), limit=30)!r}"
    if not count:
        return None
    return (
        f"WARNING: upstream's inference tokenizes {count:,} of {len(texts):,} texts differently from "
        f"`tokenizer: char`, {first}; use `tokenizer: custom` with the same vocab to match it"
    )


def front_end_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on tokens, for a checkpoint to keep."""
    _front_end()
    return {name: metadata.version(name) for name in ("pypinyin", "rjieba")}


def _spoken(*syllables: str) -> list[Token]:
    return [Token(" ", "inserted"), *map(Token, syllables)]


def _has_case(character: str) -> bool:
    """Tell letters of alphabets with two cases from East Asian characters, which the rules treat alike."""
    return character.lower() != character.upper()


def _is_chinese(character: str) -> bool:
    return "\u3100" <= character <= "\u9fff"


def _front_end() -> Callable[[str], Sequence[str]]:
    """Return what cuts a text into words. Raises RecipeError where this or pypinyin is not installed."""
    try:
        _find_pypinyin()
        import rjieba
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the `pinyin` tokenizer needs `{error.name}`, which is not installed",
            hint='pip install "ttstrain[flow]", or set `model.tokenizer=char`',
        ) from error
    cut: Callable[[str], Sequence[str]] = rjieba.cut
    return cut


@functools.cache
def _find_pypinyin() -> None:
    if importlib.util.find_spec("pypinyin") is None:
        raise ModuleNotFoundError("there is no pypinyin", name="pypinyin")


def _syllables(word: str) -> list[str]:
    import pypinyin  # only here: it takes a second, and most languages never need it

    # One entry per character where pypinyin knows no reading; it would else return the whole stretch as one.
    characters: Any = list
    result: list[str] = pypinyin.lazy_pinyin(word, style=pypinyin.Style.TONE3, tone_sandhi=True, errors=characters)
    return result
