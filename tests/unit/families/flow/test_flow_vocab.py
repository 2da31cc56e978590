"""Vocab files: one rule for reading them, and no silent surprise."""

from __future__ import annotations

import string
import unicodedata
from pathlib import Path

import pytest

from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.export import as_upstream_reads, vocab_bytes
from ttstrain.families.flow.text import FlowFrontEnd
from ttstrain.families.flow.vocab import load_vocab


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    return tmp_path / "vocab.txt"


def test_index_is_the_line_number(vocab_file: Path) -> None:
    vocab_file.write_bytes(" \na\nni2\n\u2028\n".encode())  # a line separator is a token, not the end of a line
    vocab = load_vocab(str(vocab_file))
    assert vocab.tokens == (" ", "a", "ni2", "\u2028")
    assert vocab.encode(["ni2", "a", " "]) == [2, 1, 0]
    assert vocab.notes == ()


def test_unknown_tokens_become_the_space(vocab_file: Path) -> None:
    vocab_file.write_text(" \na\n")
    assert load_vocab(str(vocab_file)).encode(["a", "ẞ"]) == [1, 0]


@pytest.mark.parametrize("content", [b" \r\na\r\nb\r\n", b"\xef\xbb\xbf \na\nb\n"])
def test_line_ends_and_byte_order_mark_change_nothing(vocab_file: Path, content: bytes) -> None:
    vocab_file.write_bytes(b" \na\nb\n")
    plain = load_vocab(str(vocab_file))
    vocab_file.write_bytes(content)
    assert load_vocab(str(vocab_file)) == plain


def test_missing_last_newline_is_said(vocab_file: Path) -> None:
    vocab_file.write_text(" \na\nhao3")
    vocab = load_vocab(str(vocab_file))
    assert vocab.tokens == (" ", "a", "hao3")
    assert "'hao'" in vocab.notes[0]  # what upstream would read


def test_repeated_tokens_are_refused_by_name(vocab_file: Path) -> None:
    vocab_file.write_text(" \na\nb\na\n")
    with pytest.raises(RecipeError, match="'a' more than once"):
        load_vocab(str(vocab_file))


def test_space_must_come_first_unless_the_vocab_is_custom(vocab_file: Path) -> None:
    vocab_file.write_text("a\n \n")
    with pytest.raises(RecipeError, match="not the space"):
        load_vocab(str(vocab_file))
    assert load_vocab(str(vocab_file), space_first=False).tokens == ("a", " ")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read: No such file"), (b"", "is empty"), (b" \n\xff\n", "is not UTF-8")]
)
def test_unreadable_vocabs_are_refused(vocab_file: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        vocab_file.write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        load_vocab(str(vocab_file))


def test_unknown_package_vocab_names_the_known_one() -> None:
    with pytest.raises(RecipeError) as caught:
        load_vocab("package:emlia")
    assert caught.value.hint == "there is package:emilia, package:english"


def test_the_english_vocab_reads_english_text_as_written_and_as_upstream_reads_it() -> None:
    vocab = load_vocab("package:english")
    assert len(vocab.tokens) == 130
    assert set(vocab.tokens) >= set(string.printable) - set(string.whitespace) | {" "}
    assert all(unicodedata.normalize("NFC", token) == token and len(token) == 1 for token in vocab.tokens)
    assert as_upstream_reads(vocab_bytes(FlowConfig(tokenizer="custom", vocab="package:english"))[0]) == vocab.tokens
    text = "“She paid £5 – at the café, façade & all” (50 % of it): ‘naïve’ Zoë’s £3; O’Neill – no!"
    for kind in ("char", "custom"):
        front_end = FlowFrontEnd(vocab, kind=kind, max_unknown=0.0)
        assert [token.text for token in front_end.tokens(text) if token.kind == "unknown"] == []
