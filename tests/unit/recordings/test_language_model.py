from __future__ import annotations

import math
import re

import pytest

from ttstrain.recordings.language_model import arpa

WORDS = ["the", "cat", "saw", "the", "dog", "and", "the", "dog", "saw", "the", "cat", "run"]


def read(text: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """Read an ARPA file: probabilities and weights of shorter contexts."""
    found, left = {}, {}
    for line in text.splitlines():
        if re.match(r"-?\d", line):
            value, gram, *back = line.split("\t")
            found[tuple(gram.split())] = 10 ** float(value)
            if back:
                left[tuple(gram.split())] = 10 ** float(back[0])
    return found, left


def probability(
    gram: tuple[str, ...], found: dict[tuple[str, ...], float], left: dict[tuple[str, ...], float]
) -> float:
    if gram in found:
        return found[gram]
    return left.get(gram[:-1], 1.0) * probability(gram[1:], found, left)


@pytest.mark.parametrize("context", [(), ("the",), ("cat",), ("the", "dog"), ("run", "the"), ("cat", "run"), ("<s>",)])
def test_the_words_after_any_context_have_probability_one_in_all(context: tuple[str, ...]) -> None:
    found, left = read(arpa(WORDS))
    vocabulary = {gram[0] for gram in found if len(gram) == 1} - {"<s>"}
    assert math.isclose(sum(probability((*context, word), found, left) for word in vocabulary), 1, rel_tol=1e-3)


def test_what_the_text_says_is_likelier_than_another_order() -> None:
    found, left = read(arpa(WORDS))
    assert probability(("the", "dog", "and"), found, left) > 5 * probability(("the", "dog", "run"), found, left)


def test_the_head_counts_the_lines() -> None:
    text = arpa(WORDS)
    for order in (1, 2, 3):
        block = text.split(f"\\{order}-grams:\n")[1].split("\n\n")[0]
        assert f"ngram {order}={len(block.splitlines())}\n" in text
