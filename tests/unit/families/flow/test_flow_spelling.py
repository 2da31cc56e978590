from __future__ import annotations

import unicodedata

import pytest

from ttstrain.families.flow.spelling import Spelling
from ttstrain.families.flow.text import FlowFrontEnd, encode
from ttstrain.families.flow.vocab import Vocab

E_ACUTE, RRA = "é", "\u09dc"
APART = unicodedata.normalize("NFD", E_ACUTE)


def test_a_table_of_composed_letters_changes_nothing() -> None:
    spelling = Spelling([" ", "e", E_ACUTE, "\u0301", "y"])
    assert spelling.of("é ý ẽ") == "é ý ẽ"  # a lone accent beside é is no spelling of ý


def test_a_table_of_letters_and_accents_reads_composed_texts() -> None:
    spelling = Spelling([" ", "e", "\u0301", "\u0302"])
    assert spelling.of("é ế ẽ") == f"{APART} e\u0302\u0301 ẽ"


def test_a_letter_that_composing_takes_apart_is_read_as_the_table_holds_it() -> None:
    apart = unicodedata.normalize("NFC", RRA)
    assert len(apart) == 2
    assert Spelling([" ", RRA]).of(apart) == RRA
    assert Spelling([" ", *apart]).of(apart) == apart
    assert Spelling([" ", RRA, *apart]).of(apart + RRA) == apart + RRA
    assert Spelling([" ", "\u09a1", "\u09bc"]).of(RRA) == apart


@pytest.mark.parametrize("text", [E_ACUTE, "bar " + RRA])
def test_texts_that_made_a_vocab_are_all_known_to_it(text: str) -> None:
    for written in (text, unicodedata.normalize("NFD", text)):
        vocab = Vocab(tokens=(" ", *sorted(set(written) - {" "})), source="own", sha256="")
        front_end = FlowFrontEnd(vocab, kind="char", max_unknown=0.0)
        assert {token.kind for token in front_end.tokens(text)} == {"known"}
        assert encode(text, vocab, kind="char") == vocab.encode(written)
