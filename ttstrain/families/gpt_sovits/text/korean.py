"""Korean phonemes: Hangul as it is pronounced, taken apart into simple letters, as upstream writes them.

A space is `空`; a mark that has no symbol is `停`; a text that ends without a mark gets a full stop. Upstream's g2pk2
also uses a tagger, where the spelling does not determine the pronunciation.
"""

from __future__ import annotations

import re

from ttstrain.families.gpt_sovits.text.hangul import is_hangul, pronounced_letters
from ttstrain.families.gpt_sovits.text.korean_text import write_out
from ttstrain.families.gpt_sovits.text.reading import Reading, unsaid
from ttstrain.families.gpt_sovits.text.symbols import KOREAN_SPACE, KOREAN_STOP, PAUSES

_MARKS = {"：": ",", "；": ",", "，": ",", "。": ".", "！": "!", "？": "?", "·": ",", "、": ",", " ": KOREAN_SPACE}


def read(text: str, version: str) -> Reading:
    """Read a sentence; `normalized` has numbers and Latin letters in Hangul. The same for all versions from v2 on."""
    del version
    normalized = write_out(text)
    phones: list[str] = []
    for run in re.findall(r"[가-힣]+(?: [가-힣]+)*|[^가-힣]", normalized):
        if is_hangul(run[0]):
            letters = pronounced_letters(run.split(" "))
            phones.extend(phone for word in letters for phone in (KOREAN_SPACE, *word))
            del phones[-sum(len(word) + 1 for word in letters)]  # the space before the first word
        else:
            phones.append(_mark(run))
    if phones and _is_letter(phones[-1]):
        phones.append(".")
    return Reading(tuple(phones), normalized, dropped=tuple(dict.fromkeys(unsaid(text, _words, plain=_is_plain))))


def _mark(character: str) -> str:
    phone = _MARKS.get(character, character)
    return phone if phone in (*PAUSES, KOREAN_SPACE) or _is_letter(phone) else KOREAN_STOP


def _is_letter(phone: str) -> bool:
    return "ㄱ" <= phone <= "ㅣ"


def _words(text: str) -> list[str]:
    """Return the part of a text that is pronounced."""
    return re.findall(r"[가-힣]+|[ㄱ-ㅣ]", write_out(text))


def _is_plain(character: str) -> bool:
    return is_hangul(character) or (character.isascii() and character.isalnum())
