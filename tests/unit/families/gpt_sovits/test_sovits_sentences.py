"""Where a long text is cut."""

from __future__ import annotations

import pytest

from ttstrain.families.gpt_sovits.sentences import clauses, ended, pieces


def test_nothing_is_lost_and_four_clauses_make_a_piece() -> None:
    text = "One here, two here, three here. Four now! Five then? Six, seven."
    found = pieces(text, "en")
    assert found == ["One here, two here, three here. Four now!", "Five then? Six, seven."]
    assert "".join(piece.replace(" ", "") for piece in found) == text.replace(" ", "")


def test_lines_are_pieces_of_their_own() -> None:
    assert pieces("今天天气真好\n我们去公园吧。", "zh") == ["今天天气真好。", "我们去公园吧。"]


@pytest.mark.parametrize("text", ["Version 3.5 is out", "It is 10:30 now", "1,000 people"])
def test_numbers_are_not_cut(text: str) -> None:
    assert clauses(text) == [text]


def test_marks_in_a_row_end_one_clause() -> None:
    assert clauses("Wait... what?! Yes.") == ["Wait...", " what?!", " Yes."]


def test_short_pieces_join_their_neighbours() -> None:
    assert pieces("Oh!\nThat is a longer line.\nYes", "en") == ["Oh!That is a longer line.Yes."]
    assert pieces("好", "zh") == ["好。"]


def test_a_text_of_marks_has_no_pieces() -> None:
    assert pieces("... !?", "en") == []


@pytest.mark.parametrize(("language", "mark"), [("en", "."), ("zh", "。"), ("ja", "。"), ("ko", ".")])
def test_a_text_without_an_end_gets_one(language: str, mark: str) -> None:
    assert ended("abc", language) == "abc" + mark
    assert ended("abc!", language) == "abc!"
