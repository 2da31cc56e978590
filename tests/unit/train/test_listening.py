"""How many sentences are listened to at a sampling step, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttstrain.contract.listening import SHARE_OF_TIME, Heard, Sentence, Speaker, Utterance
from ttstrain.contract.task import Audio, Prompt, Sample
from ttstrain.train.listening import Costs, Listening, SpokenSentence
from ttstrain.train.spent import Spent

SAMPLE = Sample(Audio(torch.zeros(8), 8))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Listener:
    """Takes a second for each utterance; it remembers what it was given."""

    clock: Clock
    before: int = 0
    heard: list[list[str]] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)

    def expect(self, sentences: Sequence[Sentence]) -> None: ...

    def lacks_base(self, sentence: Sentence) -> bool:
        return False

    def hear_base(self, utterances: Sequence[Utterance]) -> None: ...

    def heard_between(self) -> int:
        return self.before

    def listen(
        self, step: int, utterances: Sequence[Utterance], losses: Mapping[Speaker, float], *, compared: int
    ) -> Heard:
        self.clock.now += 1.0 * len(utterances)
        self.heard.append([one.sentence.name for one in utterances if one.weights == "online"])
        self.compared.append(compared)
        return Heard()


@dataclass
class Bench:
    """One run whose sentences take three seconds each to generate: ten sentences, of which two are shown."""

    between: int | None = None
    before: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.listener = Listener(self.clock, before=self.before)
        names = [f"{number}" for number in range(10)]
        sentences = [Sentence(name, name, voice="", speaker="") for name in names]
        self.listening = Listening(
            self.listener,
            {one.name: one for one in sentences[:2]},
            [SpokenSentence(one, Prompt(one.text)) for one in sentences[2:]],
            between=self.between,
            costs=Costs(self.clock),
        )
        task = SimpleNamespace(sample=self.generate)
        self.run: Any = SimpleNamespace(
            task=task, rng=SimpleNamespace(preserved=nullcontext), progress=SimpleNamespace(step=1), spent=Spent()
        )

    def generate(self, prompt: Prompt) -> Sample:
        self.clock.now += 3.0
        return SAMPLE

    def step(self, *, whole: bool = False, weights: Sequence[Speaker] = ("online", "ema")) -> tuple[str, Heard]:
        note = self.listening.begin(whole=whole, weights=len(weights))
        for one in weights:
            for name in self.listening.shown:
                self.listening.take(name, one, SAMPLE)
            for sentence in self.listening.due:
                self.listening.generate(self.run, sentence, one)
        return note, self.listening.listen(self.run, {}) if self.listening.utterances else Heard()

    def first(self) -> None:
        self.step(whole=True, weights=["online"])


NAMES = [f"{number}" for number in range(10)]


def test_the_first_and_the_last_listening_hear_every_sentence() -> None:
    bench = Bench()
    bench.first()
    bench.step(whole=True)
    assert bench.listener.heard == [NAMES, NAMES]


@pytest.mark.parametrize(("passed", "count"), [(199, 0), (200, 4), (519, 4), (520, 8), (679, 8), (680, 10)])
def test_what_is_heard_between_takes_a_tenth_of_the_time_since_the_last_listening(passed: float, count: int) -> None:
    """Two sets of weights say n sentences in 2 (n + 3 (n - 2)) seconds: 4 in 20, 8 in 52, 10 in 68."""
    bench = Bench()
    bench.first()
    bench.clock.now += passed
    began = bench.clock.now
    note, _ = bench.step()
    assert bench.listener.heard[1:] == ([NAMES[:count]] if count else [])
    assert bool(note) == (count == 0)
    assert bench.clock.now - began <= 0.1 * passed


def test_a_step_that_is_left_out_is_told_once_and_its_time_counts_for_the_next() -> None:
    bench = Bench()
    bench.first()
    notes = []
    for _ in range(3):
        bench.clock.now += 90
        notes.append(bench.step()[0])
    assert [bool(note) for note in notes] == [True, False, False]
    assert bench.listener.heard[1:] == [NAMES[:4]]  # 270 s after the first listening


def test_how_many_are_heard_is_decided_once() -> None:
    bench = Bench()
    bench.first()
    for passed in (520, 100_000, 519, 1):
        bench.clock.now += passed
        bench.step()
    assert bench.listener.heard[1:] == [NAMES[:8]] * 3  # too little time once, which counts for the next
    bench.step(whole=True)
    assert bench.listener.heard[-1] == NAMES
    assert bench.listener.compared == [10, 8, 8, 8, 8]  # what is heard at every step is a prefix of all


def test_a_resumed_run_hears_as_many_as_before_and_measures_first() -> None:
    bench = Bench(before=8)
    bench.step()
    assert bench.listener.heard == [NAMES[:8]]
    bench.clock.now += 519
    assert bench.step()[0]
    bench.clock.now += 1
    bench.step()
    assert bench.listener.heard == [NAMES[:8], NAMES[:8]]


def test_a_number_in_the_recipe_does_not_depend_on_time() -> None:
    bench = Bench(between=3)
    bench.step()
    assert bench.listener.heard == [NAMES[:3]] and bench.listener.compared == [3]
    silent = Bench(between=0)
    assert silent.step() == ("", Heard()) and silent.listener.heard == []


def test_the_share_of_time_counts_generating_and_listening_but_not_what_is_shown_anyway() -> None:
    bench = Bench(between=4)
    bench.clock.now += 80
    _, heard = bench.step()
    assert heard.values["time/judge_s"] == 20
    assert heard.values[SHARE_OF_TIME] == pytest.approx(20 / 100)
