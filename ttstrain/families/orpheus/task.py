"""Train and judge a language model that writes SNAC codes.

Legend: n tokens of a packed row, m of them learned, h width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttstrain.families.orpheus.batch import EOS_SLOT, IGNORED, SPEECH, OrpheusBatch
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, NUM_SLOTS
from ttstrain.families.orpheus.loss import HeadLoss, HeadOptions, head_loss
from ttstrain.families.orpheus.net import build_net, hidden_states, prove_isolation
from ttstrain.task import Loss, Mean, Task

SLOTS = tuple(f"slot{slot}" for slot in range(NUM_SLOTS))
KINDS = ("text", *SLOTS, "eos", "control")  # of tokens, all but the last in the order of slot + 1
CONTROL = len(KINDS) - 1
GUESS = math.log(CODEBOOK_SIZE)  # 8.32, of a guess among a slot's codes
FRESH = 0.95  # share of a uniform guess over the whole vocabulary above which a net has learned nothing yet
SUSPICIOUS = 6.5  # mean over the slots at step 0 at which the codes, not the training, are to blame (spec, O286)


class OrpheusTask(Task):
    """Learn to continue a text with its speech."""

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
        self._isolated = False

    def exported(self) -> nn.Module:
        """Return transformers' net, whose keys are those of a published folder."""
        return self.net

    # ---------------------------------------------------------------- training

    def losses(self, batch: OrpheusBatch) -> Iterator[Loss]:
        """Yield the mean cross entropy over learned tokens, with what each kind of token adds to it."""
        learned = _learned(batch)
        loss = self._loss(batch, learned)
        metrics = {f"nll_{kind}": mean for kind, mean in self._by_kind(loss, learned).items()}
        metrics["illegal_mass"] = _masked_mean(loss.illegal, learned.slots >= 0)
        yield Loss(loss.value, metrics=metrics)

    def _loss(self, batch: OrpheusBatch, learned: _Learned) -> HeadLoss:
        if not self._isolated:
            prove_isolation(self.net)
            self._isolated = True
        states = hidden_states(self.net, batch.input_ids, batch.position_ids, batch.cu_seqlens)  # (n, h)
        return head_loss(
            states[learned.places - 1], self.net.lm_head.weight, learned.targets, learned.slots, options=self._head
        )

    def _by_kind(self, loss: HeadLoss, learned: _Learned) -> dict[str, Mean]:
        control = (learned.slots < 0) & (learned.targets >= self._head.ids.first_custom)
        kind = torch.where(control, CONTROL, learned.slots + 1)
        zeros = torch.zeros(len(KINDS), device=loss.nll.device)
        totals = zeros.index_add(0, kind, loss.nll)
        counts = zeros.index_add(0, kind, torch.ones_like(loss.nll))
        return {name: Mean(totals[i], counts[i]) for i, name in enumerate(KINDS)}

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: OrpheusBatch, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Return the negative log-likelihood over the whole vocabulary: of all, by kind of token and by kind of row."""
        learned = _learned(batch)
        loss = self._loss(batch, learned)
        speech = batch.modality[batch.documents[0, learned.places].long()] == SPEECH
        return {
            "total": loss.nll.double().sum().float() / max(batch.weight, 1.0),
            **self._by_kind(loss, learned),
            "speech_rows": _masked_mean(loss.nll, speech),
            "text_rows": _masked_mean(loss.nll, ~speech),
            "illegal_mass": _masked_mean(loss.illegal, learned.slots >= 0),
        }

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Say when held-out codes are no better than guessed, and at step 0 when the base seems not to know them."""
        slots = {slot: values[slot] for slot in SLOTS if slot in values}
        if not slots:
            return []
        mean = sum(slots.values()) / len(slots)
        if step == 0 and mean > FRESH * math.log(self.config.vocab_size):
            return []  # a fresh net knows nothing, and should not
        if guessed := [slot for slot, value in slots.items() if value >= GUESS]:
            which = "all slots" if len(guessed) == NUM_SLOTS else ", ".join(guessed)
            return [f"{which}: no better than a guess among {CODEBOOK_SIZE:,} codes, {GUESS:.2f} nats a token"]
        if step == 0 and mean > SUSPICIOUS:
            return [f"the base finds the codes unlikely ({mean:.2f} nats a token): are they in their own slots?"]
        return []


@dataclass(frozen=True, slots=True)
class _Learned:
    """The tokens that count, in the order of the row."""

    places: Tensor  # (m,) int64, where each stands; the token before predicts it
    targets: Tensor  # (m,) int64
    slots: Tensor  # (m,) int64, -1 where there is none


def _learned(batch: OrpheusBatch) -> _Learned:
    """Find the learned tokens without waiting for the device: how many there are is known on the host."""
    labels = batch.labels[0]
    places = torch.argsort((labels == IGNORED).to(torch.uint8), stable=True)[: int(batch.weight)]
    return _Learned(places, labels[places], batch.is_audio_slot[0, places].long())


def _masked_mean(values: Tensor, mask: Tensor) -> Mean:
    return Mean((values * mask).sum(), mask.sum().float())


assert KINDS.index("eos") == EOS_SLOT + 1
