from __future__ import annotations

from ttstrain.data.pieces import ANY_MARK, SENTENCE_END, cut
from ttstrain.data.transcript import usual_seconds


def test_sentences_are_kept_whole_where_they_fit() -> None:
    text = "One, two. Three, four! Five?"
    assert cut(text, size=len, most=12, marks=(SENTENCE_END, ANY_MARK)) == ["One, two.", "Three, four!", "Five?"]
    assert cut(text, size=len, most=100, marks=(SENTENCE_END, ANY_MARK)) == [text]


def test_only_what_is_too_long_is_cut_finer() -> None:
    text = "Short one. A longer one, with a comma in it. End."
    assert cut(text, size=len, most=20, marks=(SENTENCE_END, ANY_MARK)) == [
        "Short one.",
        "A longer one,",
        "with a comma in it.",
        "End.",
    ]


def test_numbers_and_runs_of_marks_stay_whole() -> None:
    assert cut("3.5 and 1,000 ... so!? 本当？！はい", size=len, most=1, marks=(SENTENCE_END, ANY_MARK)) == [
        "3.5",
        "and",
        "1,000",
        "...",
        "so!?",
        *"本",
        "当？！",
        *"はい",
    ]


def test_a_text_without_words_is_no_piece() -> None:
    assert cut("   ", size=len, most=1, marks=(SENTENCE_END,)) == []


def test_a_calm_pace_lies_between_the_bounds() -> None:
    assert 4 < usual_seconds("The kettle began to sing just as the rain reached the kitchen window.") < 6
    assert 1 < usual_seconds("今天天气很好我们出去") < 4
