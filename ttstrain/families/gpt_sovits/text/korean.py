"""Korean phonemes: Hangul as it is pronounced, taken apart into simple letters, as upstream writes them.

A space is `空`; a mark that has no symbol is `停`; a text that ends without a mark gets a full stop. Upstream's g2pk2
also asks a tagger for what spelling alone does not decide.
"""

from __future__ import annotations

import re

from ttstrain.families.gpt_sovits.text.hangul import is_hangul, native_number, pronounced_letters, sino_number
from ttstrain.families.gpt_sovits.text.reading import Reading, is_spoken
from ttstrain.families.gpt_sovits.text.symbols import KOREAN_SPACE, KOREAN_STOP, PAUSES

_NAMES = "에이 비 시 디 이 에프 지 에이치 아이 제이 케이 엘 엠 엔 오 피 큐 아르 에스 티 유 브이 더블유 엑스 와이 제트"
_LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", _NAMES.split(), strict=True))
_SIGNS = {"%": "퍼센트", "℃": "도", "&": "앤", "+": "더하기"}
_COUNTERS = (
    "개|명|살|시간|시|번|마리|권|대|병|잔|그루|채|켤레|가지|달|사람|송이|"
    "자루|벌|군데|척|통|모|곳|배|줄|판"
)  # of what is counted with native numbers, up to 99
_MARKS = {"：": ",", "；": ",", "，": ",", "。": ".", "！": "!", "？": "?", "·": ",", "、": ",", " ": KOREAN_SPACE}
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def read(text: str, version: str) -> Reading:
    """Read a sentence; `normalized` has numbers and Latin letters in Hangul. Versions from v2 on read alike."""
    del version
    normalized = _write_out(text)
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
    return Reading(tuple(phones), normalized, dropped=_dropped(normalized))


def _write_out(text: str) -> str:
    """Write numbers, signs and Latin letters in Hangul; of marks in a row the first stays."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.translate(_HALF_WIDTH)).lower()
    text = re.sub(rf"(?<![\d.])([1-9]\d?)(?=\s?(?:{_COUNTERS}))", lambda found: native_number(int(found[0])), text)
    text = re.sub(r"\d+(?:-\d+)+", lambda found: _digits(found[0].replace("-", "")).replace("영", "공"), text)
    text = re.sub(r"(\d+)\.(\d+)", lambda found: f"{sino_number(found[1])}점{_digits(found[2])}", text)
    text = re.sub(r"\d+", lambda found: sino_number(found[0]), text)
    text = "".join(_SIGNS.get(character) or _LETTERS.get(character) or character for character in text)
    text = re.sub(r"\.{2,}", "…", re.sub(r"\s+", " ", text)).strip()
    return re.sub(r"([!?…,.])[!?…,.]+", r"\1", text)


def _digits(digits: str) -> str:
    return "".join(sino_number(digit) for digit in digits)


def _mark(character: str) -> str:
    phone = _MARKS.get(character, character)
    return phone if phone in (*PAUSES, KOREAN_SPACE) or _is_letter(phone) else KOREAN_STOP


def _is_letter(phone: str) -> bool:
    return "ㄱ" <= phone <= "ㅣ"


def _dropped(normalized: str) -> tuple[str, ...]:
    unread = [c for c in normalized if is_spoken(c) and not is_hangul(c) and not _is_letter(c)]
    return tuple(dict.fromkeys(unread))
