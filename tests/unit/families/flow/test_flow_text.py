"""The front end's edges; that it equals upstream's is shown in tests/parity."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from ttstrain.contract.data import Clip, Token
from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.planner import FlowPlanner
from ttstrain.families.flow.text import (
    FlowFrontEnd,
    TokenizerKind,
    encode,
    front_end_versions,
    pinyin_tokens,
    tokenize,
)
from ttstrain.families.flow.vocab import load_vocab


def test_characters_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    assert tokenize("größer; ja", kind="char") == list("größer; ja")


def test_missing_libraries_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(RecipeError, match="rjieba") as caught:
        tokenize("hello", kind="pinyin")
    assert "ttstrain[flow]" in str(caught.value.hint)


def test_what_the_vocab_lacks_is_marked() -> None:
    read = front_end(kind="char").tokens("ẞ is")
    assert read == [Token("ẞ", "unknown"), Token(" "), Token("i"), Token("s")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer (als) Österreich", "größ|er (␣als) Ö|sterreich"),
        ("naïve où êtes-vous", "naï|ve où ê|tes-vous"),
        ("tiếng Việt", "tiế|ng Việt"),
        ("Привет мир", "Привет мир"),
        ("我喜欢Python编程", "␣wo3␣xi3␣huan1␣Python␣bian1␣cheng2"),
        ("カタカナabc", "カタカナ␣abc"),  # no letter before: the space is not within a word
    ],
)
def test_spaces_that_no_text_holds_are_marked(text: str, shown: str) -> None:
    pytest.importorskip("rjieba")
    marks = {"inserted": "␣", "split": "|"}
    tokens = front_end(kind="pinyin").tokens(text)
    assert "".join(marks.get(token.kind, token.text) for token in tokens) == shown
    assert [token.text for token in tokens] == pinyin_tokens(text)


def test_spaces_keep_words_apart() -> None:
    pytest.importorskip("rjieba")
    draw = random.Random(0)
    read = front_end(kind="pinyin")
    for _ in range(3000):
        text = "".join(draw.choices("  abÖß.,;:'\"-1%+_\u3000\t我喜欢编程カ한é行长不一(“”", k=draw.randint(0, 12)))
        words = [read.tokens(word) for word in text.split(" ")]
        joined = [token for word in words for token in (Token(" "), *word)][1:]
        assert read.tokens(text) == joined, text


def test_a_front_end_names_all_that_decides_on_tokens() -> None:
    characters = front_end(kind="char")
    assert set(characters.versions) == {"tokenizer", "vocab"}
    assert characters.versions["vocab"] == f"sha256:{load_vocab('package:emilia').sha256}"


def test_pinyin_and_custom_are_one_front_end() -> None:
    pytest.importorskip("rjieba")
    assert front_end(kind="pinyin").versions == front_end(kind="custom").versions
    assert set(front_end(kind="pinyin").versions) == {"tokenizer", "pypinyin", "rjieba", "vocab"}


def front_end(*, kind: TokenizerKind) -> FlowFrontEnd:
    return FlowFrontEnd(load_vocab("package:emilia"), kind=kind, max_unknown=0.005)


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


def test_texts_that_upstreams_inference_reads_otherwise_are_told_before_training() -> None:
    texts = ["Hello there.", "größer ist es", "“quoted”"]
    clips = [Clip(id=text, path=Path("a.wav"), text=text, duration_s=1.0, sample_rate=8000) for text in texts]
    [remark] = FlowPlanner(FlowConfig(tokenizer="char")).review(clips).remarks
    assert remark.text.startswith(
        "WARNING: upstream's inference tokenizes 2 of 3 texts differently from `tokenizer: char`"
    )
    assert "'größer ist es' as 'größ er ist es'" in remark.text
    assert FlowPlanner(FlowConfig(tokenizer="char")).review(clips[:1]).remarks == ()
    assert FlowPlanner(FlowConfig()).review(clips).remarks == ()
