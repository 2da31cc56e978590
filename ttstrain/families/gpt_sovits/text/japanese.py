"""Japanese phonemes with marks of pitch, from OpenJTalk's full-context labels.

`[` stands where the pitch rises, `]` where it falls, `#` at the border of accent phrases, `_` at a pause: Kurihara's
marks as ESPnet writes them. v1 has none of these but the pause. Marks of the text stay; upstream reads every other one
as `UNK`, quotation marks included, and so do we, for its models have learned that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttstrain.families.gpt_sovits.text.japanese_dictionary import OWN, Dictionary, labels
from ttstrain.families.gpt_sovits.text.japanese_text import write_out
from ttstrain.families.gpt_sovits.text.reading import Reading, is_spoken
from ttstrain.families.gpt_sovits.text.symbols import PITCH_FALL, PITCH_RISE

_ACCENT_BORDER = "#"
_PROSODY = (PITCH_RISE, PITCH_FALL, _ACCENT_BORDER)

# Kana, kanji, and letters and digits of both widths, and a hyphen within a number or a word; all else is a mark.
_SIGN = r"[A-Za-z\d\u3005-\u3007\u3040-\u30ff\u4e00-\u9fff\uff11-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9d]"
_SPOKEN = re.compile(rf"{_SIGN}+(?:(?:(?<=\d)-(?=\d)|(?<=[A-Za-z])-(?=[A-Za-z])){_SIGN}+)*")
_MARKS = {"：": ",", "；": ",", "，": ",", "、": ",", "·": ",", "。": ".", "\n": ".", "！": "!", "？": "?"}

# Of a full-context label: the phoneme; the mora's distance to the accent, its place from both ends of the accent
# phrase; the number of moras in that phrase.
_LABEL = re.compile(
    r"-(?P<phone>.*?)\+.*?/A:(?P<to_accent>-?\d+|xx)\+(?P<from_start>\d+|xx)\+(?P<from_end>\d+|xx)/.*?/F:(?P<moras>\d+|xx)_"
)
_NOT_THERE = -50  # as the value of a field that a pause has not


def read(text: str, version: str, dictionary: Dictionary = OWN) -> Reading:
    """Read a sentence; of marks in a row the first is kept."""
    normalized = re.sub(r"([!?…,.-])[!?…,.-]+", r"\1", write_out(text))
    phones: list[str] = []
    dropped: list[str] = []
    end = 0
    for run in _SPOKEN.finditer(normalized):
        phones.extend(_marks(normalized[end : run.start()]))
        read_phones = _phones(run[0], dictionary)
        phones.extend(phone for phone in read_phones if version != "v1" or phone not in _PROSODY)
        if not read_phones:  # a prolonged sound mark alone
            dropped.extend(filter(is_spoken, run[0]))
        end = run.end()
    phones.extend(_marks(normalized[end:]))
    return Reading(tuple(phones), normalized, dropped=tuple(dropped))


def _marks(text: str) -> Sequence[str]:
    return [_MARKS.get(mark, mark) for mark in text if not mark.isspace() or mark == "\n"]


def _phones(text: str, dictionary: Dictionary) -> list[str]:
    read = [_read_label(label) for label in labels(text, dictionary)]
    phones: list[str] = []
    for (phone, to_accent, from_start, from_end, moras), after in zip(read, [*read[1:], *read[-1:]], strict=True):
        if phone == "sil":
            continue
        if phone == "pau":
            phones.append("_")
            continue
        phones.append(phone.lower() if phone in "AEIOU" else phone)  # devoiced vowels as the others
        next_from_start = after[2]
        if from_end == 1 and next_from_start == 1 and phone in "aeiouAEIOUNcl":
            phones.append(_ACCENT_BORDER)
        elif to_accent == 0 and next_from_start == from_start + 1 and from_start != moras:
            phones.append(PITCH_FALL)
        elif from_start == 1 and next_from_start == 2:
            phones.append(PITCH_RISE)
    return phones


def _read_label(label: str) -> tuple[str, int, int, int, int]:
    found = _LABEL.search(label)
    if found is None:
        raise ValueError(f"no full-context label: {label}")
    numbers = [_NOT_THERE if found[name] == "xx" else int(found[name]) for name in found.groupdict() if name != "phone"]
    return found["phone"], numbers[0], numbers[1], numbers[2], numbers[3]
