"""Which weights the judge says to use, from invented figures of eight sentences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from judged_sides import side

from ttstrain.judge.figures import Figures
from ttstrain.judge.rule import Side, stand
from ttstrain.judge.verdict import decide

BASE = side("base", voice=0.6)


def test_the_closer_of_two_usable_sides_wins_and_the_words_say_by_how_much() -> None:
    verdict = decide([side("online", voice=0.7, loss=0.5), side("ema", voice=0.81, pace=1.02, loss=0.9)], BASE)
    assert verdict.outcome == "better"
    assert verdict.words == "closer to the voice by 0.21, words kept, pace 2 % slower: use EMA of step 300"


def test_a_difference_within_the_interval_is_left_to_the_held_out_loss() -> None:
    sides = [side("online", voice=0.8, loss=0.6), side("ema", voice=0.805, loss=0.5)]
    assert decide(sides, BASE).words.endswith("use EMA of step 300")
    assert decide([replace(sides[0], loss=0.4), sides[1]], BASE).words.endswith("use raw weights of step 300")


def test_a_voice_farther_than_the_bases_is_worse() -> None:
    verdict = decide([side("online", voice=0.5)], BASE)
    assert verdict.outcome == "worse"
    assert verdict.words == "worse than the base: do not use it (farther from the voice by 0.10)"


def test_the_same_figures_are_no_difference() -> None:
    verdict = decide([side("online", voice=0.605)], BASE)
    assert verdict.outcome == "same"
    assert verdict.words.startswith("no difference from the base that exceeds the interval (voice +0.0")


FAULTS: Sequence[tuple[dict[str, Any], str, str]] = [
    ({"lost": 7}, "not understood", "words not understood: 1 of 8 sentences, base 8"),
    ({"lost": 5}, "words lost", "words lost: 3 of 8 sentences, base 8"),
    ({"lost": 4}, "words lost", "words lost: 4 of 8 sentences, base 8"),
    ({"cer": 0.3}, "words lost", "words lost: 25 % more character errors"),
    (
        {"contrast": 0.35},
        "blurred",
        "speech is blurred: its spectrum changes 35 % as much as the recordings', the base's 90 %",
    ),
    ({"pace": 1.3}, "pace", "pace 30 % slower"),
    ({"pace": 0.75}, "pace", "pace 25 % faster"),
    ({"repeats": 1.0}, "repeats", "says 1.0 more stretches twice in a sentence"),
    ({"mos": 3.0}, "naturalness", "naturalness lower by 1.0 MOS"),
    ({"too_long": 1.0}, "collapsed", "of 8 sentences 8 far too long"),
    ({"silence_share": 1.0, "too_short": 1.0}, "collapsed", "of 8 sentences 8 silent"),
]


@pytest.mark.parametrize(("values", "kind", "words"), FAULTS, ids=[kind for _, kind, _ in FAULTS])
def test_a_fault_outweighs_any_voice(values: dict[str, Any], kind: str, words: str) -> None:
    base = side("base", voice=0.6, cer=0.05, contrast=0.9, repeats=0.0, mos=4.0)
    spoiled = side("online", voice=0.95, **{"cer": 0.05, "contrast": 0.9, "repeats": 0.0, "mos": 4.0, **values})
    standing = stand(spoiled, base)
    assert [(fault.kind, fault.words) for fault in standing.faults] == [(kind, words)]
    assert decide([spoiled], base).words == f"worse than the base: do not use it ({words})"
    sound = side("ema", voice=0.78, cer=0.05, repeats=0.0, mos=4.0)
    assert decide([spoiled, sound], base).words.endswith("use EMA of step 300")
    score, other = standing.score, stand(sound, base).score
    assert score is not None and other is not None and score < other


def test_what_the_base_does_too_is_no_fault_of_training() -> None:
    slow = side("base", voice=0.6, pace=1.4)
    assert decide([side("online", voice=0.8, pace=1.4)], slow).outcome == "better"
    assert stand(side("online", pace=1.6), slow).faults
    blurred = side("base", voice=0.6, contrast=0.5)
    assert decide([side("online", voice=0.8, contrast=0.5)], blurred).outcome == "better"
    assert stand(side("online", contrast=0.3), blurred).faults
    assert [fault.kind for fault in stand(side("online", contrast=0.3), None).faults] == ["blurred"]


def test_one_sentence_lost_is_within_the_interval_and_is_told() -> None:
    verdict = decide([side("online", voice=0.8, lost=1)], BASE)
    assert verdict.words == (
        "closer to the voice by 0.20, words not clearly fewer (7 of 8 sentences, base 8), pace as recorded: "
        "use raw weights of step 300"
    )
    assert verdict.outcome == "better"


def test_no_single_sentence_decides_whether_speech_is_usable() -> None:
    mush = side("base", voice=0.7, lost=5)
    found = [decide([side("online", voice=0.8, lost=lost)], mush) for lost in range(9)]
    assert [verdict.outcome for verdict in found] == ["better"] * 7 + ["unusable", "worse"]
    doubt = "not sure whether words are understood"
    assert [doubt in verdict.words for verdict in found] == [False, False, True, True, True, True, True, False, False]
    assert found[4].words == (
        "closer to the voice by 0.10, not sure whether words are understood (4 of 8 sentences, base 3), "
        "pace as recorded: use raw weights of step 300"
    )
    assert (
        found[7].words == "not usable: words not understood: 1 of 8 sentences, base 3; the base is not clearly better"
    )
    assert found[2].words == (
        "closer to the voice by 0.10, words gained (6 of 8 sentences, base 3), not sure whether words are understood, "
        "pace as recorded: use raw weights of step 300"
    )
    scores = [verdict.winner.score for verdict in found if verdict.winner is not None and verdict.winner.score]
    steps = [before - after for before, after in itertools.pairwise(scores)]
    assert all(0 < step < 0.26 for step in steps)


def test_three_sentences_are_too_few_to_say() -> None:
    three = replace(side("online"), figures=side("online").figures[:3])
    verdict = decide([three])
    assert verdict.words.startswith("too few sentences to say whether words are understood (3 of 3 sentences)")
    assert verdict.outcome == "unsure"


def test_weights_that_clearly_say_fewer_of_the_words_do_not_win_by_their_voice() -> None:
    mush = side("base", voice=0.6, lost=6)
    verdict = decide([side("online", voice=0.7), side("ema", voice=0.9, lost=6)], mush)
    assert verdict.winner is not None and verdict.winner.side.key == "online"
    assert verdict.words.startswith("closer to the voice by 0.10, words gained (8 of 8 sentences, base 2), pace")


def test_silent_sentences_are_lost_words() -> None:
    """Seven sound clips cannot outvote what is silent: of 16 sentences five are, which leaves 11 of 16."""
    sound = side("online", voice=0.8).figures
    silent = Figures(words=0.0, words_margin=-1.0, silence_share=1.0, too_short=1.0)
    base = Side("base", "the base", [*side("base", voice=0.8).figures] * 2)
    spoiled = stand(Side("online", "raw weights", [*sound, *sound[:3], *[silent] * 5]), base)
    assert [fault.words for fault in spoiled.faults] == [
        "of 16 sentences 5 silent",
        "words lost: 11 of 16 sentences, base 16",
    ]


def test_a_base_that_cannot_be_used_is_said() -> None:
    mush = side("base", voice=0.6, lost=7)
    assert decide([side("online", voice=0.62, lost=7)], mush).words == (
        "this net does not speak yet, nor does its base: no verdict (words not understood: 1 of 8 sentences, base 1)"
    )
    gained = decide([side("online", voice=0.8)], mush)
    assert (gained.outcome, gained.words) == (
        "better",
        "closer to the voice by 0.20, words gained (8 of 8 sentences, base 1), pace as recorded: "
        "use raw weights of step 300",
    )


def test_of_noise_the_held_out_loss_chooses() -> None:
    noise = [side("online", voice=0.5, lost=8, loss=0.4), side("ema", voice=0.7, lost=8, loss=0.9)]
    winner = decide(noise, BASE).winner
    assert winner is not None and winner.side.key == "online"


def test_a_run_without_a_base_is_judged_alone() -> None:
    assert decide([side("online")]).words == (
        "words understood (8 of 8 sentences), voice 0.80, pace as recorded: use raw weights of step 300"
    )
    assert decide([side("online", pace=1.3)]).words == "not usable: pace 30 % slower"


SILENT: dict[str, Any] = {"silence_share": 1.0, "too_short": 1.0, "voice": None, "words": None, "words_margin": None}


@pytest.mark.parametrize("values", [{"lost": 7}, SILENT], ids=["mush", "silence"])
def test_of_a_net_that_does_not_speak_there_is_no_verdict(values: dict[str, Any]) -> None:
    alone = decide([side("online", **values), side("ema", loss=1.0, **values)])
    assert alone.outcome == "unusable"
    assert alone.words.startswith("this net does not speak yet: no verdict (")
    beside = decide([side("online", **values)], side("base", lost=8))
    assert beside.outcome == "unusable"
    assert beside.words.startswith("this net does not speak yet, nor does its base: no verdict (")
    assert decide([side("online", **values)], BASE).words.startswith("worse than the base: do not use it (")


def test_one_sentence_shows_no_difference() -> None:
    one = replace(side("online", voice=0.9), figures=side("online", voice=0.9).figures[:1])
    assert decide([one], replace(BASE, figures=BASE.figures[:1])).outcome == "same"


def test_what_was_not_measured_is_said_and_never_counted() -> None:
    nothing = {"words": None, "words_margin": None}
    verdict = decide([side("online", voice=0.8, **nothing)], side("base", voice=0.6, **nothing))
    assert "words not measured" in verdict.words
    assert decide([Side("online", "raw weights", [Figures()] * 8)], BASE).outcome == "unknown"
    assert stand(side("online", voice=None), BASE).score is None


def test_an_average_that_is_too_slow_is_named_and_raw_weights_are_used() -> None:
    sides = [side("online", voice=0.75, loss=0.9), side("ema", voice=0.61, loss=0.5)]
    words = decide(sides, BASE).words
    assert words.endswith(
        "use raw weights of step 300; EMA of step 300: hardly different from the base, `ema.decay` is too high"
    )


def test_an_average_that_is_too_slow_is_named_where_it_is_all_that_can_be_used() -> None:
    verdict = decide([side("online", voice=0.75, lost=5), side("ema", voice=0.601)], BASE)
    assert verdict.winner is not None and verdict.winner.side.key == "ema"
    assert verdict.words.endswith("EMA of step 300: hardly different from the base, `ema.decay` is too high")


@pytest.mark.parametrize("voice", [0.55, 0.7, 0.74])
def test_an_average_that_moved_is_not_named(voice: float) -> None:
    words = decide([side("online", voice=0.75, loss=0.9), side("ema", voice=voice, loss=1.0)], BASE).words
    assert "hardly different" not in words


@pytest.mark.parametrize("voice", [0.605, 0.7])
def test_a_pace_that_the_base_has_too_is_named(voice: float) -> None:
    fast = side("base", voice=0.6, pace=0.75)
    verdict = decide([side("online", voice=voice, pace=0.76)], fast)
    assert verdict.outcome in ("same", "better")
    assert verdict.words.count("pace 24 % faster") == 1
    assert "pace" not in decide([side("online", voice=0.605, pace=0.9)], BASE).words


def test_a_voice_that_other_people_reach_is_said_not_to_be_the_speakers() -> None:
    words = decide([side("online", voice=0.67)], side("base", voice=0.55)).words
    assert words.endswith("; not the speaker's voice yet (0.67; other people reach up to 0.73)")
    assert "not the speaker's voice" in decide([side("online", voice=0.67)]).words
    assert "not the speaker's voice" not in decide([side("online", voice=0.8)], side("base", voice=0.55)).words
