"""What subtitles, web pages and speech recognisers leave in a text and nobody says.

Some of it cannot be anything else and is taken out. Of the rest, a person has to say whether it is spoken: it is noted.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
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
    """One kind of markup in a text: what is left without it, and its first place."""

    text: str
    reason: str
    example: str


def without_entities(text: str) -> Found | None:
    """Read `&amp;` as `&`, `&#39;` as `'` and so on; None where a text has none."""
    first = next((m[0] for m in _ENTITY.finditer(text) if _is_entity(m[0])), None)
    if first is None:
        return None
    for _ in range(2):  # `&amp;quot;` was escaped twice
        text = _ENTITY.sub(lambda m: html.unescape(m[0]) if _is_entity(m[0]) else m[0], text)
    return Found(text, "entities", first)


def _is_entity(written: str) -> bool:
    return written[1] == "#" or written[1:] in html5


def without_markup(text: str) -> list[Found]:
    """Take out time stamps, the labels that recognisers give to voices, and tags of layout, each in turn."""
    found = []
    for reason, pattern in (("timestamps", TIMES), ("speaker_label", LABELS), ("tags", TAGS)):
        first = pattern.search(text)
        if first is not None:
            text = pattern.sub(_in_place, text)
            found.append(Found(text, reason, first[0].strip()))
    return found


def _in_place(match: re.Match[str]) -> str:
    """Words on either side of a time or of a line break stay apart; within a tag of emphasis they may be one."""
    is_inline = match.re is TAGS and match["block"] is None
    return "" if is_inline else " "


def doubtful(text: str) -> list[Found]:
    """Find what may be markup or may be said."""
    found = []
    for reason, pattern in (("timestamps", DOUBTFUL_TIME), ("tags", DOUBTFUL)):
        if first := pattern.search(text):
            found.append(Found(text, reason, first[0].strip()))
    return found


# ---------------------------------------------------------------- names before what is said

_NAME = re.compile(r"\s*(?P<name>[^\W\d_][\w .'’-]{0,24}?)\s*[:：]\s*\S")
_OFTEN = 3  # texts that begin with one name


def spoken_by(text: str) -> str:
    """Return what stands before a colon at the start of a text, such as `Anna` of `Anna: Good morning.`; else empty."""
    found = _NAME.match(text)
    return found["name"] if found else ""


def labels(texts: Sequence[tuple[str, str]]) -> dict[int, str]:
    """Find texts that begin with a name, as dialogues do: their speaker's own, or one that comes often.

    `texts` are pairs of text and speaker. Returns position -> name.
    """
    names = {i: name for i, (text, _) in enumerate(texts) if (name := spoken_by(text))}
    counts = Counter(name.casefold() for name in names.values())
    return {
        i: name
        for i, name in names.items()
        if counts[name.casefold()] >= _OFTEN or name.casefold() == texts[i][1].casefold()
    }
