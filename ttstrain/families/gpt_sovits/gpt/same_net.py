"""What `ttstrain prove` compares of a GPT.

Legend: b clips, m targets, s semantic tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import GptNetConfig
from ttstrain.families.gpt_sovits.gpt.decode import Continuation
from ttstrain.families.gpt_sovits.gpt.dpo import preference
from ttstrain.families.gpt_sovits.gpt.loss import Predictions, predict
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder

SHIFTS = range(-2, 3)
Mean = Literal["targets", "clips"]


class GptProof:
    """Compares `predict`, the forward that is trained, with `Continuation`, the one that speaks."""

    def __init__(self, net: Text2SemanticDecoder, config: GptNetConfig, *, mean: Mean) -> None:
        """`mean` says what the task's loss is a mean over where `loss: mean` is set."""
        self._net = net
        self._config = config
        self._mean = mean

    # ---------------------------------------------------------------- losses

    def terms(self, batch: SovitsBatch) -> Mapping[str, Tensor]:
        """Compute the cross entropy of tokens and of ends of speech, and the preference of DPO."""
        clips = len(batch.ids)
        found = predict(self._net, batch, compat=self._config.compat)
        log_p = found.logits.float().log_softmax(dim=1)
        nll = -log_p.gather(1, found.targets[:, None])[:, 0]  # (m,)
        counts = torch.tensor(found.num_targets[:clips], dtype=torch.float32, device=nll.device)
        own = found.clip < clips
        weighted = nll[own] * self._weights(counts)[found.clip[own]]
        ends = found.targets[own] == self._net.eos
        terms = {"tokens": weighted[~ends].sum(), "end of speech": weighted[ends].sum()}
        if batch.edits:
            sums = torch.stack([nll[found.clip == clip].sum() for clip in range(2 * clips)])
            terms["dpo"] = self._preferred(preference(-sums[:clips], -sums[clips:]), counts)
        return terms

    def _weights(self, counts: Tensor) -> Tensor:
        """Return what one target of each clip (b,) counts in the loss."""
        if self._config.loss == "sum":
            return torch.full_like(counts, 1 / len(counts))
        if self._mean == "clips":
            return 1 / (counts * len(counts))
        return torch.full_like(counts, float(1 / counts.sum()))

    def _preferred(self, preferred: Tensor, counts: Tensor) -> Tensor:
        """Weigh the preferences (b,) as the task does."""
        weight = self._config.dpo
        if self._mean == "targets" and self._config.loss == "mean":
            return weight * (preferred * counts).sum() / counts.sum()
        if self._mean == "targets" and self._config.compat != "none":
            weight /= len(counts)
        return weight * preferred.mean()

    def idle(self, batch: SovitsBatch) -> Mapping[str, str]:
        """Excuse BERT's projection where no clip is Chinese."""
        if batch.bert is not None:
            return {}
        return {"gpt.bert_proj.weight": "no clip has features of BERT, which only Chinese has"}

    # ---------------------------------------------------------------- limits

    def changes(self, batch: SovitsBatch) -> Iterator[Change | Omitted]:
        """Change one token in the middle of a clip, and another clip's phonemes."""
        batch = replace(batch, edits=())
        before = self._predict(batch)
        places = self._places(before)
        at = batch.code_lengths[0] // 2
        codes = batch.codes.clone()
        codes[0, at] = (codes[0, at] + 1) % self._net.eos
        first = before.clip == 0
        after = self._predict(replace(batch, codes=codes)).logits
        still, moving = ~first | (places <= at), first & (places > at)
        yield Change(f"token {at} of a clip", "predictions of tokens up to it", before.logits, after, still, moving)
        if len(batch.ids) < 2:
            yield Omitted("another clip of the batch", "there is only one")
            return
        phones = batch.phones.clone()
        length = batch.phone_lengths[0]
        phones[0, :length] = (phones[0, :length] + 1) % self._config.phoneme_vocab_size
        after = self._predict(replace(batch, phones=phones)).logits
        yield Change("the phonemes of one clip", "predictions for another", before.logits, after, ~first, first)

    def _predict(self, batch: SovitsBatch) -> Predictions:
        return predict(self._net, batch, compat=self._config.compat)

    def _places(self, found: Predictions) -> Tensor:
        """Return which token of its clip each target (m,) is: rows of a clip are in order."""
        first = 1 if self._config.compat == "upstream-pre-2537" else 0  # there nothing predicts the first token
        places = torch.zeros_like(found.clip)
        for clip in range(len(found.num_targets)):
            own = found.clip == clip
            places[own] = torch.arange(int(own.sum()), device=places.device) + first
        return places

    # ---------------------------------------------------------------- speaking

    def twins(self, batch: SovitsBatch) -> Iterator[Twin | Omitted]:
        """Compare the logits of every token with those of generation that is fed the clip's own tokens."""
        found = self._predict(replace(batch, edits=()))
        spoken = self._speak(batch)
        first = int(self._places(found)[0])
        yield Twin("logits of generation, a token at a time", found.logits.float().cpu(), spoken[first:])

    def alignments(self, batch: SovitsBatch) -> Iterator[Alignment | Omitted]:
        """Compare what generation expects at each place with the tokens at other places."""
        log_p = self._speak(batch).log_softmax(dim=1)  # (s + 1, v)
        truth = F.pad(batch.codes[0, : batch.code_lengths[0]].cpu(), (0, 1), value=self._net.eos)
        edge = max(map(abs, SHIFTS))
        places = torch.arange(edge, len(truth) - edge)
        if len(places) < 2:
            yield Omitted("tokens that generation expects", "the clip is too short")
            return
        losses = {shift: -float(log_p[places, truth[places + shift]].mean()) for shift in SHIFTS}
        yield Alignment("tokens that generation expects", "tokens", losses)

    def _speak(self, batch: SovitsBatch) -> Tensor:
        """Return the logits (s + 1, v) at each token of the first clip and at its end, by generation's forward."""
        phones = batch.phones[0, : batch.phone_lengths[0]]
        bert = None if batch.bert is None else batch.bert[0, : batch.phone_lengths[0]]
        codes = batch.codes[0, : batch.code_lengths[0]]
        clip = Continuation(self._net, phones, bert, codes[:0])
        logits = [clip.logits()]
        for token in codes.tolist():
            clip.append(token)
            logits.append(clip.logits())
        return torch.stack(logits)
