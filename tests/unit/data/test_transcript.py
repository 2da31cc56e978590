from __future__ import annotations

import unicodedata

import pytest

from ttstrain.data.transcript import clean, main_script, spoken_seconds


@pytest.mark.parametrize(
    ("written", "kept", "reason"),
    [
        ("a \x1b[31mred\x1b[0m\x07 word", "a red word", "control_chars"),
        ("one\u2028two\x85three\x0bfour", "one two three four", "control_chars"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth", "control_chars"),
        ("\ufeffmark", "mark", "control_chars"),
        ("a\x00b", "ab", "control_chars"),
        ("left \u202eright\u202c", "left right", "control_chars"),
        ("two\nlines\tand a\u3000wide space", "two lines and a wide space", "whitespace"),
        ("thumbs 👍🏽 up ❤️ 🇩🇪", "thumbs up", "unsupported_chars"),
        ("family 👩‍👩‍👧 here", "family here", "unsupported_chars"),
        ("half \ud83d pair", "half pair", "unsupported_chars"),
        (unicodedata.normalize("NFD", "größe"), "größe", "normalised"),
    ],
)
def test_what_is_no_language_is_taken_out_and_said(written: str, kept: str, reason: str) -> None:
    cleaned = clean(written)
    assert cleaned.text == kept
    assert [(repair.action, repair.reason) for repair in cleaned.repairs] == [("fix", reason)]


@pytest.mark.parametrize(
    "text",
    [
        "It's \"quoted\", (truly) — isn't it?",
        "Ça coûte 3,50 € à 20 °C.",
        "「はい」、Ｋ です。",
        "桥下垂直净空 15 米",
        "می‌خواهم",  # spelled with a zero-width non-joiner
        "two  spaces are the writer's own",
        "naïve café",
    ],
)
def test_language_is_left_as_it_is(text: str) -> None:
    assert clean(text).text == text
    assert clean(text).repairs == ()


@pytest.mark.parametrize("text", ["", "   ", "\u200b", "...", "🎉🎉", "\x00"])
def test_a_text_without_letters_is_skipped(text: str) -> None:
    assert ("skip", "no_text") in [(repair.action, repair.reason) for repair in clean(text).repairs]


def test_a_text_spoiled_by_a_wrong_encoding_is_skipped() -> None:
    assert [(repair.action, repair.reason) for repair in clean("caf\ufffd").repairs] == [("skip", "encoding")]


@pytest.mark.parametrize(
    ("text", "seconds", "fits"),
    [
        ("has never been surpassed.", 1.78, True),
        ("has never been surpassed.", 0.5, False),
        ("a", 11.0, False),
        ("No.", 1.2, True),
        ("1465", 2.5, True),  # fourteen sixty-five
        ("桥下垂直净空 15 米该项目于 2011 年 8 月完工", 8.0, True),
        ("桥下垂直净空米该项目", 0.5, False),
        ("人間にちがいない", 30.0, False),
    ],
)
def test_how_long_a_text_may_take(text: str, seconds: float, fits: bool) -> None:
    spoken = spoken_seconds(text)
    assert (spoken.least <= seconds <= spoken.most) is fits


def test_scripts_are_told_apart() -> None:
    assert [main_script(t) for t in ("abc é", "привет", "カタかな漢字", "안녕", "123")] == [
        "LATIN",
        "CYRILLIC",
        "CJK",
        "HANGUL",
        "",
    ]
