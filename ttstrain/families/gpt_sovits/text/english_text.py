"""English texts before they are read: abbreviations, numbers, units and signs in words.

Nothing is left but letters, spaces and `'.,?!-`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container

from ttstrain.families.gpt_sovits.text.english_numbers import expand_numbers
from ttstrain.families.gpt_sovits.text.reading import unsaid

_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "drs": "doctors", "prof": "professor", "rev": "reverend",
    "sr": "senior", "jr": "junior", "gen": "general", "col": "colonel", "maj": "major", "apt": "apartment",
    "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "gov": "governor", "hon": "honorable", "esq": "esquire",
    "messrs": "messers", "co": "company", "ltd": "limited", "inc": "incorporated", "corp": "corporation",
    "dept": "department", "etc": "et cetera", "vs": "versus", "approx": "approximately", "ft": "fort", "mt": "mount",
    "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane", "hwy": "highway", "fig": "figure",
    "vol": "volume", "tel": "telephone", "max": "maximum", "min": "minimum", "est": "established", "pp": "pages",
}  # fmt: skip
_BEFORE_NUMBERS = {"No": "number", "no": "number", "p": "page", "pp": "pages", "ch": "chapter", "sec": "section"}
_SIGNS = {
    "&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "×": " times ", "÷": " divided by ",
    "%": " percent ", "°": " degrees ", "\u2212": " minus ", "<": " less than ", ">": " greater than ",
    "≤": " less than or equal to ", "≥": " greater than or equal to ", "≈": " approximately ", "≠": " not equal to ",
    "√": " square root of ", "∞": " infinity ", "§": " section ", "©": " copyright ", "‰": " per thousand ",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu",
    "µ": "mu", "π": "pi", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega", "Δ": "delta", "Σ": "sigma",
    "Ω": "omega",
}  # fmt: skip
_NO_ACCENT = str.maketrans({
    "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "d", "þ": "th", "Þ": "Th", "ı": "i",
})  # fmt: skip
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_MARKS = {";": ",", ":": ",", "、": ",", "。": ".", "…": "."}
_STRESSED = (
    "the and not but for all are was were you his her him she has had our out now one two who how why yes no to of in "
    "is it on at by as be we he or so if my me do up go an am i a"
)
_EMPHASIZED = frozenset(_STRESSED.split())  # short words that capitals stress, where they spell others
_SAID_AS_WORDS = frozenset(
    ("ram", "rom", "sim", "pin", "lan", "gif", "gui", "zip", "dos")
)  # of three letters, and not spelled
_LONGEST_SPELLED = 5  # letters of a name in capitals that no dictionary has
_STARTERS = "The|We|It|He|She|They|This|That|I|But|And|In|You|There|Then|What|When|If|My|Our|So|No|Yes|Not|As|At|On"
_LETTERS = r"[^\W\d_]"


def normalize(text: str, words: Container[str]) -> str:
    """Write a text in words; `words` is the dictionary, by which names in capitals are told from spelled letters."""
    text = _plain_characters(text)
    text = re.sub(rf"(?<={_LETTERS})[’ʼ](?={_LETTERS})", "'", text)
    if "‘" not in text:  # else it closes a quotation
        text = re.sub(r"(?<=s)[’ʼ](?=\s|$)", "'", text)
    shouted = text.isupper() and len(re.findall(rf"{_LETTERS}{{2,}}", text)) > 1  # capitals then mean nothing
    text = expand_numbers(_expand_signs(_expand_abbreviations(_expand_addresses(text))))
    text = re.sub(r"\s*(?:--+|[–—])\s*|\s+-\s+", ", ", text)
    text = "".join(_SIGNS.get(c) or _MARKS.get(c) or (f" {_GREEK[c]} " if c in _GREEK else c) for c in text)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    text = re.sub(
        rf"{_LETTERS}+(?:'{_LETTERS}+)?", lambda found: _spell_capitals(found[0], words, shouted=shouted), text
    )
    text = re.sub(r"[^A-Za-z'.,?!-]+", " ", text)
    text = re.sub(r"\s+(?=[.,?!])", "", text)
    text = re.sub(r"([.,?!-])[\s.,?!-]*(?=[.,?!-])[.,?!-]", r"\1", text)  # of marks in a row the first, as upstream
    text = text.strip()
    return text[:1].upper() + text[1:] if shouted else text


def unread(text: str, words: Container[str]) -> list[str]:
    """Return the letters and signs of a text that do not change its words."""
    return unsaid(text, lambda part: normalize(part, words), plain=lambda c: c.isascii() and c.isalnum())


def _plain_characters(text: str) -> str:
    """Write full-width letters, fractions, ① and ligatures as plain ones; ² and ³ as the words they are."""
    text = re.sub(r"(\d)([¼-¾⅐-⅞])", r"\1 \2", text.translate(_HALF_WIDTH).translate(_NO_ACCENT))
    text = re.sub(r"(?<![kcdm]m)(?<!\bm)(?<=[A-Za-z\d])([²³])", lambda m: " squared" if m[1] == "²" else " cubed", text)
    return "".join(
        unicodedata.normalize("NFKC", c).replace("⁄", "/")
        if unicodedata.category(c) in ("No", "Nl", "Lm") and c not in "²³"
        else c
        for c in text
    )


# ---------------------------------------------------------------- abbreviations and signs


def _expand_addresses(text: str) -> str:
    """Say at, dot and slash in addresses of letters and pages."""
    dotted = r"[A-Za-z\d-]+(?:\.[A-Za-z\d-]+)*\.(?:com|org|net|edu|gov|io|co|uk|de|cn|jp|ai|info|me|tv|js|py)\b"
    text = re.sub(r"\bhttps?://", "", text)
    text = re.sub(
        rf"\b([\w.+-]+)@({dotted})",
        lambda m: f"{m[1]} at {m[2]}".replace(".", " dot ").replace("_", " underscore "),
        text,
    )
    return re.sub(
        rf"\b(?:www\.)?{dotted}(?:/[\w/-]*)?",
        lambda m: re.sub(r"^www\b", "w w w", m[0]).replace(".", " dot ").replace("/", " slash "),
        text,
    )


def _expand_signs(text: str) -> str:
    """Say what `&`, `#`, `*`, `^`, `+` and `/` mean beside letters and numbers."""
    text = re.sub(r"\b([A-Z]{1,3})&([A-Z]{1,3})\b", lambda m: f"{' '.join(m[1])} and {' '.join(m[2])}", text)
    text = re.sub(r"\b([CF])#", r"\1 sharp", text)
    text = re.sub(r"#(?=\d)", " number ", text)
    text = re.sub(rf"#(?={_LETTERS})", " hashtag ", text)
    text = re.sub(r"(?<=\d)\s?\*\s?(?=\d)", " times ", text)
    text = re.sub(r"(?<=\w)\^(?=\w)", " to the power of ", text)
    text = re.sub(r"(?<=[A-Z])\+\+", " plus plus", text)
    text = re.sub(r"\btsp\b(?<!\d tsp)(?<!\dtsp)", "teaspoon", text)
    text = re.sub(r"\bw/o\b", "without", text)
    text = re.sub(r"\bw/(?=\s|[a-z])", "with ", text)
    text = re.sub(r"(?<=\d)\s-\s(?=\d+\s?=)", " minus ", text)
    return re.sub(r"(?<=\d)\s?×\s?(?=\d[\d.,]*\s?=)", " times ", text)


def _expand_abbreviations(text: str) -> str:
    text = re.sub(r"\be\.\s?g\.", "for example", text, flags=re.IGNORECASE)
    text = re.sub(r"\bi\.\s?e\.", "that is", text, flags=re.IGNORECASE)
    text = re.sub(rf"\b({'|'.join(_BEFORE_NUMBERS)})\.\s?(?=\d)", lambda m: f"{_BEFORE_NUMBERS[m[1]]} ", text)
    text = re.sub(r"\bPh\.?D\b\.?", "P H D", text)
    text = _expand_streets(text)
    names = "|".join(_ABBREVIATIONS)
    # A point before the end of the text, or before a capital after `etc.` and the like, ends a sentence as well.
    text = re.sub(
        rf"\b({names})\.(?=\s*(['\"”)]*\s*$)?)",
        lambda found: _ABBREVIATIONS[found[1].lower()] + ("." if found[2] is not None else ""),
        text,
        flags=re.IGNORECASE,
    )
    # `U.S.`, `a.m.`, `J. K. Rowling`, `John F. Kennedy`: letters, each by its name.
    text = re.sub(rf"\b([A-Z])\.\s?(?=(?:[A-Z]\.\s?)*(?!(?:{_STARTERS})\b)[A-Z][a-z])(?<!\b[a-z] \1\.)", r"\1 ", text)
    return re.sub(
        r"\b(?:[A-Za-z]\.){2,}(\s*$)?",
        lambda found: " ".join(found[0].replace(".", " ").split()).upper() + ("." if found[1] is not None else ""),
        text,
    )


def _expand_streets(text: str) -> str:
    """Expand `St.` to saint or street, `Dr.` to doctor or drive, by the neighbouring words."""
    end = r"(?=[\s,]*(?:$|,|\.|\b(?:Apt|Suite|Ste|Unit|and|in|near|at|is|was)\b))"
    text = re.sub(r"(?<=[a-z\d] )St\.(?=\s*$)", "street.", text)
    text = re.sub(rf"(?<=[a-z] )St\.{end}", "street", text)
    text = re.sub(rf"(?<=[a-z] )Dr\.{end}", "drive", text)
    text = re.sub(r"\bSte\.(?=\s\d)", "suite", text)
    text = re.sub(r"\bSt\.(?=\s+[A-Z])", "saint", text)
    return re.sub(r"\bSt\.", "street", text)


# ---------------------------------------------------------------- capitals


def _spell_capitals(word: str, words: Container[str], *, shouted: bool) -> str:
    """Split words that are spelled letter by letter, and names of several words, unless the dictionary has them."""
    stem, apostrophe, ending = word.partition("'")
    lower = stem.lower()
    if stem.isupper() and len(stem) > 1:
        known = lower in words and (shouted or len(stem) > 3 or lower in _SAID_AS_WORDS)
        if lower in _EMPHASIZED or known or (len(stem) > _LONGEST_SPELLED and re.search("[AEIOUY]", stem)):
            return word.lower()
        return " ".join(stem) + (apostrophe + ending.lower())
    if len(stem) > 1 and stem[0].isupper() and stem[1:].islower():
        return word
    if re.fullmatch("[A-Z]{2,}s", stem) and not apostrophe:  # CDs
        return f"{' '.join(stem[:-1])}'s"
    if any(character.isupper() for character in stem[1:]) and lower not in words:
        parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|.", stem)
        return " ".join(_spell_capitals(part, words, shouted=False) for part in parts) + apostrophe + ending
    return word
