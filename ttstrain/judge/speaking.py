"""Whether a net speaks at all: of noise, figures of voice and pace say nothing."""

from __future__ import annotations

from math import comb

from ttstrain.judge.rule import Standing

SURE = 0.05  # chance, at most, that guessing finds as many sentences


def speaks(standing: Standing) -> bool:
    """Tell whether words are understood, or more sentences are found than guessing finds.

    Of sentences without recordings it is only known whether all are silent.
    """
    words = standing.words
    if words is not None:
        return words.understanding != "not understood" or by_guessing(words.found, words.of) <= SURE
    heard = [one for one in standing.side.figures if one.measured()]
    return not heard or any(one.silence_share != 1 for one in heard)


def by_guessing(found: int, n: int) -> float:
    """Return the chance to find so many of `n` sentences, or more, by guessing each among `n`."""
    return sum(comb(n, k) * (1 / n) ** k * (1 - 1 / n) ** (n - k) for k in range(found, n + 1))
