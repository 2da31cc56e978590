"""Trains and evaluates a language model over SNAC codes.

Legend: n tokens of a packed row, m of them learned, h width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.contract.task import Audio, Loss, Mean, Prompt, Sample, Task
from ttstrain.errors import CheckpointError, NoSpeechError, RecipeError
from ttstrain.families.orpheus.batch import EOS_SLOT, IGNORED, SPEECH, OrpheusBatch
from ttstrain.families.orpheus.codec import Codec, load_codec
from ttstrain.families.orpheus.config import PREFIX, OrpheusConfig
from ttstrain.families.orpheus.cost import forward_flops
from ttstrain.families.orpheus.edges import measure_edges
from ttstrain.families.orpheus.fused import fuse
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, NUM_SLOTS, SAMPLE_RATE, TokenIds
from ttstrain.families.orpheus.layout import PUBLISHED_VOICES, pieces_of, said
from ttstrain.families.orpheus.loss import HeadLoss, HeadOptions, head_loss
from ttstrain.families.orpheus.net import build_net, hidden_states, prove_isolation
from ttstrain.families.orpheus.rows import prompt_ids
from ttstrain.families.orpheus.sampler import Written, read, write
from ttstrain.families.orpheus.tokenizer import another_tokenizer, load_tokenizer
from ttstrain.modules.trained import trained_share
from ttstrain.tensors.hub import NotFetchedError

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint
    from ttstrain.tensors.tensorfile import StoredTensor

SLOTS = tuple(f"slot{slot}" for slot in range(NUM_SLOTS))
EMBEDDING, HEAD = f"{PREFIX}model.embed_tokens.weight", f"{PREFIX}lm_head.weight"
KINDS = ("text", *SLOTS, "eos", "control")  # of tokens, all but the last in the order of slot + 1
CONTROL = len(KINDS) - 1
GUESS = math.log(CODEBOOK_SIZE)  # 8.32, of a guess among a slot's codes
FRESH = 0.95  # share of a uniform distribution's loss above which a net counts as untrained
SUSPICIOUS = 6.5  # mean over the slots at step 0 above which the codes, not the training, are wrong


class OrpheusTask(Task):
    """Train a language model to continue a text with its speech."""

    voice_names = PUBLISHED_VOICES

    def __init__(self, config: OrpheusConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_net(config)
        loss = config.loss
        self._head = HeadOptions(
            ids=config.ids,
            z_loss=loss.z_loss,
            slot_loss=loss.slot_loss,
            chunk_tokens=None if loss.chunk_tokens == "auto" else loss.chunk_tokens,
        )
        self._checked: set[bool] = set()  # in training or not
        self._codec: Codec | None = None  # loaded for the first sample; not part of the trained state

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Return the base's tensors, with token embeddings added if the recipe's vocabulary is a little larger.

        New embeddings are the mean of the audio tokens'. Raises CheckpointError if embeddings would be lost, or if the
        tokenizer has more ids than the net has embeddings; under `hub.nothing_fetched()` a tokenizer that was not
        downloaded yet is not checked.
        """
        wanted = self.config.vocab_size
        weights: dict[str, Tensor | StoredTensor] = dict(base.weights)
        notes = self._check_tokenizer(beside=base.path)
        tables = [name for name in (EMBEDDING, HEAD) if name in base.weights]
        for name in tables:
            rows = base.weights[name].shape[0]
            if rows > wanted:
                raise CheckpointError(
                    f"`{base.path}` has {rows:,} token embeddings, `model.vocab_size` is {wanted:,}: none are dropped",
                    hint=f"set `model.vocab_size={rows}`",
                )
            if rows < wanted:
                weights[name] = _with_rows(base.weights[name].read(), wanted, like=self.config.ids)
                notes.append(
                    f"{wanted - rows} token embeddings added to {name.removeprefix(PREFIX)}: mean of the audio tokens'"
                )
        rows_known = min(base.weights[name].shape[0] for name in tables) if tables else wanted
        new = tuple(range(rows_known, wanted))
        if not new:
            return AdaptedWeights(base.weights, notes=tuple(notes))
        return AdaptedWeights(weights, notes=tuple(notes), new_embeddings=dict.fromkeys(tables, new) if new else {})

    def _check_tokenizer(self, *, beside: Path) -> list[str]:
        try:
            tokenizer = load_tokenizer(self.config.rows.tokenizer)
        except NotFetchedError:
            return []
        wanted = self.config.vocab_size
        if tokenizer.size > wanted:
            raise CheckpointError(
                f"the tokenizer `{tokenizer.source}` has {tokenizer.size:,} ids, the net only {wanted:,} embeddings",
                hint=f"set `model.vocab_size={tokenizer.size}`: embeddings are then added to the base's",
            )
        return another_tokenizer(tokenizer, beside=beside)

    # ---------------------------------------------------------------- training

    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Return the net's layers."""
        return list(self.net.model.layers)

    def fuse_kernels(self) -> None:
        """Have the net's norms, gated activations and rotary positions computed by Liger."""
        fuse(self.net)

    def losses(self, batch: OrpheusBatch) -> Iterator[Loss]:
        """Yield the mean cross entropy over target tokens, with metrics by kind of token."""
        learned = find_learned(batch)
        loss = self.loss_of(batch, learned)
        metrics = {f"nll_{kind}": mean for kind, mean in self._by_kind(loss, learned).items()}
        metrics["illegal_mass"] = _masked_mean(loss.illegal, learned.slots >= 0)
        yield Loss(loss.value, metrics=metrics)

    def loss_of(self, batch: OrpheusBatch, learned: Learned) -> HeadLoss:
        """Run the forward that is trained."""
        if self.training not in self._checked:  # each by itself: not every process evaluates, and all train
            self._check()
        states = hidden_states(self.net, batch.input_ids, batch.position_ids, batch.cu_seqlens)  # (n, h)
        return head_loss(
            states[learned.places - 1], self.net.lm_head.weight, learned.targets, learned.slots, options=self._head
        )

    def _check(self) -> None:
        """Check, before the first loss, for faults that would silently ruin a run."""
        if type(self.net.lm_head) is not nn.Linear:
            raise RecipeError(
                "LoRA cannot adapt `lm_head`: the loss reads its weights directly, so an adapter would have no effect",
                hint="leave `lm_head` out of `lora.targets`; `lora.unfrozen=[*embed_tokens*]` trains it whole",
            )
        if self.config.tie_word_embeddings and self.net.lm_head.weight is not self.net.model.embed_tokens.weight:
            raise RuntimeError("`model.tie_word_embeddings` is true, but head and embedding are two matrices")
        prove_isolation(self.net)
        self._checked.add(self.training)

    def _by_kind(self, loss: HeadLoss, learned: Learned) -> dict[str, Mean]:
        control = (learned.slots < 0) & (learned.targets >= self._head.ids.first_custom)
        kind = torch.where(control, CONTROL, learned.slots + 1)
        zeros = torch.zeros(len(KINDS), device=loss.nll.device)
        totals = zeros.index_add(0, kind, loss.nll)
        counts = zeros.index_add(0, kind, torch.ones_like(loss.nll))
        return {name: Mean(totals[i], counts[i]) for i, name in enumerate(KINDS)}

    def flops(self, batch: OrpheusBatch) -> float:
        """Count from the documents' lengths; of the head, what learned tokens ask of it."""
        forward = forward_flops(self.config, batch.cu_seqlens.diff().tolist(), learned=round(batch.weight))
        head = 3 if self.net.lm_head.weight.requires_grad else 2
        return (2 + trained_share(self.net.model.layers)) * forward.layers + head * forward.head + 3 * forward.attention

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: OrpheusBatch, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Return the negative log-likelihood over the whole vocabulary: of all, by kind of token and by kind of row."""
        learned = find_learned(batch)
        loss = self.loss_of(batch, learned)
        speech = batch.modality[batch.documents[0, learned.places].long()] == SPEECH
        return {
            "total": loss.nll.double().sum().float() / max(batch.weight, 1.0),
            **self._by_kind(loss, learned),
            "speech_rows": _masked_mean(loss.nll, speech),
            "text_rows": _masked_mean(loss.nll, ~speech),
            "illegal_mass": _masked_mean(loss.illegal, learned.slots >= 0),
        }

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Warn if held-out codes are no better than chance, and at step 0 if the base does not predict them."""
        slots = {slot: values[slot] for slot in SLOTS if slot in values}
        if not slots:
            return []
        mean = sum(slots.values()) / len(slots)
        if step == 0 and mean > FRESH * math.log(self.config.vocab_size):
            return []  # a fresh net knows nothing, and should not
        if guessed := [slot for slot, value in slots.items() if value >= GUESS]:
            which = "all slots" if len(guessed) == NUM_SLOTS else ", ".join(guessed)
            return [f"{which}: no better than chance among {CODEBOOK_SIZE:,} codes ({GUESS:.2f} nats per token)"]
        if step == 0 and mean > SUSPICIOUS:
            return [f"the base does not predict the codes ({mean:.2f} nats per token): are they in the right slots?"]
        return []

    # ---------------------------------------------------------------- listening

    def prepare_sampling(self) -> str:
        """Load the codec; return its name and digest."""
        if self._codec is None:
            self._codec = load_codec(self.config.rows.codec)
        return f"SNAC {self._codec.digest}"

    @torch.no_grad()
    def sample(self, prompt: Prompt) -> Sample:
        """Generate speech with the voice that the text or the settings name; a reference recording is ignored.

        A text that is too long for `sampling.max_tokens` is generated in pieces, each with the voice's name. Of its
        numbers `slot_violations` is the share of tokens out of their slot, `stopped` 1 where every piece ended by
        itself, `lead_s`, `tail_s`, `lead_db` and `tail_db` are those of `Edges`.
        Raises NoSpeechError when the generated tokens contain no frame.
        """
        sound = self.prepare_sampling()
        assert self._codec is not None
        settings = self.config.sampling
        seed = settings.seed if prompt.seed is None else prompt.seed
        pieces = pieces_of(prompt.text, max_tokens=settings.max_tokens)
        written = [self._written(piece, prompt.speaker, seed=seed + i) for i, piece in enumerate(pieces)]
        num_tokens, num_misplaced = (sum(w.num_tokens for w in written), sum(w.num_misplaced for w in written))
        stopped = [w.stopped for w in written]
        if not any(len(w.frames) for w in written):
            raise NoSpeechError(
                f"no frame in {num_tokens:,} generated tokens: the model does not keep the order of slots yet",
                hint="train longer, or set `model.sampling.grammar=masked` to force the order of slots",
            )
        notes = []
        if not all(stopped):
            which = "" if len(pieces) == 1 else f"in {stopped.count(False)} of {len(pieces)} pieces "
            notes.append(f"{which}the speech did not end within {settings.max_tokens:,} tokens and was cut there")
        if num_misplaced:
            share = 100 * num_misplaced / num_tokens
            notes.append(f"{share:.2g} % of {num_tokens:,} tokens were out of slot order and dropped")
        codec = self._codec.to(self.net.lm_head.weight.device)
        wavs = [codec.decode(w.frames, seed=seed + i) for i, w in enumerate(written) if len(w.frames)]
        audio = Audio(torch.cat(wavs).clamp(-1, 1), SAMPLE_RATE)
        numbers = {
            "slot_violations": num_misplaced / max(num_tokens, 1),
            "stopped": float(all(stopped)),
            **measure_edges(audio.wav).numbers(),
        }
        return Sample(audio=audio, vocoder=sound, notes=tuple(notes), numbers=numbers, num_chunks=len(pieces))

    def _written(self, text: str, speaker: str, *, seed: int) -> Written:
        """Generate the tokens of one piece."""
        rows, settings, ids = self.config.rows, self.config.sampling, self.config.ids
        words = said(text, settings.voice or speaker, rows.voice)
        prompt = prompt_ids(load_tokenizer(rows.tokenizer).encode(words), ids)
        generator = torch.Generator().manual_seed(seed)
        assert self._codec is not None
        num_codes = self._codec.num_codes
        written = write(self.net, prompt, settings=settings, ids=ids, generator=generator, num_codes=num_codes)
        return read(written, ids)


def _with_rows(matrix: Tensor, rows: int, *, like: TokenIds) -> Tensor:
    mean = matrix[like.first_audio : like.end_audio].float().mean(dim=0).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(rows - len(matrix), -1)])


@dataclass(frozen=True, slots=True)
class Learned:
    """The target tokens, in the order of the row."""

    places: Tensor  # (m,) int64, where each stands; the token before predicts it
    targets: Tensor  # (m,) int64
    slots: Tensor  # (m,) int64, -1 where there is none


def find_learned(batch: OrpheusBatch) -> Learned:
    """Find the target tokens without waiting for the device: their number is known on the host."""
    labels = batch.labels[0]
    places = torch.argsort((labels == IGNORED).to(torch.uint8), stable=True)[: int(batch.weight)]
    return Learned(places, labels[places], batch.is_audio_slot[0, places].long())


def _masked_mean(values: Tensor, mask: Tensor) -> Mean:
    return Mean((values * mask).sum(), mask.sum().float())


assert KINDS.index("eos") == EOS_SLOT + 1
