"""The contract between training and a family: losses, evaluation and sampling.

Training owns backward, accumulation, clipping, precision, the guard, EMA and the learning rate. A task yields losses
and never touches an optimizer. Optional capabilities have classes of their own below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.errors import RecipeError

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint

DEFAULT_OPTIMIZER = "model"


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric averaged over its own count (e.g. tokens of one codec slot) instead of `batch.weight`.

    Micro-batches and ranks combine by adding `total` and `count`; a metric with count 0 is not reported.
    """

    total: Tensor  # ()
    count: Tensor  # ()


@dataclass(frozen=True, slots=True)
class Loss:
    """One scalar loss.

    `value` is a mean over the `weight` units of its batch, so that micro-batches and ranks combine into the loss of
    one large batch.
    """

    value: Tensor  # ()
    updates: str = DEFAULT_OPTIMIZER  # name of the optimizer this loss trains
    name: str = ""  # how the loss is logged; default: the optimizer's name
    steps: bool = True  # False while another loss of this micro-batch still adds to the same optimizer's gradient
    metrics: Mapping[str, Tensor | Mean] = field(default_factory=dict)  # name -> (); logged, not part of the loss
    statistics: Mapping[str, Tensor] = field(default_factory=dict)  # summed over the whole step for `Task.learn`

    @property
    def label(self) -> str:
        """The name in `train/loss/<name>`."""
        return self.name or self.updates


@dataclass(frozen=True, slots=True)
class Audio:
    """A mono waveform."""

    wav: Tensor  # (t,) float32 in [-1, 1], on the CPU
    sample_rate: int  # Hz


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text to generate and, for models that clone a voice, the reference."""

    text: str
    reference: Audio | None = None
    reference_text: str = ""
    speaker: str = ""  # the voice's name, for models with named voices
    duration_s: float | None = None  # length of the speech to make; None: the model or its rule decides
    seed: int | None = None  # None: the model's own setting
    language: str = ""  # language of the text, if known and used by the family


@dataclass(frozen=True, slots=True)
class Sample:
    """One generated utterance and the spectrogram it was made from."""

    audio: Audio
    mel: Tensor | None = None  # (n, n_mels), natural log, when the family makes one
    vocoder: str = ""  # the vocoder's name, for people
    num_chunks: int = 1  # pieces that a long text was split into
    notes: tuple[str, ...] = ()  # notes for the user: symbols that were left out, a prompt that was cut
    numbers: Mapping[str, float] = field(default_factory=dict)  # name -> metric of the family's own, logged


class Task(nn.Module, ABC):
    """A trainable model with its losses. Subclasses implement `losses` and `evaluate`; the rest has defaults."""

    def draw(self, batch: Any) -> Any:
        """Make this step's random choices that decide `batch.weight`, on the host, before any loss is computed.

        Accumulation divides by the weight of all micro-batches together, so it must be known before the first
        backward. Uses the global CPU generators, whose states are part of a checkpoint. The batch may be on the device
        already: what is chosen depends on what of it stays on the host.
        """
        return batch

    @abstractmethod
    def losses(self, batch: Any) -> Iterator[Loss]:
        """Yield the losses of one micro-batch in the order in which the optimizers step.

        Code after a `yield` runs once that optimizer has stepped. With accumulation only the last micro-batch of a
        step sees the updated module. Never yield inside a `with` block: the engine enters autocast around `next()`.
        Every process of a run yields the same losses and metrics in the same order, whatever its batch holds.
        Buffers of the state dict stay as they are: a refused step puts nothing back, and `learn` follows a whole one.
        """

    def optimized(self) -> Mapping[str, nn.Module]:
        """Map each optimizer's name to the module it owns; the modules are disjoint and cover every parameter."""
        return {DEFAULT_OPTIMIZER: self}

    @abstractmethod
    def evaluate(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Return scalar losses of one held-out batch, each a mean over the batch's weight or over units of its own.

        `generator` is a CPU generator re-seeded before every evaluation: the same noise and the same times each time,
        so that two evaluations differ only by the weights. The key `total` decides which checkpoint is the best.
        """

    def flops(self, batch: Any) -> float | None:
        """Return the floating-point operations of one forward and backward pass over a batch; None: not known.

        A multiplication with its addition counts as two. Padding does not count, nor does what is computed again to
        save memory, nor the gradient of a weight that is not trained.
        """
        return None

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Return warnings about an evaluation's values, by the names of `evaluate`."""
        return ()

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Adapt a base's tensors to this task, for instance token embeddings to another vocab.

        Raises CheckpointError where that cannot be done. `load_weights` then checks names and shapes.
        """
        return AdaptedWeights(base.weights)

    def exported(self) -> nn.Module:
        """Return the module that EMA tracks and `export` writes."""
        return self

    def prepare_sampling(self) -> str:
        """Load what inference needs beside the weights, such as a vocoder, and return the vocoder's name.

        Raises CheckpointError if it is missing or does not fit the model.
        """
        return ""

    def sample(self, prompt: Prompt) -> Sample:
        """Generate one utterance with the current weights. The caller sets eval mode and restores it.

        Raises DataError when the prompt cannot be used, NoSpeechError when the net generates nothing for it,
        RecipeError for a task without a voice.
        """
        raise RecipeError(f"{type(self).__name__} cannot generate speech", hint="train it with `sample.every=null`")


# ---------------------------------------------------------------- what some tasks can do besides


@runtime_checkable
class LearnsFromStatistics(Protocol):
    """A task with weights that no optimizer updates, such as a codebook."""

    def learn(self, statistics: Mapping[str, Tensor]) -> None:
        """Update them from the `statistics` of a step's losses.

        Called after the optimizers have stepped, where the losses gave any: each is the sum over all micro-batches and
        processes, so that every process makes the same update. Not called for a step that the guard rejects.
        """
        ...


@runtime_checkable
class HasBlocks(Protocol):
    """A task whose weights lie mostly in blocks that follow each other."""

    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Return the blocks, in their order; none holds another.

        With `train.compile`, each is compiled. Where weights are sharded, each is gathered for its own forward and
        backward alone, and everything else for a whole loss. So nothing reads the weights of a block except its
        `forward`, and every process calls the same blocks, whatever its batch holds.
        """
        ...


@runtime_checkable
class FusesKernels(Protocol):
    """A task of which Liger has parts as fused kernels."""

    def fuse_kernels(self) -> None:
        """Have the net compute them so, in place; its weights and their names stay."""
        ...


@runtime_checkable
class ScoresTranscripts(Protocol):
    """A task that can score how well a clip's text explains its recording."""

    def score(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return a score for each clip (b,); the lower, the more suspicious the text.

        Near zero when text and recording do not match. `generator` is a CPU generator: the same
        seed gives the same scores.
        """
        ...


@runtime_checkable
class NamesVoices(Protocol):
    """A task whose model has named voices; others need a reference recording."""

    @property
    def voice_names(self) -> tuple[str, ...]:
        """The voices of the published weights."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingsFirst:
    """Embedding tables whose new embeddings train alone in the first steps of a run."""

    tables: tuple[str, ...]  # names of parameters
    steps: int


@runtime_checkable
class AddsTokens(Protocol):
    """A task that can train the embeddings of new tokens, which its base lacks, before everything else."""

    def embeddings_first(self) -> EmbeddingsFirst | None:
        """Return the tables whose `AdaptedWeights.new_embeddings` train first; None if no embeddings train first."""
        ...
