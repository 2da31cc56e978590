"""Recordings, their texts, and how a family turns them into batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from typing_extensions import Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Ready(NamedTuple):
    """A feature of a recording that another trainer has computed: in a file of its own, or written in the table."""

    name: str  # the family's name for it
    path: str = ""  # of its file
    digest: str = ""  # SHA-256 of the file, hex
    values: tuple[int, ...] = ()  # where there is no file


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a file's samples become one sound channel: `(channel[start:end] - offset) * gain`."""

    channel: int | Literal["mean"] = "mean"
    gain: float = 1.0
    offset: float = 0.0
    start: int = 0  # in samples at the file's own rate
    end: int | None = None  # None: to the end of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One recording and its transcript."""

    id: str
    path: Path
    text: str
    speaker: str = ""
    language: str = ""
    duration_s: float  # after treatment
    sample_rate: int  # Hz, of the file
    source: str = ""  # the row it comes from, "metadata.csv:12"
    treatment: Treatment = field(default_factory=Treatment)
    notes: tuple[str, ...] = ()  # codes of repairs and warnings
    digest: str = ""  # SHA-256 of the file, hex
    tokens: tuple[str, ...] = ()  # an upstream front end's tokens, if the text itself is unknown
    ready: tuple[Ready, ...] = ()  # features that another trainer has computed

    @property
    def num_samples(self) -> int:
        """Samples after treatment, at the file's own rate."""
        if self.treatment.end is None:
            return round(self.duration_s * self.sample_rate)
        return self.treatment.end - self.treatment.start

    def samples_at(self, sample_rate: int) -> int:
        """Return the exact number of samples `audio.read_clip` gives at another rate, without decoding."""
        return -(-self.num_samples * sample_rate // self.sample_rate)


TokenKind = Literal["known", "unknown", "inserted", "split"]


class Token(NamedTuple):
    """One token as the model reads it.

    `inserted` is a space that is not in the text, `split` such a space between two letters of one word.
    """

    text: str
    kind: TokenKind = "known"


class FrontEnd(Protocol):
    """Turns texts into tokens. Two front ends with equal `versions` give the same tokens for every text."""

    name: str
    versions: Mapping[str, str]  # versions of everything that affects tokens; under `vocab` a hash of the vocab
    vocab: Sequence[str]  # tokens in the order of their indices
    vocab_source: str
    max_unknown: float  # share of unknown tokens above which a run is refused
    unknown_as: str  # what unknown tokens become: "spaces"
    separator: str  # between tokens where people are shown them; not empty where tokens are no characters
    by_word: bool  # whether a text's tokens are those of what stands between its spaces, with a space's between them

    def tokens(self, text: str, language: str = "") -> Sequence[Token]:
        """Tokenize one text, in its row's language if it has one."""
        ...


class Remark(NamedTuple):
    """A line about the data as a whole."""

    label: str  # at most eight letters
    text: str


@dataclass(frozen=True, slots=True)
class ClipFinding:
    """An error or a warning about one clip."""

    clip: Clip
    action: Literal["accept", "skip"]  # `accept` only notes it
    reason: str  # a short code
    why: str


@dataclass(frozen=True, slots=True)
class Review:
    """A family's findings."""

    findings: tuple[ClipFinding, ...] = ()
    remarks: tuple[Remark, ...] = ()


@runtime_checkable
class Batch(Protocol):
    """What training reads of a collated micro-batch; other fields are the family's own."""

    @property
    def ids(self) -> Sequence[str]:
        """The clips, for incident reports."""
        ...

    @property
    def weight(self) -> float:
        """How many units each loss of this batch is a mean over; known on the host, final after `Task.draw`."""
        ...

    @property
    def num_frames(self) -> int:
        """Number of units without padding."""
        ...

    @property
    def num_padded(self) -> int:
        """Number of units with padding."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device; called in any thread, before `Task.draw` as well as after."""
        ...


class AuxiliaryData(Protocol):
    """Auxiliary examples without recordings, such as text-only rows, that are mixed into the clips' batches."""

    name: str  # in messages
    packed: bool  # as `TaskData.packed`
    ids: Sequence[str]  # none of them a clip's
    lengths: Sequence[int]  # in the clips' units

    def ratio(self, progress: float) -> float:
        """Return the number of auxiliary micro-batches per micro-batch of clips, at a share of the run."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """Collate some of them."""
        ...


class TaskData(ABC):
    """How clips become features, examples and batches. Built as `DataClass(model_config)`; must pickle to workers."""

    sample_rate: int  # Hz; clips reach `features` resampled to it
    fingerprint: str  # changes whenever the output of `features` changes; part of the cache key
    frames_per_s: float  # units of length per second of audio
    packed: bool = False
    """A batch's clips are laid end to end: it costs the sum of their lengths, and nothing is padded."""
    in_one_process: bool = False
    """`features` runs nets that fill the machine by themselves: several processes would not help."""

    @abstractmethod
    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        """Compute the features that are cached on disk from a mono waveform (t,)."""

    @abstractmethod
    def length(self, clip: Clip) -> int:
        """Return the clip's length in frames, known from its duration without decoding."""

    def lengths(self, clips: Sequence[Clip]) -> Sequence[int]:
        """Return the length of every clip; a family may find them faster than one by one."""
        return [self.length(clip) for clip in clips]

    @abstractmethod
    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> Any:
        """Add cheap features that are not cached: token ids, speaker ids."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Batch:
        """Pad examples into one batch, in any thread: `example` and `collate` are never called in two at once."""

    def review_features(self, clips: Sequence[Clip], read: Callable[[Clip], Mapping[str, Tensor]]) -> Review:
        """Return the family's findings about clips, given their features by `read`."""
        return Review()

    def reference(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mel (n, n_mels) that a sample of this clip is compared with, if the family has one."""
        return None


@runtime_checkable
class SuppliesAuxiliaryData(Protocol):
    """A `TaskData` whose task also trains on examples without recordings."""

    def auxiliary(self) -> AuxiliaryData | None:
        """Return the auxiliary data of the settings; None if they name none."""
        ...
