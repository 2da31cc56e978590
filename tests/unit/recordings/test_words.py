"""A text is divided into words, the words are paired with heard ones, and each clip gets its own."""

from __future__ import annotations

import random

import pytest

from ttstrain.recordings import placing
from ttstrain.recordings.english import pronunciations, spelled
from ttstrain.recordings.pairing import pair
from ttstrain.recordings.placing import divide, place, place_by_duration
from ttstrain.recordings.units import text_of, units

TEXT = "“Well,” she said — it's three o'clock. And then\nthe bell rang, twice!"


def test_units_cover_the_text_and_keep_its_marks() -> None:
    found = units(TEXT)
    assert [unit.key for unit in found][:5] == ["well", "she", "said", "its", "three"]
    assert found[3].word == "it's"
    assert text_of(TEXT, found) == " ".join(TEXT.split())
    assert TEXT[found[2].start : found[2].end] == "said —"
    assert [unit.key for unit in found if unit.stop == 1] == ["oclock", "twice"]


def test_scripts_without_spaces_are_divided_by_character() -> None:
    assert [unit.key for unit in units("今日は、良い天気です。")] == list("今日は良い天気です")


@pytest.mark.parametrize(
    ("text", "heard", "expected"),
    [
        ("a b c d", "a b c d", [0, 1, 2, 3]),
        ("a b c d", "a x c d", [0, 1, 2, 3]),
        ("a b c d", "a c d", [0, None, 1, 2]),
        ("a b c d", "q a b c d", [1, 2, 3, 4]),
        ("fine typography the earliest", "fine type i birth the the earliest", [0, 1, 5, 6]),
        ("a b", "", [None, None]),
    ],
)
def test_words_are_paired(text: str, heard: str, expected: list[int | None]) -> None:
    assert pair(text.split(), heard.split()) == expected


def test_pairs_rise_and_equal_words_are_found_under_noise() -> None:
    rng = random.Random(1)
    text = [rng.choice("abcdefghijklmnopqrstuvwxyz") + str(rng.randrange(30)) for _ in range(400)]
    heard: list[str] = []
    truth: list[int | None] = []
    for word in text:
        if rng.random() < 0.1:
            truth.append(None)
            continue
        truth.append(len(heard))
        heard.append("noise" if rng.random() < 0.1 else word)
        if rng.random() < 0.1:
            heard.append("more")
    found = pair(text, heard)
    paired = [j for j in found if j is not None]
    assert paired == sorted(set(paired))
    right = sum(one == other for one, other in zip(found, truth, strict=True) if other is not None)
    assert right >= 0.95 * sum(other is not None for other in truth)


def test_each_clip_gets_the_words_heard_in_it() -> None:
    found = units(TEXT)
    heard = [["well", "she", "set", "its", "three", "oclock"], [], ["and", "then", "the", "bell", "rang", "twice"]]
    placing = place(TEXT, found, heard, [3.0, 0.5, 3.0])
    assert [text_of(TEXT, found[one.first : one.last]) for one in placing.clips] == [
        "“Well,” she said — it's three o'clock.",
        "",
        "And then the bell rang, twice!",
    ]
    assert placing.clips[0].fit == pytest.approx(5 / 6)
    assert placing.lost == []


def test_a_word_that_nobody_heard_goes_where_there_is_time_for_it() -> None:
    text = "one two three extraordinarily four five six"
    heard = [["one", "two", "three"], ["four", "five", "six"]]
    early = place(text, units(text), heard, [2.2, 1.0])
    late = place(text, units(text), heard, [1.0, 2.2])
    assert [one.last - one.first for one in early.clips] == [4, 3]
    assert [one.last - one.first for one in late.clips] == [3, 4]


def test_words_that_no_clip_has_time_for_are_told_and_left_out() -> None:
    text = "a title that nobody reads out loud at all in this recording of mine. one two three four five six"
    heard = [["one", "two", "three"], ["four", "five", "six"]]
    placing = place(text, units(text), heard, [1.0, 1.0])
    assert placing.lost == [(0, 14)]
    assert [one.last - one.first for one in placing.clips] == [3, 3]


def test_without_a_recogniser_words_are_divided_by_duration_and_at_marks() -> None:
    text = "Three words here. And now there are five. Two more."
    found = units(text)
    placing = place_by_duration(found, [1.0, 1.6, 0.6])
    assert [text_of(text, found[one.first : one.last]) for one in placing.clips] == [
        "Three words here.",
        "And now there are five.",
        "Two more.",
    ]
    assert all(one.fit is None for one in placing.clips)


def test_time_without_words_is_counted_once_for_all_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A book has thousands of clips: counting anew for every word that nobody heard would take hours."""
    counted: list[int] = []
    free = placing._free
    monkeypatch.setattr(placing, "_free", lambda *given: counted.append(1) or free(*given))
    text = " ".join(f"one{i} two{i} three{i} four{i}" for i in range(50))
    found = place(text, units(text), [[f"one{i}", f"two{i}", f"four{i}"] for i in range(50)], [2.0] * 50)
    assert [(one.first, one.last) for one in found.clips] == [(4 * i, 4 * i + 4) for i in range(50)]
    assert counted == [1]


def test_all_units_are_divided() -> None:
    found = units("a bb ccc dddd eeeee " * 40)
    rooms = [1.0, 5.0, 0.2, 3.0, 9.0]
    assert sum(divide(found, rooms)) == len(found)
    assert len(divide(found[:2], rooms)) == len(rooms)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (15, "fifteen"),
        (40, "forty"),
        (1462, "one thousand four hundred sixty two"),
        (2_000_001, "two million one"),
    ],
)
def test_numbers_are_spelled(number: int, words: str) -> None:
    assert spelled(number) == words.split()


def test_unknown_words_get_phones_and_a_year_two_readings() -> None:
    known = {"fourteen": "F", "sixty": "S", "two": "T", "one": "W", "thousand": "TH", "four": "FO", "hundred": "H"}.get
    assert pronunciations("1462", known=known) == ["F S T", "W TH FO H S T"]
    assert pronunciations("schoeffer", known=known) == ["SH OW F ER"]
    assert pronunciations("two", known=known) == ["T"]
    assert pronunciations("東", known=known) == []
    assert pronunciations("²²²²", known=known) == []
