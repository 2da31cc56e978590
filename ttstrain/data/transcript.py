"""Clean transcripts, and estimate how long a text takes to say. No torch."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ttstrain.data.markup import doubtful, without_entities, without_markup
from ttstrain.data.mojibake import undo
from ttstrain.data.readers.rows import printable
from ttstrain.errors import DataError

TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0d\ufeff\ufff9-\ufffb\U000e0100-\U000e01ef]"
)
BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # controls that separate words
JOINERS = "\u200c\u200d"  # part of the spelling in Persian and Indic scripts; in emoji they join symbols
EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\u20e3\ufe0e\ufe0f\U000e0020-\U000e007f]"
)
# What most English texts are made of: none of it is ever repaired or doubted. Bytes to take out of ASCII, for counting.
PLAIN = re.compile(r"[ ,.;!?'\"-]*[A-Za-z0-9][A-Za-z0-9 ,.;!?'\"-]*")
_ASCII = bytes(range(128))
_NO_LETTERS = bytes(c for c in _ASCII if not chr(c).isalpha())
_NO_DIGITS = bytes(c for c in _ASCII if chr(c) not in "0123456789$%")
_NO_ALNUM = bytes(c for c in _ASCII if not chr(c).isalnum())
UNUSABLE = {"Cs", "Co", "Cn"}  # halves of pairs, private use, unassigned

# Speaking rate: 3 to 25 letters a second in alphabets, 1.5 to 14 characters in Chinese, Japanese and Korean. Within
# these bounds no correct clip of five languages is rejected. A digit or currency sign counts as one to eight letters.
ALPHABET_PER_S = (3.0, 25.0)
SYLLABLES_PER_S = (1.5, 14.0)
DIGIT_LETTERS = (1, 8)
USUAL_PER_S = (12.0, 4.5)  # letters, syllables
USUAL_DIGIT_LETTERS = 4
PAUSE_S = 1.0  # silence that a recording may hold whatever its text


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was wrong with a text."""

    action: Literal["fix", "skip", "accept"]  # `accept` only notes it
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class CleanText:
    text: str
    repairs: tuple[Repair, ...]


@dataclass(frozen=True, slots=True)
class SpokenSeconds:
    """How long a text may take to say."""

    least: float
    most: float


def clean(text: str) -> CleanText:
    """Remove controls, markup and emoji, compose characters (NFC), and list each repair and each doubtful place.

    Training, previews and `sample` clean every text with this function.
    """
    return CleanText(text.strip(), ()) if PLAIN.fullmatch(text) else _cleaned(text)


def _cleaned(text: str) -> CleanText:
    repairs: list[Repair] = []
    written, text = text, _read_back(text, repairs)
    if (entities := without_entities(text)) is not None:
        repairs.append(Repair("fix", "entities", f"`{entities.example}` and the like became the characters they name"))
        text = entities.text

    visible = _without_controls(text)
    if visible != text:
        repairs.append(Repair("fix", "control_chars", f"{_named(text, visible)} taken out of the text"))

    spaced = "".join(" " if unicodedata.category(c) == "Zs" or c in "\t\n\r" else c for c in visible)
    if spaced.strip() != visible.strip():
        repairs.append(Repair("fix", "whitespace", "tabs, line breaks or unusual spaces became spaces"))

    for found in without_markup(spaced):
        repairs.append(Repair("fix", found.reason, f"`{printable(found.example, limit=30)}` taken out of the text"))
        spaced = found.text

    plain = _without_emoji(spaced)
    if plain != spaced:
        repairs.append(Repair("fix", "unsupported_chars", f"{_named(spaced, plain)} taken out of the text"))

    composed = compose(plain)
    if composed != plain:
        repairs.append(Repair("fix", "normalised", "letters and accents composed (NFC)"))

    result = composed.strip()
    if any(repair.action == "fix" for repair in repairs):
        result = re.sub(" {2,}", " ", result)
    if not any(c.isalnum() for c in result):
        why = "no letter or digit is left" if written.strip() else "the text is empty"
        repairs.append(Repair("skip", "no_text", why))
    for found in doubtful(result):
        why = f"`{printable(found.example, limit=30)}`stays in the text: remove it if it is not spoken"
        repairs.append(Repair("accept", found.reason, why))
    return CleanText(result, tuple(repairs))


def readable(text: str, *, what: str) -> CleanText:
    """Clean a text to generate, as training texts are cleaned. Raises DataError if nothing readable is left."""
    cleaned = clean(text)
    if fault := next((repair for repair in cleaned.repairs if repair.action == "skip"), None):
        raise DataError(f"{what} cannot be spoken: {fault.why}")
    return cleaned


def misfit(text: str, seconds: float) -> str:
    """Explain why a text cannot be said in so many seconds; empty if it can."""
    spoken = spoken_seconds(text)
    if spoken.least <= seconds <= spoken.most:
        return ""
    letters = len(skeleton(text))
    return (
        f"{letters} letters take {spoken.least:.1f} to {spoken.most:.1f} s to say, the recording lasts {seconds:.1f} s"
    )


