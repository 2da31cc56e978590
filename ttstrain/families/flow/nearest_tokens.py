"""Nearest tokens, by spelling or sound, of a token that a vocab lacks. Imports no torch.

Uses Unicode's own tables: decompositions, case, and names of letters, which say `WITH STROKE` or `SMALL TU` where there
is no decomposition.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

OriginKind = Literal["similar", "script", "mean"]

_SYLLABLE = re.compile(r"(?P<initial>zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]?)(?P<final>[aeiouvüêmn][a-zü]*)(?P<tone>[1-5]?)")
_MARKS = {  # part of a name -> similar plain marks, best first
    "SINGLE": "'",
    "QUOTATION MARK": "\"'",
    "APOSTROPHE": "'",
    "PRIME": "'",
    "DASH": "-—",
    "HYPHEN": "-",
    "QUESTION MARK": "?？",
    "EXCLAMATION MARK": "!！",
    "SEMICOLON": ";,",
    "COLON": ":",
    "COMMA": ",，",
    "FULL STOP": ".。",
    "DANDA": ".",
    "ELLIPSIS": ".…",
    "SPACE": " ",
    "BRACKET": "()",
    "PARENTHESIS": "()",
}
_SHARED_JAMO = 2  # letters that a similar syllable has in common


@dataclass(frozen=True, slots=True)
class Origin:
    """The tokens whose embeddings a new one starts from; none for the mean of all."""

    kind: OriginKind
    tokens: tuple[str, ...]


class Origins:
    """Finds nearest tokens in one vocab."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = frozenset(tokens)
        self._scripts: dict[str, list[str]] = defaultdict(list)
        self._hangul: list[tuple[str, str]] = []  # (syllable, its jamo)
        self._jamo: dict[str, str] = {}  # jamo of a syllable -> the token of that letter
        self._pinyin: list[tuple[str, re.Match[str]]] = []
        for token in tokens:
            if script := _script(token):
                self._scripts[script].append(token)
            if _is_hangul(token):
                self._hangul.append((token, unicodedata.normalize("NFD", token)))
            if "\u3131" <= token <= "\u318e" or "\u1100" <= token <= "\u11ff":
                self._jamo[unicodedata.normalize("NFKC", token)] = token
            if len(token) > 1 and (syllable := _SYLLABLE.fullmatch(token)):
                self._pinyin.append((token, syllable))

    def of(self, token: str) -> Origin:
        """Return the tokens that a missing token's embedding starts from."""
        for candidate in _spellings(token):
            if candidate in self._tokens and candidate != token:
                return Origin("similar", (candidate,))
        if relatives := self._relatives(token):
            return Origin("similar", tuple(relatives))
        same_script = self._scripts.get(_script(token), [])
        return Origin("script", tuple(same_script)) if same_script else Origin("mean", ())

    def _relatives(self, token: str) -> list[str]:
        """Find tokens that share a part with this one: a syllable, a final, letters."""
        if _is_hangul(token):
            return self._same_jamo(token)
        if len(token) > 1 and (syllable := _SYLLABLE.fullmatch(token)) and (found := self._same_sound(syllable)):
            return found
        # `æ` from `a` and `e`; a token of several characters from these.
        return [part for part in _parts(token) if part in self._tokens and (token.isdigit() or not part.isdigit())]

    def _same_jamo(self, token: str) -> list[str]:
        own = unicodedata.normalize("NFD", token)
        # A syllable has two or three jamo; a final that only one of two has is not shared.
        shared = [(sum(a == b for a, b in zip(own, jamo, strict=False)), syllable) for syllable, jamo in self._hangul]
        most = max((count for count, _ in shared), default=0)
        if most < _SHARED_JAMO:
            return [self._jamo[jamo] for jamo in own if jamo in self._jamo]
        return [syllable for count, syllable in shared if count == most]

    def _same_sound(self, wanted: re.Match[str]) -> list[str]:
        """Prefer the syllable in other tones, then its final in the same tone, then its final."""
        initial, final, tone = wanted.group("initial", "final", "tone")
        groups: tuple[list[str], list[str], list[str]] = ([], [], [])
        for token, syllable in self._pinyin:
            if syllable["final"] != final:
                continue
            rank = 0 if syllable["initial"] == initial else 1 if syllable["tone"] == tone else 2
            groups[rank].append(token)
        return next((group for group in groups if group), [])


# ---------------------------------------------------------------- ways to write it


def _spellings(token: str) -> Iterator[str]:
    """Yield what a token could be written as, closest first."""
    for form in _forms(token):
        yield form
        yield form.lower()
        yield form.upper()
        yield form.casefold()
    if len(token) == 1:
        yield from _named_alike(token)


def _forms(token: str) -> Iterator[str]:
    yield token
    yield unicodedata.normalize("NFKC", token)
    if len(token) == 1 and (step := unicodedata.decomposition(token)) and not step.startswith("<"):
        yield chr(int(step.split()[0], 16))  # one mark less: `ẩ` from `â`, rather than from `a`
    decomposed = unicodedata.normalize("NFKD", token)
    if bare := "".join(mark for mark in decomposed if not unicodedata.combining(mark)):
        yield unicodedata.normalize("NFC", bare)
    if len(token) == 1:
        for name in _plainer_names(unicodedata.name(token, "")):
            try:
                yield unicodedata.lookup(name)
            except KeyError:
                continue


def _plainer_names(name: str) -> Iterator[str]:
    """Leave out what a name adds to a letter, and try the other kana."""
    plain, _, _ = name.partition(" WITH ")
    stems = dict.fromkeys([plain, plain.replace("LETTER SMALL ", "LETTER ")])
    for stem in stems:
        if stem != name:
            yield stem
    for stem in stems:
        if stem.startswith("HIRAGANA"):
            yield stem.replace("HIRAGANA", "KATAKANA")
        elif stem.startswith("KATAKANA"):
            yield stem.replace("KATAKANA", "HIRAGANA")
    letter = plain.rpartition(" ")[2]  # LATIN SMALL LETTER SHARP S, DOTLESS I, FINAL KAF
    if " LETTER " in plain:
        stem = plain.partition(" LETTER ")[0] + " LETTER "
        yield stem + letter


def _named_alike(character: str) -> Iterator[str]:
    digit = unicodedata.digit(character, None)
    if digit is not None:
        yield str(digit)
    if unicodedata.category(character)[0] in "PSZ":
        name = unicodedata.name(character, "")
        for part, marks in _MARKS.items():
            if part in name:
                yield from marks


def _parts(token: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", token)
    if len(plain) > 1:
        return list(dict.fromkeys(plain))
    name = unicodedata.name(token, "")
    letters = name.partition(" LETTER ")[2].partition(" WITH ")[0]  # LATIN SMALL LETTER AE, LATIN SMALL LIGATURE OE
    letters = letters or name.partition(" LIGATURE ")[2]
    if not (letters.isascii() and letters.isalpha() and len(letters) == 2):
        return []
    return list(letters if " CAPITAL " in name else letters.lower()) if name.startswith("LATIN") else []


# ---------------------------------------------------------------- scripts


def _script(token: str) -> str:
    """Return the first word of the name of a token's first letter, such as ARABIC; "" where it is no letter."""
    if not token or (len(token) > 1 and token.isascii()):
        return "PINYIN" if _SYLLABLE.fullmatch(token) else ""
    if unicodedata.category(token[0])[0] not in "LM":
        return ""
    return unicodedata.name(token[0], "").partition(" ")[0].partition("-")[0]


def _is_hangul(token: str) -> bool:
    return len(token) == 1 and "\uac00" <= token <= "\ud7a3"
