"""What a run says at its sampling steps, and who listens to it.

The run speaks; a listener, which stands above training, says what is heard. It changes nothing in the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from ttstrain.contract.task import Audio

Speaker = Literal["online", "ema", "base"]  # the weights that generated an utterance

CHOSEN_SCORE = "judge/chosen_score"  # key of the higher score of raw and EMA weights, by which `judge` chooses
SHARE_OF_TIME = "judge/share_of_time"  # key of the judge's share of the session's time so far


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence that is listened to at every sampling step."""

    name: str
    text: str
    voice: str  # the clip that was the reference; empty: none
    speaker: str  # whose voice is wanted; empty where the data name no speakers
    trained: bool = False  # the run trains on its recording


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence as one set of weights said it."""

    sentence: Sentence
    weights: Speaker
    audio: Audio
    vocoder: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a listener says of one sampling step."""

    values: Mapping[str, float] = field(default_factory=dict)  # keys of the metrics
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sentence -> weights -> JSON values
    alarms: Sequence[str] = ()  # warnings
    notes: Sequence[str] = ()  # what was not measured, and why
    opening_s: float = 0.0  # of this listening, for what no later one does again: opening models, measuring recordings
    opening_cpu_s: float = 0.0  # likewise, of the processor


class Listener(Protocol):
    """Listens at every sampling step, and goes on in the run's folder after a resume."""

    def expect(self, sentences: Sequence[Sentence]) -> None:
        """Take in which sentences there will be; called once, before anything else."""
        ...

    def lacks_base(self, sentence: Sentence) -> bool:
        """Tell whether what the base says of a sentence was not heard yet."""
        ...

    def hear_base(self, utterances: Sequence[Utterance]) -> None:
        """Take in what the base says, apart from a sampling step."""
        ...

    def heard_between(self) -> int:
        """Return how many sentences an earlier session heard at steps between the first and the last; 0: not known."""
        ...

    def listen(
        self, step: int, utterances: Sequence[Utterance], losses: Mapping[Speaker, float], *, compared: int
    ) -> Heard:
        """Listen to what the weights say after `step` updates. `losses` are held-out losses at this step, if any.

        Scores, which are compared with those of other steps, are over the first `compared` of the expected sentences:
        those that are heard at every step. At step 0 of a run with a base, the raw weights are the base.
        """
        ...
