"""What is said while there is time, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from judged_sides import side

from ttstrain.judge.alarms import Alarms
from ttstrain.judge.rule import stand

BASE = side("base", voice=0.7, contrast=0.9)


def hear(alarms: Alarms, **values: Any) -> list[str]:
    return alarms.hear(stand(side("online", **values), BASE), stand(BASE, None))


def test_a_healthy_run_raises_no_alarm() -> None:
    alarms = Alarms()
    for voice, pace, lost in ((0.7, 1.0, 0), (0.74, 0.94, 1), (0.69, 1.05, 0), (0.8, 1.1, 1), (0.82, 1.04, 0)):
        assert hear(alarms, voice=voice, pace=pace, lost=lost) == []


SPOILED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"pace": 1.2}, {"pace": 1.4}, "the pace drifts: 20 % slower than at first, pace 20 % slower than the recordings"),
    ({"voice": 0.65}, {"voice": 0.55}, "the voice moves away from the speaker's: 0.05 farther than the base's"),
    ({"lost": 4}, {"lost": 6}, "words lost: 4 of 8 sentences, base 8"),
]


@pytest.mark.parametrize(("bad", "worse", "words"), SPOILED)
def test_two_listenings_in_a_row_raise_an_alarm_once_and_again_when_it_gets_worse(
    bad: dict[str, Any], worse: dict[str, Any], words: str
) -> None:
    alarms = Alarms()
    first = hear(alarms, **bad)
    assert first == [] or "lost" in bad
    assert [*first, *hear(alarms, **bad)] == [words]
    assert hear(alarms, **bad) == []
    told = hear(alarms, **worse)
    assert len(told) == 1 and told != [words]
    assert hear(alarms, **worse) == []


def test_what_passes_is_no_alarm() -> None:
    alarms = Alarms()
    for voice in (0.65, 0.75, 0.65, 0.75):
        assert hear(alarms, voice=voice) == []


def test_what_is_drastic_is_said_at_once() -> None:
    assert hear(Alarms(), lost=6) == ["words lost: 2 of 8 sentences, base 8"]
    assert hear(Alarms(), lost=7) == ["words not understood: 1 of 8 sentences, base 8"]
    assert len(hear(Alarms(), pace=1.5)) == 1
    assert hear(Alarms(), contrast=0.4)[0].startswith("speech is blurred: its spectrum changes 40 % as much")


def test_a_resumed_run_does_not_say_it_again() -> None:
    alarms, resumed = Alarms(), Alarms()
    assert len([*hear(alarms, pace=1.2), *hear(alarms, pace=1.2)]) == 1
    resumed.load_state_dict(alarms.state_dict())
    assert hear(resumed, pace=1.2) == []
    assert len(hear(resumed, pace=1.35)) == 1


def test_a_pace_that_comes_closer_to_the_recordings_is_no_drift() -> None:
    slow = side("base", pace=1.5)
    alarms = Alarms()
    for _ in range(2):
        assert alarms.hear(stand(side("online", pace=1.05), slow), stand(slow, None)) == []


def test_of_a_base_that_does_not_speak_nothing_can_be_lost() -> None:
    mush = side("base", voice=0.7, lost=7)
    alarms = Alarms()
    for _ in range(3):
        assert alarms.hear(stand(side("online", voice=0.5, lost=8), mush), stand(mush, None)) == []


def test_one_sentence_fewer_than_a_base_that_is_hardly_understood_is_chance() -> None:
    """Of a healthy fine-tune 0 of 4 sentences were found where its base had 1."""
    base, alarms = side("base", voice=0.7, lost=6), Alarms()
    for _ in range(3):
        standing = stand(side("online", voice=0.8, lost=7), base)
        assert [fault.kind for fault in standing.faults] == ["not understood"]
        assert alarms.hear(standing, stand(base, None)) == []
