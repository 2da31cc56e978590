"""Whether a net speaks at all, from invented figures of eight sentences."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from judged_sides import side

from ttstrain.judge.rule import stand
from ttstrain.judge.speaking import by_guessing, speaks


@pytest.mark.parametrize("n", [4, 8, 16])
@pytest.mark.parametrize("found", [1, 2, 4])
def test_the_chance_is_that_of_guessing_each_sentence(n: int, found: int) -> None:
    draw = random.Random(0)
    rounds = 20_000
    hits = sum(sum(draw.randrange(n) == 0 for _ in range(n)) >= found for _ in range(rounds))
    assert by_guessing(found, n) == pytest.approx(hits / rounds, abs=0.01)


@pytest.mark.parametrize(("lost", "says"), [(0, True), (4, True), (6, True), (7, False), (8, False)])
def test_more_is_found_than_guessing_finds(lost: int, says: bool) -> None:
    assert speaks(stand(side("online", lost=lost), None)) is says


def test_four_of_sixteen_are_not_understood_but_more_than_guessing_finds() -> None:
    sixteen = replace(side("online"), figures=[*side("online", lost=4).figures, *side("online", lost=8).figures])
    assert stand(sixteen, None).understanding == "not understood"
    assert speaks(stand(sixteen, None))


@pytest.mark.parametrize(("share", "says"), [(1.0, False), (0.4, True)])
def test_of_sentences_without_recordings_only_silence_is_known(share: float, says: bool) -> None:
    assert speaks(stand(side("online", words=None, words_margin=None, silence_share=share), None)) is says
