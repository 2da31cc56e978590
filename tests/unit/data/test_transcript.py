from __future__ import annotations

import unicodedata

import pytest

from ttstrain.data.markup import labels
from ttstrain.data.readers import printable
from ttstrain.data.transcript import clean, compose, main_script, spoken_seconds


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
        ("angstrom \u212b", "angstrom \u00c5", "normalised"),
        ("Sch\u00c3\u00b6ne Gr\u00c3\u00bc\u00c3\u009fe", "Schöne Grüße", "encoding"),
        ("Tom &amp; Ann&#39;s &quot;tea&quot;", 'Tom & Ann\'s "tea"', "entities"),
        ("a &amp;lt; b", "a < b", "entities"),
        ("[00:01:02.500] Good morning.", "Good morning.", "timestamps"),
        ("00:00:01,000 --> 00:00:03,500 Good morning.", "Good morning.", "timestamps"),
        ("00:00:01.250 Good morning.", "Good morning.", "timestamps"),
        ("[01:02] La la [01:05.20] la", "La la la", "timestamps"),
        ("<|0.00|> Good morning.<|2.40|>", "Good morning.", "timestamps"),
        ("SPEAKER_00: Good morning.", "Good morning.", "speaker_label"),
        ("[speaker_1] Good morning.", "Good morning.", "speaker_label"),
        ("Speaker 2: Good morning.", "Good morning.", "speaker_label"),
        ("<i>Good</i> mor<b>ning</b><br/>all", "Good morning all", "tags"),
        ('<font color="red">Good</font> <v Ann>morning', "Good morning", "tags"),
        ("{\\an8}Good morning", "Good morning", "tags"),
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
        "It is 12:30, see John (3:16).",
        "AT&T; R&D, a & b",
        "One speaker: hello.",
        "আমি বাড়ি থেকে এসেছি, যেমন সময়ে".replace("\u09a1\u09bc", "\u09dc").replace("\u09af\u09bc", "\u09df"),
    ],
)
def test_language_is_left_as_it_is(text: str) -> None:
    assert clean(text).text == text
    assert clean(text).repairs == ()


@pytest.mark.parametrize(
    ("text", "reason", "example"),
    [
        ("Well [music] then", "tags", "[music]"),
        ("Well <laugh> then", "tags", "<laugh>"),
        ("Well (laughs) then", "tags", "(laughs)"),
        ("Well *sighs* then", "tags", "*sighs*"),
        ("Well {breath} then", "tags", "{breath}"),
        ("one\\ntwo", "tags", ""),
        ("one\\n two", "tags", "\\n"),
        ("00:01:02 Good morning", "timestamps", "00:01:02"),
    ],
)
def test_what_may_be_said_or_not_is_noted_and_left(text: str, reason: str, example: str) -> None:
    cleaned = clean(text)
    assert cleaned.text == text
    assert [(r.action, r.reason) for r in cleaned.repairs] == ([("accept", reason)] if example else [])
    assert all(f"`{printable(example)}`" in repair.why for repair in cleaned.repairs)


def test_a_text_whose_bytes_are_lost_is_skipped() -> None:
    assert ("skip", "encoding") in [(r.action, r.reason) for r in clean("SchÃ¶ne Ã bel").repairs]


def test_one_letter_in_two_spellings_is_composed_but_never_taken_apart() -> None:
    assert compose("e\u0301 \u09dc\u09be e\u0301") == "é \u09dc\u09be é"


def test_names_before_a_colon_are_found_where_they_come_often() -> None:
    texts = ["Anna: one", "anna: two", "Anna: three", "Note: four", "Tom: five"]
    assert labels(texts, ["", "", "", "", "tom"]) == {0: "Anna", 1: "anna", 2: "Anna", 4: "Tom"}


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
