"""A language model of one text, for a recogniser that shall find the text's words in a recording.

Trigrams with Witten and Bell's interpolation (1991), written as an ARPA file. What the text says is likely, whatever
place of it a clip begins at; any other order of its words stays possible, so that a text that was not read is noticed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

ORDER = 3
START, END = "<s>", "</s>"
WORDS_PER_END = 20  # a clip may end anywhere: one end is counted for so many words

Gram = tuple[str, ...]


def arpa(words: Sequence[str]) -> str:
    """Return a trigram model of a sequence of words in the ARPA format. ValueError without words."""
    if not words:
        raise ValueError("a language model needs words")
    counts = {order: _count(words, order) for order in range(1, ORDER + 1)}
    counts[1][(END,)] = max(1, len(words) // WORDS_PER_END)
    probabilities: dict[Gram, float] = _unigrams(counts[1])
    left: dict[Gram, float] = {(START,): 1.0}  # context -> weight of the shorter context
    for order in range(2, ORDER + 1):
        _interpolate(counts[order], probabilities, left)
    return _written(probabilities, left)


def _count(words: Sequence[str], order: int) -> Counter[Gram]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _unigrams(counts: Mapping[Gram, int]) -> dict[Gram, float]:
    """Add one to every count: a word that the text holds once may be heard as often as another."""
    total = sum(counts.values()) + len(counts)
    return {gram: (count + 1) / total for gram, count in counts.items()}


def _interpolate(counts: Mapping[Gram, int], probabilities: dict[Gram, float], left: dict[Gram, float]) -> None:
    following: dict[Gram, list[Gram]] = defaultdict(list)
    for gram in counts:
        following[gram[:-1]].append(gram)
    for context, grams in following.items():
        seen, kinds = sum(counts[gram] for gram in grams), len(grams)
        left[context] = kinds / (seen + kinds)
        for gram in grams:
            probabilities[gram] = counts[gram] / (seen + kinds) + left[context] * probabilities[gram[1:]]


def _written(probabilities: Mapping[Gram, float], left: Mapping[Gram, float]) -> str:
    by_order: dict[int, list[str]] = {order: [] for order in range(1, ORDER + 1)}
    by_order[1].append(f"-99\t{START}\t{math.log10(left[(START,)]):.4f}")
    for gram, probability in sorted(probabilities.items()):
        back = f"\t{math.log10(left[gram]):.4f}" if gram in left else ""
        by_order[len(gram)].append(f"{math.log10(probability):.4f}\t{' '.join(gram)}{back}")
    head = [f"ngram {order}={len(lines)}" for order, lines in by_order.items()]
    parts = [part for order, lines in by_order.items() for part in (f"\\{order}-grams:", *lines, "")]
    return "\n".join(["\\data\\", *head, "", *parts, "\\end\\", ""])
