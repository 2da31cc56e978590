"""Letters that Unicode spells in two ways, as a vocabulary spells them. Imports no torch.

`é` is one character or `e` and an accent. Texts are composed before they are read; a vocabulary may have been made of
texts that were not, or of letters such as U+09DC, which composing would take apart. A letter that the table holds as it
is written is never changed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


class Spelling:
    """The spelling of one table."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._held = {token for token in tokens if len(token) == 1}
        # Accents that the table has no composed letter with: beside `é`, a lone accent is no spelling of `è`.
        composed = {mark for token in self._held for mark in unicodedata.normalize("NFD", token)[1:]}
        self._accents = {mark for mark in self._held if unicodedata.combining(mark)} - composed
        self._whole = {
            apart: token
            for token in self._held
            if (apart := unicodedata.normalize("NFC", token)) != token and not self._held.issuperset(apart)
        }
        longest_first = sorted(self._whole, key=len, reverse=True)
        self._apart = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._known: dict[str, str] = {}

    def of(self, text: str) -> str:
        """Return a composed text as the table spells it."""
        if text.isascii():
            return text
        if self._apart is not None:
            text = self._apart.sub(lambda match: self._whole[match[0]], text)
        if self._accents:
            text = "".join(c if c in self._held else self._letter(c) for c in text)
        return text

    def _letter(self, c: str) -> str:
        if c not in self._known:
            self._known[c] = self._taken_apart(c) or c
        return self._known[c]

    def _taken_apart(self, c: str) -> str | None:
        """Return a letter the table lacks as held characters and accents, step by step; None where it cannot be."""
        if c in self._held:
            return c
        parts = unicodedata.decomposition(c).split()
        if len(parts) != 2 or parts[0].startswith("<"):  # another letter, or a form of one
            return None
        letter, mark = (chr(int(part, 16)) for part in parts)
        before = self._taken_apart(letter)
        return before + mark if before is not None and mark in self._accents else None
