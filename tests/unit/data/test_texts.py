"""What is told of texts before a model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ttstrain.contract.data import Clip, Token
from ttstrain.data import text_summary
from ttstrain.data.text_summary import check_texts, example, show_tokens, text_lines
from ttstrain.data.texts import TextReport, extended_vocab, read_clip_text, read_texts
from ttstrain.errors import DataError
from ttstrain.layout import WIDTH


class Letters:
    """Knows the letters a to z and the space; splits words at `+`."""

    name = "letters"
    versions: Mapping[str, str] = {"tokenizer": "letters", "vocab": "sha256:0"}
    vocab: Sequence[str] = (" ", *"abcdefghijklmnopqrstuvwxyz")
    vocab_source = "letters.txt"
    unknown_as = "spaces"
    separator = ""
    by_word = False

    def __init__(self, max_unknown: float = 0.01) -> None:
        self.max_unknown = max_unknown

    def tokens(self, text: str, language: str = "") -> list[Token]:
        return [self._token(character) for character in text]

    def _token(self, character: str) -> Token:
        if character == "+":
            return Token(" ", "split")
        if character == "_":
            return Token(" ", "inserted")
        return Token(character) if character in self.vocab else Token(character, "unknown")


def clip(text: str, *tokens: str) -> Clip:
    return Clip(id=text, path=Path("a.wav"), text=text, tokens=tokens, duration_s=1.0, sample_rate=24_000)


def report(*texts: str, max_unknown: float = 0.01) -> TextReport:
    return read_texts(list(map(clip, texts)), Letters(max_unknown))


def test_unknown_symbols_are_counted_with_their_first_sentence() -> None:
    found = report("no Ğ", "Ş and Ğ", "plain")
    assert found.unknown == {"Ğ": 2, "Ş": 1}
    assert found.examples == {"Ğ": "no Ğ", "Ş": "Ş and Ğ"}
    assert found.num_tokens == 16
    assert found.unknown_share == pytest.approx(3 / 16)


def test_split_words_are_counted_as_they_are_read() -> None:
    found = report("gr+er als gr+er", "x_yz o+n")
    assert found.split == {("grer", "gr er"): 2, ("on", "o n"): 1}
    assert (found.num_split, found.num_words) == (3, 6)


def test_tokens_of_another_trainer_are_taken_as_they_are() -> None:
    found = read_texts([clip("a+Ğ", "a", "+", "b")], Letters())
    assert (found.unknown, found.num_split, found.num_tokens) == ({"+": 1}, 0, 3)


def test_nothing_to_read_is_nothing_unknown() -> None:
    assert report().unknown_share == 0
    assert not report().refused


@pytest.mark.parametrize(("texts", "refused"), [(["a" * 99 + "Ğ"], False), (["a" * 98 + "Ğ"], True)])
def test_a_share_over_the_limit_is_refused(texts: list[str], refused: bool) -> None:
    found = report(*texts)
    assert found.refused is refused
    if not refused:
        check_texts(found)
        return
    with pytest.raises(DataError, match="Ğ 1") as caught:
        check_texts(found)
    for way in ("--vocab-out", "model.vocab=", "other texts", "model.max_unknown=0.02"):
        assert way in str(caught.value.hint)


def test_the_limit_that_is_proposed_holds() -> None:
    found = report("a" * 70 + "Ğ" * 30)
    assert "model.max_unknown=0.31" in str(_refusal(found).hint)
    assert not report("a" * 70 + "Ğ" * 30, max_unknown=0.31).refused


def _refusal(found: TextReport) -> DataError:
    with pytest.raises(DataError) as caught:
        check_texts(found)
    return caught.value


def test_all_is_told_in_eighty_columns() -> None:
    symbols = "".join(chr(code) for code in range(0x100, 0x180))
    lines = text_lines(report(f"{'long ' * 40}{symbols}{' words' * 40}", "gr+er " * 30, "tab\tbell\x07"))
    assert max(len(line) for line in lines) <= WIDTH
    assert not any("\x07" in line or "\t" in line for line in lines)
    assert "and 118 more symbols" in " ".join(" ".join(lines).split())


def test_an_example_shows_where_the_symbol_stands() -> None:
    assert example(report("a word with Ğ in it"), "Ğ") == "a word with [Ğ] in it"
    assert example(report("x" * 40 + "Ğ" + "y" * 40), "Ğ") == f"…{'x' * 16}[Ğ]{'y' * 16}…"


def test_sentences_that_show_a_problem_come_first() -> None:
    shown = show_tokens([clip("fine"), clip("gr+er"), clip("an_d Ğ")], Letters(), most=3)
    assert [text.plain for text in shown] == ["an␣d [Ğ]", "gr␣er", "fine"]


def test_tokens_that_are_no_characters_are_shown_apart_and_make_no_words() -> None:
    class Phonemes(Letters):
        separator = "."

    assert [text.plain for text in show_tokens([clip("abĞ")], Phonemes(), most=1)] == ["a.b.[Ğ]"]
    found = read_texts([clip("ab c+d")], Phonemes())
    assert (found.num_words, found.split, found.to_json()["words"]) == (0, {}, None)


def test_the_language_of_a_row_reaches_the_front_end() -> None:
    class Languages(Letters):
        def tokens(self, text: str, language: str = "") -> list[Token]:
            return [Token(language)]

    row = Clip(id="1", path=Path("a.wav"), text="a", language="de", duration_s=1.0, sample_rate=24_000)
    assert list(read_clip_text(row, Languages())) == [Token("de")]


def test_a_vocab_grows_at_its_end_in_a_fixed_order() -> None:
    grown = extended_vocab([" ", "b", "a"], ["ş", "a", "ğ", "\x07", "\ud800"])
    assert grown == [" ", "b", "a", "ğ", "ş"]


@pytest.mark.parametrize(("share", "limit"), [(0.0, 0.01), (0.123, 0.13), (0.999, 1.0), (1.0, 1.0)])
def test_the_limit_that_is_proposed_holds_and_is_a_share(share: float, limit: float) -> None:
    assert text_summary._above(share) == limit


def test_a_front_end_that_reads_by_word_is_asked_once_for_each_and_finds_the_same() -> None:
    asked: list[str] = []

    class ByWord(Letters):
        by_word = True

        def tokens(self, text: str, language: str = "") -> list[Token]:
            asked.append(text)
            return super().tokens(text, language)

    texts = ["no Ğ", "gr+er  als Şa", "Ş and Ğ gr+er", "no no Ğ", "x_yz o+n Şa", ""]
    clips = [clip(text) for text in texts for _ in range(50)]
    assert read_texts(clips, ByWord()) == read_texts(clips, Letters())
    assert len(asked) == 1 + len({word for text in texts for word in text.split(" ")})
    assert read_texts([clip("a+Ğ", "a", "+", "b")], ByWord()) == read_texts([clip("a+Ğ", "a", "+", "b")], Letters())


def test_a_space_that_the_vocabulary_lacks_is_counted_with_all_others() -> None:
    class NoSpace(Letters):
        vocab = "abc"

    class ByWord(NoSpace):
        by_word = True

    assert read_texts([clip("a b c")], ByWord()) == read_texts([clip("a b c")], NoSpace())
    assert read_texts([clip("a b c")], ByWord()).unknown == {" ": 2}
