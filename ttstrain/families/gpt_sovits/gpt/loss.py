"""The GPT's losses: cross entropy of the next token, and of the end of speech after the last one.

A clip of s tokens has s + 1 targets: its tokens, the first of which the last phoneme predicts, and the end of speech.
Two versions of upstream's loss can be reproduced (`compat`); these train on padding, too.

Legend: b clips, m targets, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.contract.task import Mean
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.gpt.attention import Masked, prefix_mask
from ttstrain.families.gpt_sovits.gpt.documents import lay_out, whole
from ttstrain.families.gpt_sovits.gpt.dpo import draw_edits, draw_edits_as_upstream, edited, preference
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder

Compat = Literal["none", "upstream-2025-07", "upstream-pre-2537"]
TOP = 3  # of the accuracy, as upstream


@dataclass(frozen=True, slots=True)
class ClipLosses:
    """Losses of each clip, to be combined as a task weighs them."""

    nll: Tensor  # (b,) float32, summed over the clip's targets
    num_targets: tuple[int, ...]  # on the host
    acc_top3: Mean  # over targets other than the end of speech
    eos: Mean  # negative log-likelihood of ends of speech
    preference: Tensor | None  # (b,) float32, if there are rejected samples


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits and their targets."""

    logits: Tensor  # (m, v)
    targets: Tensor  # (m,) int64
    clip: Tensor  # (m,) int64
    num_targets: tuple[int, ...]  # of each clip


def num_targets(batch: SovitsBatch, compat: Compat) -> tuple[int, ...]:
    """Count each clip's targets."""
    longest = max(batch.code_lengths)
    match compat:
        case "none":
            return tuple(length + 1 for length in batch.code_lengths)
        case "upstream-2025-07":
            return (longest + 1,) * len(batch.ids)
        case "upstream-pre-2537":
            return (longest,) * len(batch.ids)


def with_edits(batch: SovitsBatch, compat: Compat) -> SovitsBatch:
    """Choose the edit of each clip's rejected sample."""
    if compat == "none":
        return replace(batch, edits=draw_edits(batch.code_lengths))
    return replace(batch, edits=draw_edits_as_upstream(len(batch.ids), max(batch.code_lengths)))


def clip_losses(net: Text2SemanticDecoder, batch: SovitsBatch, *, compat: Compat) -> ClipLosses:
    """Return each clip's losses; where `batch.edits` were drawn, with the DPO loss."""
    predictions = predict(net, batch, compat=compat)
    clips = len(batch.ids)
    logits = predictions.logits.float()
    nll = F.cross_entropy(logits, predictions.targets, reduction="none")  # (m,)
    sums = nll.new_zeros(len(predictions.num_targets)).index_add(0, predictions.clip, nll)
    own = predictions.clip < clips  # (m,) False for rejected samples
    is_end = predictions.targets == net.eos
    with torch.no_grad():
        scores = logits.gather(1, predictions.targets[:, None])
        hits = ((logits > scores).sum(dim=1) < TOP) & ~is_end & own
        ends = is_end & own
    return ClipLosses(
        nll=sums[:clips],
        num_targets=predictions.num_targets[:clips],
        acc_top3=Mean(hits.sum().float(), (~is_end & own).sum().float()),
        eos=Mean((nll.detach() * ends).sum(), ends.sum().float()),
        preference=preference(-sums[:clips], -sums[clips:]) if batch.edits else None,
    )


def per_target(losses: ClipLosses, *, dpo: float) -> Tensor:
    """Return the mean over all targets; each clip's preference counts as much as its targets do."""
    total = losses.nll.sum()
    if losses.preference is not None:
        counts = torch.tensor(losses.num_targets, dtype=torch.float32).to(total.device, non_blocking=True)
        total = total + dpo * (losses.preference * counts).sum()
    return total / sum(losses.num_targets)


def per_clip(losses: ClipLosses, *, loss: Literal["sum", "mean"], dpo: float) -> Tensor:
    """Return the mean over clips of each clip's sum over its targets, or of its mean."""
    each = losses.nll
    if loss == "mean":
        counts = torch.tensor(losses.num_targets, dtype=torch.float32).to(each.device, non_blocking=True)
        each = each / counts
    if losses.preference is not None:
        each = each + dpo * losses.preference
    return each.mean()


def predict(net: Text2SemanticDecoder, batch: SovitsBatch, *, compat: Compat) -> Predictions:
    """Run the forward that is trained."""
    return predict_packed(net, batch) if compat == "none" else predict_padded(net, batch, compat=compat)