def compose(text: str) -> str:
    """Compose letters and their accents (NFC), except letters that NFC would decompose.

    Those are common, in Bengali and Hindi for instance, and vocabularies made from such texts contain them.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    pieces, start = [], 0
    for i, c in enumerate(text):
        if c > "\x7f" and not unicodedata.combining(c) and len(unicodedata.normalize("NFC", c)) > 1:
            pieces += [unicodedata.normalize("NFC", text[start:i]), c]
            start = i + 1
    return "".join([*pieces, unicodedata.normalize("NFC", text[start:])])


def _read_back(text: str, repairs: list[Repair]) -> str:
    """Repair mojibake where that is certain."""
    if "\ufffd" in text:
        repairs.append(Repair("skip", "encoding", "U+FFFD in the text: a wrong encoding spoiled it before"))
    undone = undo(text)
    if undone is None:
        return text
    shown = f"UTF-8 read as {undone.encoding}: `{printable(undone.before, limit=12)}` is `{undone.after}`"
    if undone.whole:
        repairs.append(Repair("fix", "encoding", f"{shown}, read back"))
    else:
        repairs.append(Repair("skip", "encoding", f"{shown}, and other characters of it are lost"))
    return undone.text


def _without_controls(text: str) -> str:
    text = TERMINAL_SEQUENCE.sub("", text)
    text = INVISIBLE.sub("", text)
    return "".join(" " if c in BREAKS else c for c in text if c in "\t\n\r" + BREAKS or unicodedata.category(c) != "Cc")


def _without_emoji(text: str) -> str:
    kept: list[str] = []
    for c in EMOJI.sub("", text):
        if c in JOINERS:
            spelling = bool(kept) and ord(kept[-1]) > 0x590 and unicodedata.category(kept[-1])[0] in "LM"
            if not spelling:
                continue
        if unicodedata.category(c) not in UNUSABLE:
            kept.append(c)
    return "".join(kept)


def _named(before: str, after: str) -> str:
    gone = Counter(before) - Counter(after)
    names = [f"U+{ord(c):04X}" for c in gone]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def spoken_seconds(text: str) -> SpokenSeconds:
    """Return the shortest and the longest time that people take to say a text."""
    letters, syllables, digits = _count(text)
    least = (letters + digits * DIGIT_LETTERS[0]) / ALPHABET_PER_S[1] + syllables / SYLLABLES_PER_S[1]
    most = (letters + digits * DIGIT_LETTERS[1]) / ALPHABET_PER_S[0] + syllables / SYLLABLES_PER_S[0]
    return SpokenSeconds(least, most + PAUSE_S)


def usual_seconds(text: str) -> float:
    """Estimate how long a text takes to say at a calm pace."""
    count = _count(text)
    return (count.letters + count.digits * USUAL_DIGIT_LETTERS) / USUAL_PER_S[0] + count.syllables / USUAL_PER_S[1]


class _Count(NamedTuple):
    letters: int
    syllables: int
    digits: int


def _count(text: str) -> _Count:
    if text.isascii():
        content = text.encode()
        return _Count(len(content.translate(None, _NO_LETTERS)), 0, len(content.translate(None, _NO_DIGITS)))
    letters = syllables = digits = 0
    for c in text:
        unit = unit_of(c)
        letters += unit == "letter"
        syllables += unit == "syllable"
        digits += unit == "digit"
    return _Count(letters, syllables, digits)


@functools.lru_cache(maxsize=1 << 16)
def unit_of(character: str) -> Literal["", "letter", "syllable", "digit"]:
    """Say what a character counts as where the time that a text takes is estimated; digits are signs that are read."""
    if character.isnumeric() or unicodedata.category(character) == "Sc" or character == "%":
        return "digit"
    if not character.isalnum():
        return ""
    return "syllable" if script(character) in ("CJK", "HANGUL") else "letter"


def main_script(text: str) -> str:
    """Return the script of most of a text's letters, such as LATIN or CJK; empty without letters."""
    if text.isascii():
        return "LATIN" if text.encode().translate(None, _NO_LETTERS) else ""
    scripts = Counter(script(c) for c in text if c.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


@functools.lru_cache(maxsize=1 << 16)
def script(letter: str) -> str:
    """Return a letter's script, by the first word of its name in Unicode; kana and Chinese characters are CJK."""
    first = unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
    return "CJK" if first in ("HIRAGANA", "KATAKANA", "BOPOMOFO", "HALFWIDTH") else first


def skeleton(text: str) -> str:
    """Return a text without case, spaces and punctuation, for comparing texts."""
    if text.isascii():
        return text.lower().encode().translate(None, _NO_ALNUM).decode()
    return "".join(c for c in text.casefold() if c.isalnum())
