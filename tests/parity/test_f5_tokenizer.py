"""Our front end against upstream's, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttstrain.families.flow.text import pinyin_tokens
from ttstrain.families.flow.vocab import load_vocab

pytest.importorskip("rjieba", reason="the pinyin front end is the extra `flow`")
pytest.importorskip("pypinyin", reason="the pinyin front end is the extra `flow`")


def test_tokens_and_indices_are_upstreams(fixtures_dir: Path) -> None:
    cases = json.loads((fixtures_dir / "f5_tokenizer" / "cases.json").read_text(encoding="utf-8"))
    vocab = load_vocab("package:emilia")
    assert len(cases) >= 29
    for case in cases:
        tokens = pinyin_tokens(case["text"])
        assert tokens == case["tokens"], case["text"]
        assert vocab.encode(tokens) == case["idx"], case["text"]


def test_packaged_vocab_is_upstreams_byte_for_byte(fixtures_dir: Path) -> None:
    config = json.loads((fixtures_dir / "f5_tokenizer" / "config.json").read_text())
    vocab = load_vocab("package:emilia")
    assert len(vocab.tokens) == config["vocab_size"]
    assert vocab.sha256 == config["vocab_sha256"]
    assert load_vocab(str(fixtures_dir / "f5_tokenizer" / "vocab.txt")).tokens == vocab.tokens
    known = {" ": 0, "!": 1, ",": 12, ".": 14, "?": 30, "A": 32, "a": 62, "é": 1471, "z": 1294, "，": 2541}
    assert {token: vocab.index[token] for token in known} == known


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello world", list("Hello world")),
        ("你好，世界", [" ", "ni2", " ", "hao3", "，", " ", "shi4", " ", "jie4"]),
        ("银行行长", [" ", "yin2", " ", "hang2", " ", "hang2", " ", "zhang3"]),
        ("Python编程", [*"Python", " ", "bian1", " ", "cheng2"]),
        # Upstream's rule puts a space after a letter outside ASCII; inference does too, so training must.
        ("größer", [*"größ", " ", *"er"]),
        ("Zürich", [*"Zü", " ", *"rich"]),
        ("où êtes", [*"où ê", " ", *"tes"]),
        ("über", ["ü", " ", *"ber"]),
    ],
)
def test_words_are_split_as_upstream_splits_them(text: str, tokens: list[str]) -> None:
    assert pinyin_tokens(text) == tokens
