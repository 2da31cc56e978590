"""The front end's edges; that it equals upstream's is shown in tests/parity."""

from __future__ import annotations

import sys

import pytest

from ttstrain.errors import RecipeError
from ttstrain.families.flow.text import coverage, encode, front_end_versions, pinyin_tokens, tokenize
from ttstrain.families.flow.vocab import load_vocab


def test_characters_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    assert tokenize("größer; ja", kind="char") == list("größer; ja")


def test_missing_libraries_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(RecipeError, match="rjieba") as caught:
        tokenize("hello", kind="pinyin")
    assert "ttstrain[flow]" in str(caught.value.hint)


def test_coverage_counts_what_would_be_read_as_spaces() -> None:
    found = coverage(["ẞ is ẞ", "plain", "Ẽ"], load_vocab("package:emilia"), kind="char")
    assert found.unknown == {"ẞ": 2, "Ẽ": 1}
    assert found.examples == {"ẞ": "ẞ is ẞ", "Ẽ": "Ẽ"}
    assert found.num_unknown == 3
    assert found.unknown_share == pytest.approx(3 / 12)


def test_coverage_of_nothing_is_full() -> None:
    assert coverage([], load_vocab("package:emilia"), kind="char").unknown_share == 0


def test_custom_reads_text_as_pinyin_does() -> None:
    pytest.importorskip("rjieba")
    assert tokenize("你好 Zürich", kind="custom") == tokenize("你好 Zürich", kind="pinyin")


@pytest.mark.parametrize(
    "text", ["", " ", "こんにちは、カタカナ", "안녕하세요", "ㄅㄆ", "😀 ok", "а\u0301\u200d", "①②ＡＢ"]
)
def test_no_script_breaks_the_front_end(text: str) -> None:
    pytest.importorskip("rjieba")
    tokens = pinyin_tokens(text)
    assert len(tokens) >= len(text)
    assert len(encode(text, load_vocab("package:emilia"), kind="pinyin")) == len(tokens)


def test_versions_that_decide_on_tokens_are_known() -> None:
    pytest.importorskip("rjieba")
    assert set(front_end_versions()) == {"pypinyin", "rjieba"}
