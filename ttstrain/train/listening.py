"""What is listened to at a sampling step: the sentences, and what each set of weights says of them.

More sentences are listened to than are shown: figures of two sentences say little. Only the shown ones become files.

Before the first step and after the last one all sentences are heard. At the steps between, that takes at most a tenth
of the time since the last listening, as measured so far: the first sentences of a fixed order are heard, or none where
too few fit. How many is decided once, at the first step where at least `FEWEST` fit, so that later steps compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from time import perf_counter

import torch

from ttstrain.contract.data import Clip
from ttstrain.contract.listening import SHARE_OF_TIME, Heard, Listener, Sentence, Speaker, Utterance
from ttstrain.contract.task import Audio, Prompt, Sample
from ttstrain.errors import NoSpeechError
from ttstrain.train import affordable, spent
from ttstrain.train.affordable import SHARE
from ttstrain.train.run import Run

HANDY_S = (1.5, 5.0)  # long enough to tell a voice, short enough to be generated soon


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """A sentence and what it is generated with."""

    sentence: Sentence
    prompt: Prompt


@dataclass(slots=True)
class Costs:
    """Where the judge's time goes, in seconds; each sentence's is that of the last step at which it was measured."""

    clock: Callable[[], float] = perf_counter
    total: float = 0.0  # of this session
    step: float = 0.0  # of this sampling step
    generating: float | None = None  # one sentence that is not shown
    listening: float | None = None  # to one sentence
    started: float = field(init=False)  # of the session
    last: float = field(init=False)  # end of the last listening, or start of the session

    def __post_init__(self) -> None:
        self.started = self.last = self.clock()

    def add(self, seconds: float) -> None:
        self.step += seconds
        self.total += seconds

    @property
    def share(self) -> float:
        """Share of the session's time so far."""
        return self.total / max(self.clock() - self.started, 1e-9)

    @property
    def allowed(self) -> float:
        """Seconds that a listening between the first and the last step may take now."""
        return SHARE * (self.clock() - self.last)

    def expected(self, sentences: int, *, shown: int, weights: int) -> float | None:
        """Return the seconds that raw weights, or both, take to be heard; None where nothing was measured yet."""
        if self.listening is None or (sentences > shown and self.generating is None):
            return None
        return affordable.expected(
            sentences, shown=shown, weights=weights, generating=self.generating or 0.0, listening=self.listening
        )


@dataclass(slots=True)
class Listening:
    """Collects what is generated at one sampling step, for a listener."""

    listener: Listener
    shown: Mapping[str, Sentence] = field(default_factory=dict)  # name of a preview -> its sentence
    unshown: Sequence[SpokenSentence] = ()
    between: int | None = None  # sentences at steps other than the first and the last; None: by time
    due: Sequence[SpokenSentence] = ()  # of `unshown`, what is generated at this step
    utterances: list[Utterance] = field(default_factory=list)
    costs: Costs = field(default_factory=Costs)
    decided: int = 0  # sentences that are heard at steps between, once time has decided it
    _heard_now: frozenset[str] = frozenset()  # names of the sentences of this step
    _told: bool = False  # that a step was left out

    @property
    def sentences(self) -> list[Sentence]:
        return [*self.shown.values(), *(one.sentence for one in self.unshown)]

    def without_base(self, prompts: Mapping[str, Prompt]) -> Listening:
        """Return what is still to be heard of the base: all sentences are generated, none is shown."""
        every = [*(SpokenSentence(one, prompts[name]) for name, one in self.shown.items()), *self.unshown]
        lacking = [one for one in every if self.listener.lacks_base(one.sentence)]
        return Listening(self.listener, unshown=lacking, due=lacking, costs=self.costs)

    def take(self, name: str, weights: Speaker, sample: Sample) -> None:
        """Take in a preview, if its sentence is listened to at this step."""
        if name in self._heard_now:
            self._add(self.shown[name], weights, sample)

    def take_silence(self, run: Run, name: str, weights: Speaker) -> None:
        """Take in that nothing was generated for a preview, if its sentence is listened to at this step."""
        if name in self._heard_now:
            self._add(self.shown[name], weights, _silence(run))

    def generate(self, run: Run, one: SpokenSentence, weights: Speaker) -> None:
        """Generate a sentence that is not shown, and take it in; where the net generates nothing, as silence."""
        started = self.costs.clock()
        try:
            with run.spent.on(spent.GENERATE):
                self._add(one.sentence, weights, run.task.sample(one.prompt))
        except NoSpeechError:
            self._add(one.sentence, weights, _silence(run))
        finally:
            seconds = self.costs.clock() - started
            self.costs.add(seconds)
            self.costs.generating = seconds

    def _add(self, sentence: Sentence, weights: Speaker, sample: Sample) -> None:
        self.utterances.append(Utterance(sentence, weights, sample.audio, sample.vocoder))

    def begin(self, *, whole: bool, weights: int) -> str:
        """Begin a sampling step; return a note where nothing is heard at it, once.

        `whole` is a step at which every sentence is listened to; `weights` is how many sets say each.
        """
        self.utterances, self.costs.step = [], 0.0
        count = len(self.sentences) if whole else self._fitting(weights)
        self.due = self.unshown[: max(0, count - len(self.shown))]
        self._heard_now = frozenset(sentence.name for sentence in self.sentences[:count])
        if count or self._told or self.between == 0 or not self.sentences:
            return ""
        self._told = True
        fewest = self.decided or self._counts()[-1]
        return (
            f"judge: {fewest} sentences take more than {100 * SHARE:.0f} % of the time since the last listening: it "
            "listens at a later sampling step, once they fit, and after the last step"
        )

    def _fitting(self, weights: int) -> int:
        """Return how many sentences are heard at a step between the first and the last."""
        if self.between is not None:
            return min(self.between, len(self.sentences))
        self.decided = self.decided or min(self.listener.heard_between(), len(self.sentences))
        shown = len(self.shown)
        counts = [self.decided] if self.decided else self._counts()
        if self.costs.expected(counts[-1], shown=shown, weights=weights) is None:
            self.decided = counts[-1]  # a resumed run: this step measures what a sentence takes
            return self.decided
        allowed = self.costs.allowed
        fits = (n for n in counts if (self.costs.expected(n, shown=shown, weights=weights) or 0.0) <= allowed)
        count = next(fits, 0)
        self.decided = count or self.decided
        return count

    def _counts(self) -> list[int]:
        return affordable.choices(len(self.sentences))

    def listen(self, run: Run, losses: Mapping[Speaker, float]) -> Heard:
        """Listen to all that was taken in. Training's random numbers are left as they were."""
        started = self.costs.clock()
        compared = self.between if self.between is not None else self.decided
        with run.rng.preserved(), run.spent.on(spent.LISTEN, times=len(self.utterances)):
            heard = self.listener.listen(
                run.progress.step, self.utterances, losses, compared=compared or len(self.sentences)
            )
        run.spent.move(spent.LISTEN, spent.OPEN_EARS, wall=heard.opening_s, cpu=heard.opening_cpu_s)
        self.costs.last = self.costs.clock()
        seconds = self.costs.last - started
        self.costs.add(seconds)
        self.costs.listening = seconds / len(self.utterances)
        values = {**heard.values, "time/judge_s": self.costs.step, SHARE_OF_TIME: self.costs.share}
        return replace(heard, values=values)


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


def _silence(run: Run) -> Sample:
    """Return what is heard where nothing was generated."""
    no_samples = Audio(torch.zeros(0), sample_rate=24_000)  # any rate fits
    return Sample(no_samples, vocoder=run.task.prepare_sampling())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
