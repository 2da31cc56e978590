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

HANDY_S = (1.5, 5.0)  # long enough to tell a voice, short enough to be generated soon
STEPS_PER_UTTERANCE = 5  # a sentence takes about as long as so many steps: see `docs/judge.md`
SHARE = 0.1  # of the run's time that is spent between its first and its last step
FEWEST = 4  # sentences; of fewer nothing can be said


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
    between: int = 0  # of `unshown`, the first so many are generated at steps other than the first and the last
    due: Sequence[SpokenSentence] = ()  # of `unshown`, what is generated at this step
    utterances: list[Utterance] = field(default_factory=list)
    spent_s: float = 0.0  # generating what is not shown, and listening, since the last sampling step

    @property
    def sentences(self) -> list[Sentence]:
        return [*self.shown.values(), *(one.sentence for one in self.unshown)]

    def without_base(self, prompts: Mapping[str, Prompt]) -> Listening:
        """Return what is still to be heard of the base: all sentences are generated, none is shown."""
        every = [*(SpokenSentence(one, prompts[name]) for name, one in self.shown.items()), *self.unshown]
        lacking = [one for one in every if self.listener.lacks_base(one.sentence)]
        return Listening(self.listener, unshown=lacking, due=lacking)

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

    def begin(self, *, whole: bool) -> None:
        """Begin a sampling step; `whole` is one at which every sentence is listened to."""
        self.utterances, self.spent_s = [], 0.0
        self.due = self.unshown if whole else self.unshown[: self.between]

    def listen(self, run: Run, losses: Mapping[Speaker, float]) -> Heard:
        """Listen to all that was taken in. Training's random numbers are left as they were."""
        started = perf_counter()
        with run.rng.preserved():
            heard = self.listener.listen(run.progress.step, self.utterances, losses)
        self.spent_s += perf_counter() - started
        return heard


def count_between(sample_every: int) -> int:
    """Return how many sentences raw and EMA weights can say at a sampling step in the time that the judge may take."""
    return max(FEWEST, int(SHARE * sample_every / (2 * STEPS_PER_UTTERANCE)))


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
