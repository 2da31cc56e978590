"""What a person says for numbers, signs, names and characters with several readings: sentences of every kind.

`readings.jsonl` holds for each sentence how it is said: `right`, the sentence in words; `sound`, phonemes that must be
in it; `said`, Korean as it is pronounced, syllable by syllable. Judged by hand, not by the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttstrain.families.gpt_sovits.text.front_end import phonemize
from ttstrain.families.gpt_sovits.text.hangul import is_hangul, pronounced_letters
from ttstrain.families.gpt_sovits.text.symbols import KOREAN_SPACE

ROWS = [json.loads(line) for line in (Path(__file__).with_name("readings.jsonl")).read_text("utf-8").splitlines()]
PITCH = {"[", "]", "UNK", "_"}


def phones(text: str, language: str) -> str:
    """Return the phonemes of a text; Japanese without pitch, which goes by how a number is written as well."""
    read = phonemize(text, language, version="v2").phones
    return " ".join(phone for phone in read if language != "ja" or phone not in PITCH)


def pronounced(text: str) -> str:
    """Return the letters of Korean syllables that do not meet."""
    letters = [pronounced_letters([c])[0] if is_hangul(c) else [KOREAN_SPACE if c == " " else c] for c in text]
    return " ".join(letter for part in letters for letter in part)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_sentence_is_said_as_a_person_says_it(row: dict[str, str]) -> None:
    heard = phones(row["text"], row["lang"])
    if "right" in row:
        assert heard == phones(row["right"], row["lang"])
    elif "said" in row:
        assert heard == pronounced(row["said"])
    else:
        assert f" {row['sound']} " in f" {heard} "
    assert phonemize(row["text"], row["lang"], version="v2").unknown == ()


@pytest.mark.parametrize("language", ["en", "zh", "ja", "ko", "yue"])
def test_every_language_has_sentences(language: str) -> None:
    assert sum(row["lang"] == language for row in ROWS) >= 12


@pytest.mark.parametrize(
    ("text", "language", "unsaid"),
    [
        ("A *bold* word and a → sign.", "en", "*→"),
        ("It is 5 | 6 of ★ and ™.", "en", "|★™"),
        ("snake_case and a\\b", "en", "_\\"),
        ("今天★很好→走。", "zh", "★→"),
        ("他说#很好*真的。", "zh", "#*"),
        ("二^三是什么？Ω也是。", "zh", "^Ω"),
        ("今日★好→", "yue", "★→"),
        ("오늘 ★ 좋아요 → *", "ko", "★→*"),
        ("今日は★です→", "ja", "★→"),
        ("A＊bold＊word", "en", "＊"),
    ],
)
def test_a_sign_that_nobody_says_is_told(text: str, language: str, unsaid: str) -> None:
    assert phonemize(text, language, version="v2").unknown == tuple(unsaid)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("3 > 2 & 5% @ home, and/or #1.", "en"),
        ("5>3，A&B，@小明，5%，2+3=5。", "zh"),
        ("100%で、A&Bと、3+4=7です。", "ja"),
        ("5%와 A&B와 2+3=5.", "ko"),
    ],
)
def test_a_sign_that_is_said_is_not_told(text: str, language: str) -> None:
    assert phonemize(text, language, version="v2").unknown == ()


def test_a_sign_is_judged_where_it_stands() -> None:
    """The first minus is said, the second one is not; upstream's way to judge a sign by itself could not tell."""
    assert phonemize("#1 is here, # is not.", "en", version="v2").unknown == ("#",)
    assert phonemize("今天5%，那个%", "zh", version="v2").unknown == ()
