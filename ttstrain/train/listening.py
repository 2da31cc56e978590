"""What is listened to at a sampling step: the sentences, and what each set of weights says of them.

More sentences are listened to than are shown: figures of two sentences say little. Only the shown ones become files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter

from ttstrain.contract.data import Clip
from ttstrain.contract.listening import Heard, Listener, Sentence, Speaker, Utterance
from ttstrain.contract.task import Prompt, Sample
from ttstrain.train.run import Run

HANDY_S = (1.5, 8.0)  # long enough to tell a voice, short enough to be generated soon


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """A sentence and what it is generated with."""

    sentence: Sentence
    prompt: Prompt


@dataclass(slots=True)
class Listening:
    """Collects what is generated at one sampling step, for a listener."""

    listener: Listener
    shown: Mapping[str, Sentence] = field(default_factory=dict)  # name of a preview -> its sentence
    unshown: Sequence[SpokenSentence] = ()
    utterances: list[Utterance] = field(default_factory=list)
    spent_s: float = 0.0  # generating what is not shown, and listening, since the last sampling step

    @property
    def sentences(self) -> list[Sentence]:
        return [*self.shown.values(), *(one.sentence for one in self.unshown)]

    def without_base(self, prompts: Mapping[str, Prompt]) -> Listening:
        """Return what is still to be heard of the base: all sentences are generated, none is shown."""
        every = [*(SpokenSentence(one, prompts[name]) for name, one in self.shown.items()), *self.unshown]
        return Listening(self.listener, unshown=[one for one in every if self.listener.lacks_base(one.sentence)])

    def take(self, name: str, weights: Speaker, sample: Sample) -> None:
        """Take in a preview, if its sentence is listened to."""
        if name in self.shown:
            self._add(self.shown[name], weights, sample)

    def generate(self, run: Run, one: SpokenSentence, weights: Speaker) -> None:
        """Generate a sentence that is not shown, and take it in."""
        started = perf_counter()
        try:
            self._add(one.sentence, weights, run.task.sample(one.prompt))
        finally:
            self.spent_s += perf_counter() - started

    def _add(self, sentence: Sentence, weights: Speaker, sample: Sample) -> None:
        self.utterances.append(Utterance(sentence, weights, sample.audio, sample.vocoder))

    def begin(self) -> None:
        """Forget what an earlier step said; one may have been cut short."""
        self.utterances, self.spent_s = [], 0.0

    def listen(self, run: Run, losses: Mapping[Speaker, float]) -> Heard:
        """Listen to all that was taken in. Training's random numbers are left as they were."""
        started = perf_counter()
        with run.rng.preserved():
            heard = self.listener.listen(run.progress.step, self.utterances, losses)
        self.spent_s += perf_counter() - started
        return heard


def choose_unheard(held_out: Sequence[Clip], train: Sequence[Clip], *, taken: Sequence[str], count: int) -> list[Clip]:
    """Choose clips whose texts are listened to besides those `taken`: held-out ones first, of a handy length first."""
    low, high = HANDY_S
    chosen: list[Clip] = []
    texts = {_plain(text) for text in taken}
    handy_first = (
        (clip for clip in clips if (low <= clip.duration_s <= high) == handy)
        for clips in (held_out, train)
        for handy in (True, False)
    )
    for clip in chain.from_iterable(handy_first):
        if len(chosen) < count and _plain(clip.text) not in texts:
            texts.add(_plain(clip.text))
            chosen.append(clip)
    return chosen


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