def predict_packed(net: Text2SemanticDecoder, batch: SovitsBatch) -> Predictions:
    """Predict the targets of clips laid end to end; rejected samples follow the clips as clips of their own."""
    texts = whole(batch.phone_lengths, batch.phones.shape[1])
    audios = whole(batch.code_lengths, batch.codes.shape[1])
    if batch.edits:
        texts = texts * 2
        audios = audios + [edited(places, edit) for places, edit in zip(audios, batch.edits, strict=True)]
    documents = lay_out(texts, audios, device=batch.phones.device)
    phones = batch.phones.flatten()[documents.text_source]
    bert = None if batch.bert is None else batch.bert.flatten(0, 1)[documents.text_source]
    codes = batch.codes.flatten()[documents.audio_source]  # (y,)
    hidden = net(phones, bert, codes, documents)

    rows = torch.cat([hidden.index_select(0, documents.text_last), hidden[documents.num_text :]])  # (m, d)
    starts = F.pad(documents.audio_last[:-1] + 1, (1, 0))
    following = codes.roll(-1).index_fill(0, documents.audio_last, net.eos)
    clips = torch.arange(len(texts), device=codes.device)
    return Predictions(
        logits=net.ar_predict_layer(rows),
        targets=torch.cat([codes[starts], following]),
        clip=torch.cat([clips, documents.clip_of_audio]),
        num_targets=tuple(length + 1 for length in documents.audio_lengths),
    )


def predict_padded(net: Text2SemanticDecoder, batch: SovitsBatch, *, compat: Compat) -> Predictions:
    """Predict as upstream does, padding included; with `none` as it should have: padding hidden and not predicted."""
    codes = _ended(batch.codes[:, : max(batch.code_lengths)], batch.code_lengths, eos=net.eos)
    own = _predict_rows(net, batch, codes, batch.code_lengths, compat=compat)
    if not batch.edits:
        return own
    rows = [edited(row, edit) for row, edit in zip(codes, batch.edits, strict=True)]  # padding is repeated or cut too
    rejected = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    other = _predict_rows(net, batch, rejected, tuple(map(len, rows)), compat=compat)
    return Predictions(
        logits=torch.cat([own.logits, other.logits]),
        targets=torch.cat([own.targets, other.targets]),
        clip=torch.cat([own.clip, other.clip + len(batch.ids)]),
        num_targets=own.num_targets + other.num_targets,
    )


def _predict_rows(
    net: Text2SemanticDecoder, batch: SovitsBatch, codes: Tensor, lengths: Sequence[int], *, compat: Compat
) -> Predictions:
    num_text, num_audio = max(batch.phone_lengths), codes.shape[1]
    phones, clips = batch.phones[:, :num_text], len(batch.ids)
    device = codes.device
    text_ends = torch.tensor(batch.phone_lengths).to(device, non_blocking=True)[:, None]
    audio_ends = torch.tensor(lengths).to(device, non_blocking=True)[:, None]
    text_places, audio_places = torch.arange(num_text, device=device), torch.arange(num_audio, device=device)
    text_visible = text_places < text_ends
    if compat == "upstream-2025-07":  # hides the first phonemes of texts that are padded at the end
        text_visible = text_visible.flip(1)
    audio_visible = audio_places < audio_ends
    inputs = torch.where(audio_visible, codes, net.eos)  # (b, s)
    targets = F.pad(inputs, (0, 1), value=net.eos)  # (b, s + 1)

    bert = None if batch.bert is None else batch.bert[:, :num_text]
    text = net.embed_text(phones, bert, text_places, longest=num_text)
    audio = net.embed_audio(inputs, audio_places, longest=num_audio)
    visible = torch.cat([text_visible, audio_visible], dim=1)
    attend = Masked(prefix_mask(visible, num_text=num_text))
    hidden = net.h(torch.cat([text, audio], dim=1).flatten(0, 1), attend).view(
        clips, num_text + num_audio, -1
    )  # (b, l, d)

    match compat:
        case "none":
            first = hidden[torch.arange(clips, device=device)[:, None], text_ends - 1]
            kept = audio_places < audio_ends
            rows = torch.cat([first, hidden[:, num_text:]], dim=1)[F.pad(kept, (1, 0), value=True)]
            targets = targets[F.pad(kept, (1, 0), value=True)]
            counts = tuple(length + 1 for length in lengths)
        case "upstream-2025-07":
            rows, counts = hidden[:, num_text - 1 :].flatten(0, 1), (num_audio + 1,) * clips
        case "upstream-pre-2537":  # nothing predicts the first token
            rows, targets, counts = hidden[:, num_text:].flatten(0, 1), targets[:, 1:], (num_audio,) * clips
    each = torch.tensor(counts)
    return Predictions(
        logits=net.ar_predict_layer(rows),
        targets=targets.flatten(),
        clip=torch.arange(clips).repeat_interleave(each).to(device, non_blocking=True),
        num_targets=counts,
    )


def _ended(codes: Tensor, lengths: Sequence[int], *, eos: int) -> Tensor:
    """Fill the padding of codes (b, s) with the end of speech, as upstream pads."""
    ends = torch.tensor(lengths).to(codes.device, non_blocking=True)[:, None]
    return torch.where(torch.arange(codes.shape[1], device=codes.device) < ends, codes, eos)
