"""What `ttstrain prove` compares of a language model over codes.

Legend: n tokens of a packed row, m of them learned, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.contract.task import DEFAULT_OPTIMIZER, Task
from ttstrain.families.orpheus.batch import EOS_SLOT, OrpheusBatch
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, NUM_SLOTS
from ttstrain.families.orpheus.loss import HeadOptions, head_loss
from ttstrain.families.orpheus.net import hidden_states
from ttstrain.families.orpheus.sampler import Continuation
from ttstrain.families.orpheus.task import OrpheusTask, find_learned

SHIFTS = range(-2, 3)
MOST_FRAMES = 24  # of a clip that are generated token by token


class OrpheusProof:
    """Compares `OrpheusTask.loss_of`, the forward that is trained, with `Continuation`, the one that speaks."""

    def __init__(self, task: Task) -> None:
        assert isinstance(task, OrpheusTask)
        self._task = task

    # ---------------------------------------------------------------- losses

    def terms(self, batch: OrpheusBatch) -> Mapping[str, Mapping[str, Tensor]]:
        """Compute the share of each kind of target in the loss: codes, ends of speech, and all that has no slot."""
        task, settings = self._task, self._task.config.loss
        options = HeadOptions(ids=task.config.ids, z_loss=settings.z_loss, slot_loss=settings.slot_loss)
        places = (batch.labels[0] >= 0).nonzero()[:, 0]  # (m,)
        slots = batch.is_audio_slot[0, places].long()
        kinds = {
            "codes": (slots >= 0) & (slots < NUM_SLOTS),
            "end of speech": slots == EOS_SLOT,
            "other tokens": slots < 0,
        }
        found = {}
        states = hidden_states(task.net, batch.input_ids, batch.position_ids, batch.cu_seqlens)  # (n, h)
        for name, own in kinds.items():
            if name == "other tokens" and not bool(own.any()):
                continue
            at = places[own]
            loss = head_loss(states[at - 1], task.net.lm_head.weight, batch.labels[0, at], slots[own], options=options)
            found[name] = loss.value * (len(at) / len(places))
        return {DEFAULT_OPTIMIZER: found}

    def idle(self, batch: OrpheusBatch) -> Mapping[str, str]:
        """Return nothing: every parameter takes part in every batch."""
        return {}

    # ---------------------------------------------------------------- limits

    def changes(self, batch: OrpheusBatch) -> Iterator[Change | Omitted]:
        """Change one code in the middle of a row; its targets stay what they are."""
        learned = find_learned(batch)
        end = int(batch.cu_seqlens[1])
        codes = ((batch.is_audio_slot[0] >= 0) & (batch.is_audio_slot[0] < NUM_SLOTS)).nonzero()[:, 0]
        codes = codes[codes < end]
        if not len(codes):
            yield Omitted("a code of a row", "the row has none")
            return
        at = int(codes[len(codes) // 2])
        first = self._task.config.ids.first_audio
        block, code = divmod(int(batch.input_ids[0, at]) - first, CODEBOOK_SIZE)
        ids = batch.input_ids.clone()
        ids[0, at] = first + block * CODEBOOK_SIZE + (code + 1) % CODEBOOK_SIZE
        before, after = (
            self._task.loss_of(replace(batch, input_ids=tokens), learned).nll for tokens in (batch.input_ids, ids)
        )
        own = learned.places < end
        still, moving = ~own | (learned.places <= at), own & (learned.places > at)
        yield Change("a code of a row", "losses up to it and of other rows", before, after, still, moving)

    # ---------------------------------------------------------------- speaking

    def twins(self, batch: OrpheusBatch) -> Iterator[Twin | Omitted]:
        """Compare the loss of every token with that of generation that is fed the clip's own tokens."""
        tokens, start = self._row(batch)
        learned = find_learned(batch)
        nll = self._task.loss_of(batch, learned).nll.cpu()
        own = (learned.places >= start).cpu() & (learned.places < len(tokens)).cpu()
        log_p = self._speak(tokens, start).log_softmax(dim=1)
        places = learned.places.cpu()[own]
        spoken = -log_p[places - start, tokens[places]]
        yield Twin("losses of generation, a token at a time", nll[own], spoken)

    def alignments(self, batch: OrpheusBatch) -> Iterator[Alignment | Omitted]:
        """Compare what generation expects at each place with the codes at other places."""
        tokens, start = self._row(batch)
        edge = max(map(abs, SHIFTS))
        places = torch.arange(start + edge, len(tokens) - edge)
        if len(places) < NUM_SLOTS:
            yield Omitted("codes that generation expects", "the clip is too short")
            return
        log_p = self._speak(tokens, start).log_softmax(dim=1)
        losses = {shift: -float(log_p[places - start, tokens[places + shift]].mean()) for shift in SHIFTS}
        yield Alignment("codes that generation expects", "tokens", losses)

    def _row(self, batch: OrpheusBatch) -> tuple[Tensor, int]:
        """Return the tokens (n,) of the first row up to a number of frames, and where its speech begins."""
        row = slice(0, int(batch.cu_seqlens[1]))
        slots = batch.is_audio_slot[0, row].cpu()
        start = int((slots >= 0).nonzero()[0, 0])
        return batch.input_ids[0, row].cpu()[: start + MOST_FRAMES * NUM_SLOTS], start

    def _speak(self, tokens: Tensor, start: int) -> Tensor:
        """Return the logits (n - start, v) at each token of a row from `start` on, by generation's forward."""
        row = Continuation(self._task.net, tokens[:start].tolist())
        logits = [row.logits()]
        for token in tokens[start:-1].tolist():
            row.append(token)
            logits.append(row.logits())
        return torch.stack(logits)
