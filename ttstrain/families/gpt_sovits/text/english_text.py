"""English texts before they are read: abbreviations, numbers, units and signs in words.

Nothing is left but letters, spaces and `'.,?!-`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from functools import cache
from typing import Any

from ttstrain.families.gpt_sovits.text.reading import load

_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "drs": "doctors", "prof": "professor", "rev": "reverend",
    "sr": "senior", "jr": "junior", "gen": "general", "col": "colonel", "maj": "major",
    "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "gov": "governor", "hon": "honorable", "esq": "esquire",
    "messrs": "messers", "co": "company", "ltd": "limited", "inc": "incorporated", "corp": "corporation",
    "dept": "department", "etc": "et cetera", "vs": "versus", "approx": "approximately", "ft": "fort", "mt": "mount",
}  # fmt: skip
_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "m": ("meter", "meters"), "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"),
    "ml": ("milliliter", "milliliters"), "ft": ("foot", "feet"), "lbs": ("pound", "pounds"), "lb": ("pound", "pounds"),
    "oz": ("ounce", "ounces"), "min": ("minute", "minutes"), "h": ("hour", "hours"), "s": ("second", "seconds"),
    "°C": ("degree celsius", "degrees celsius"), "°F": ("degree fahrenheit", "degrees fahrenheit"),
    "°": ("degree", "degrees"), "kHz": ("kilohertz", "kilohertz"), "Hz": ("hertz", "hertz"),
    "GB": ("gigabyte", "gigabytes"), "MB": ("megabyte", "megabytes"), "%": ("percent", "percent"),
}  # fmt: skip
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
_SIGNS = {
    "&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "×": " times ", "÷": " divided by ", "#": " number ",
    "%": " percent ", "°": " degrees ", "\u2212": " minus ",
}  # fmt: skip
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_MARKS = {";": ",", ":": ",", "、": ",", "。": ".", "…": "."}
_STRESSED = (
    "the and not but for all are was were you his her him she has had our out now one two who how why yes no to of in "
    "is it on at by as be we he or so if my me do up go an am i a"
)
_EMPHASIZED = frozenset(_STRESSED.split())  # short words that capitals stress, where they spell others

_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_LETTERS = r"[^\W\d_]"


def normalize(text: str, words: Container[str]) -> str:
    """Write a text in words; `words` is the dictionary, by which names in capitals are told from spelled letters."""
    text = text.translate(_HALF_WIDTH)
    text = re.sub(rf"(?<={_LETTERS})[’ʼ](?={_LETTERS})", "'", text)
    if "‘" not in text:  # else it closes a quotation
        text = re.sub(r"(?<=s)[’ʼ](?=\s|$)", "'", text)
    text = _expand_abbreviations(text)
    text = _expand_numbers(text)
    text = re.sub(r"\s*(?:--+|[–—])\s*|\s+-\s+", ", ", text)
    text = "".join(_SIGNS.get(c) or _MARKS.get(c) or c for c in text)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    if text.isupper():
        text = text.capitalize()  # all of it is stressed, and nothing is told by it
    text = re.sub(rf"{_LETTERS}+(?:'{_LETTERS}+)?", lambda found: _spell_capitals(found[0], words), text)
    text = re.sub(r"[^A-Za-z'.,?!-]+", " ", text)
    text = re.sub(r"\s+(?=[.,?!])", "", text)
    text = re.sub(r"([.,?!-])[\s.,?!-]*(?=[.,?!-])[.,?!-]", r"\1", text)  # of marks in a row the first, as upstream
    return text.strip()


def unread(text: str) -> list[str]:
    """Return the characters that no rule turns into words."""
    known = {*_SIGNS, *_MARKS, *_CURRENCIES}
    rest = [c for c in text.translate(_HALF_WIDTH) if not (c.isascii() and c.isalnum()) and c not in known]
    return [c for c in rest if not re.fullmatch(r"[A-Za-z0-9]", unicodedata.normalize("NFD", c)[0])]


# ---------------------------------------------------------------- abbreviations


def _expand_abbreviations(text: str) -> str:
    text = re.sub(r"\be\.\s?g\.", "for example", text, flags=re.IGNORECASE)
    text = re.sub(r"\bi\.\s?e\.", "that is", text, flags=re.IGNORECASE)
    text = re.sub(r"\bNo\.\s?(?=\d)", "number ", text)
    text = re.sub(r"\bSt\.(?=\s+[A-Z])", "saint", text)
    text = re.sub(r"\bSt\.(?=\s*$)", "street.", text)
    text = re.sub(r"\bSt\.", "street", text)
    names = "|".join(_ABBREVIATIONS)
    # A point before the end of the text, or before a capital after `etc.` and the like, ends a sentence as well.
    text = re.sub(
        rf"\b({names})\.(?=\s*(['\"”)]*\s*$)?)",
        lambda found: _ABBREVIATIONS[found[1].lower()] + ("." if found[2] is not None else ""),
        text,
        flags=re.IGNORECASE,
    )
    # `U.S.`, `a.m.`: letters, each by its name.
    return re.sub(
        r"\b(?:[A-Za-z]\.){2,}(\s*$)?",
        lambda found: " ".join(found[0].replace(".", " ").split()).upper() + ("." if found[1] is not None else ""),
        text,
    )


def _spell_capitals(word: str, words: Container[str]) -> str:
    """Divide what is spelled letter by letter, and names of several words, unless the dictionary has them whole."""
    stem, apostrophe, ending = word.partition("'")
    lower = stem.lower()
    if stem.isupper() and len(stem) > 1:
        if lower in _EMPHASIZED or (len(stem) > 3 and lower in words):
            return word.lower()
        return " ".join(stem) + (apostrophe + ending.lower())
    if len(stem) > 1 and stem[0].isupper() and stem[1:].islower():
        return word
    if any(character.isupper() for character in stem[1:]) and lower not in words:
        parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|.", stem)
        return " ".join(_spell_capitals(part, words) for part in parts) + apostrophe + ending
    return word


# ---------------------------------------------------------------- numbers


def _expand_numbers(text: str) -> str:
    text = re.sub(r"\b(\d{1,2})[:.](\d{2})(?=\s*[ap]\.?m\b)|\b([01]?\d|2[0-3]):([0-5]\d)\b", _time, text, flags=re.I)
    text = re.sub(r"(?<=\d)(?=[AP]M\b|[ap]m\b)", " ", text)
    signs = "".join(map(re.escape, _CURRENCIES))
    scales = "hundred|thousand|million|billion|trillion"
    text = re.sub(rf"([{signs}])\s?({_NUMBER})(\s(?:{scales})\b)?", _money, text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda found: _ordinal(int(found[1])), text, flags=re.I)
    months = "January|February|March|April|May|June|July|August|September|October|November|December"
    text = re.sub(rf"\b({months}) (\d{{1,2}})(?![\d:.,]\d)\b", lambda m: f"{m[1]} {_ordinal(int(m[2]))}", text)
    text = re.sub(r"(?<![\d/.])(\d+)/(\d+)(?![\d/])", _fraction, text)
    text = re.sub(r"(?<=\d)\s?[–—-]\s?(?=\d)", " to ", text)
    text = re.sub(r"(?<![\w.])['’]?(\d{2}|\d{4})['’]?s\b", _decade, text)
    units = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    text = re.sub(rf"({_NUMBER})\s?({units})(?![\w/])", _quantity, text)
    text = re.sub(r"(?<![\w.,])-(?=\d)", "minus ", text)
    return re.sub(rf"({_NUMBER})", lambda found: f" {_number(found[0])} ", text)


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found[1] or found[3]), int(found[2] or found[4])
    if not minute:
        return f"{_cardinal(hour)} o'clock" if found[3] else _cardinal(hour)
    return f"{_cardinal(hour)} {'oh ' if minute < 10 else ''}{_cardinal(minute)}"


def _money(found: re.Match[str]) -> str:
    one, many, small_one, small_many = _CURRENCIES[found[1]]
    amount = found[2].replace(",", "")
    if found[3]:
        return f"{_number(amount)}{found[3]} {many}"
    whole, _, part = amount.partition(".")
    if part and len(part) != 2:
        return f"{_number(amount)} {many}"
    spoken = f"{_cardinal(int(whole))} {one if int(whole) == 1 else many}" if int(whole) or not int(part or 0) else ""
    if part and int(part):
        small = f"{_cardinal(int(part))} {small_one if int(part) == 1 else small_many}"
        return f"{spoken} and {small}" if spoken else small
    return spoken


def _fraction(found: re.Match[str]) -> str:
    upper, lower = int(found[1]), int(found[2])
    if lower == 2:
        return f"{_cardinal(upper)} {'half' if upper == 1 else 'halves'}"
    if lower == 4:
        return f"{_cardinal(upper)} {'quarter' if upper == 1 else 'quarters'}"
    if lower < 2 or lower > 100:
        return f"{_cardinal(upper)} over {_cardinal(lower)}"
    return f"{_cardinal(upper)} {_ordinal(lower)}{'' if upper == 1 else 's'}"


def _decade(found: re.Match[str]) -> str:
    spoken = _year(found[1]) if len(found[1]) == 4 else _cardinal(int(found[1]))
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


def _quantity(found: re.Match[str]) -> str:
    one, many = _UNITS[found[2]]
    return f"{_number(found[1])} {one if found[1] == '1' else many}"


def _number(digits: str) -> str:
    """Read a number: four digits without a comma as a year, leading zeros and long numbers digit by digit."""
    plain = digits.replace(",", "")
    whole, _, part = plain.partition(".")
    if part:
        return f"{_cardinal(int(whole))} point {_digit_by_digit(part)}"
    if (len(whole) > 1 and whole[0] == "0") or len(whole) > 15:
        return _digit_by_digit(whole)
    if "," not in digits and len(whole) == 4 and 1000 < int(whole) < 3000:
        return _year(whole)
    return _cardinal(int(whole))


def _year(digits: str) -> str:
    """Read 1984 in pairs, 1900 in hundreds, 2005 as a number, 1805 with an `oh`; as upstream does."""
    value = int(digits)
    century, rest = divmod(value, 100)
    if value % 1000 == 0 or 2000 < value < 2010:
        return _cardinal(value)
    if rest == 0:
        return f"{_cardinal(century)} hundred"
    return f"{_cardinal(century)} {'oh ' if rest < 10 else ''}{_cardinal(rest)}"


def _digit_by_digit(digits: str) -> str:
    return " ".join(_cardinal(int(digit)) for digit in digits)


def _cardinal(value: int) -> str:
    spoken: str = _engine().number_to_words(value, andword="")
    return spoken.replace(",", "")


def _ordinal(value: int) -> str:
    spoken: str = _engine().number_to_words(_engine().ordinal(value), andword="")
    return spoken.replace(",", "")


@cache
def _engine() -> Any:
    return load("inflect", language="en").engine()
