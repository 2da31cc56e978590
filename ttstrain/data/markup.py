"""Markup that subtitles, web pages and speech recognisers leave in transcripts.

Markup that is unambiguous is removed. Text that may be markup or may be spoken stays, with a note for the user.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.entities import html5

_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_LONG_CLOCK = r"\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,3})?|\d{1,2}:\d{2}[.,]\d{1,3}"
_UP_TO = rf"(?:\s*-+>?\s*(?:{_CLOCK}))?"
TIMES = re.compile(
    rf"[\[(<]?\s*(?:{_CLOCK})\s*-->\s*(?:{_CLOCK})\s*[\])>]?"  # of SubRip and WebVTT
    rf"|\[\s*(?:{_LONG_CLOCK}|\d{{2}}:\d{{2}}){_UP_TO}\s*\]"  # of songs, and of players
    rf"|[(<]\s*(?:{_LONG_CLOCK}){_UP_TO}\s*[)>]"
    r"|<\|\d{1,3}\.\d{1,2}\|>"  # of Whisper
    r"|^\s*\d{1,2}:\d{2}:\d{2}[.,]\d{1,3}(?=\s)"
)
LABELS = re.compile(
    r"^\s*(?:[\[(<]\s*(?:SPEAKER[_ ]\d+)\s*[\])>]\s*:?|(?:SPEAKER_\d+|SPEAKER \d+)\s*:)\s*", re.IGNORECASE
)
_BLOCK, _INLINE = "br|p|div|li|ul|ol|h[1-6]", "b|i|u|s|em|strong|span|font|sub|sup|small|big|a|v|c"
TAGS = re.compile(
    rf"</?(?:(?P<block>{_BLOCK})|{_INLINE})(?:\s+[\w:-]+\s*=[^<>]*|\.[\w.]+)?\s*/?>"  # of web pages and WebVTT
    r"|<v\s[^<>]*>"
    r"|\{\\[^{}]*\}",  # of SubStation Alpha
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_CUES = "music|applause|laughs?|laughing|laughter|inaudible|unintelligible|noise|silence|sighs?|coughs?|crosstalk|pause"
DOUBTFUL = re.compile(
    r"<[^<>\n]{1,40}>"
    r"|\[[^\[\]\n]{1,40}\]"
    r"|\{[^{}\n]{1,40}\}"
    rf"|\((?:{_CUES})\)"
    r"|\*[^*\s][^*\n]{0,38}\*"
    r"|\\[nNrt](?![a-z])"
    r"|&(?:amp|lt|gt|quot|apos|nbsp)\b",
    re.IGNORECASE,
)
DOUBTFUL_TIME = re.compile(r"^\s*\d{1,2}:\d{2}:\d{2}(?=\s)")


@dataclass(frozen=True, slots=True)
class Found:
    """One kind of markup in a text: the text without it, and the first example."""

    text: str
    reason: str
    example: str


def without_entities(text: str) -> Found | None:
    """Decode HTML entities: `&amp;` to `&`, `&#39;` to `'`; None if a text has none."""
    first = next((m[0] for m in _ENTITY.finditer(text) if _is_entity(m[0])), None)
    if first is None:
        return None
    for _ in range(2):  # `&amp;quot;` was escaped twice
        text = _ENTITY.sub(lambda m: html.unescape(m[0]) if _is_entity(m[0]) else m[0], text)
    return Found(text, "entities", first)


def _is_entity(written: str) -> bool:
    return written[1] == "#" or written[1:] in html5


def without_markup(text: str) -> list[Found]:
    """Remove time stamps, speaker labels of recognisers, and formatting tags, in this order."""
    found = []
    for reason, pattern in (("timestamps", TIMES), ("speaker_label", LABELS), ("tags", TAGS)):
        first = pattern.search(text)
        if first is not None:
            text = pattern.sub(_in_place, text)
            found.append(Found(text, reason, first[0].strip()))
    return found


def _in_place(match: re.Match[str]) -> str:
    """Replace block tags and time stamps with a space; inline tags, which may stand inside a word, with nothing."""
    is_inline = match.re is TAGS and match["block"] is None
    return "" if is_inline else " "


def doubtful(text: str) -> list[Found]:
    """Find text that may be markup and may be spoken."""
    found = []
    for reason, pattern in (("timestamps", DOUBTFUL_TIME), ("tags", DOUBTFUL)):
        if first := pattern.search(text):
            found.append(Found(text, reason, first[0].strip()))
    return found


# ---------------------------------------------------------------- speakers' names before a text

_NAME = re.compile(r"\s*(?P<name>[^\W\d_][\w .'’-]{0,24}?)\s*[:：]\s*\S")
_OFTEN = 3  # texts that begin with one name
_AT_ONCE = 100  # texts


def spoken_by(text: str) -> str:
    """Return the name before a colon at the start of a text, `Anna` of `Anna: Good morning.`; else empty."""
    found = _NAME.match(text)
    return found["name"] if found else ""


def labels(texts: Sequence[str], speakers: Sequence[str]) -> dict[int, str]:
    """Find texts that begin with a speaker's name: that of the row's speaker, or one that occurs often.

    Returns position -> name.
    """
    names = {i: name for i in _with_colons(texts) if (name := spoken_by(texts[i]))}
    if not names:
        return {}
    counts = Counter(name.casefold() for name in names.values())
    return {
        i: name
        for i, name in names.items()
        if counts[name.casefold()] >= _OFTEN or name.casefold() == speakers[i].casefold()
    }


def _with_colons(texts: Sequence[str]) -> Iterator[int]:
    """Yield the places of texts that hold a colon; few do, so that many are looked through together."""
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        together = "".join(some)
        if ":" in together or "：" in together:
            yield from (i for i, text in enumerate(some, start) if ":" in text or "：" in text)
