"""The GPT's loss: the same packed, padded and clip by clip, and the same however a batch is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.families.gpt_sovits.batch import Edit, SovitsBatch
from ttstrain.families.gpt_sovits.config import GptNetConfig
from ttstrain.families.gpt_sovits.gpt import attention, loss
from ttstrain.families.gpt_sovits.gpt.attention import Packed
from ttstrain.families.gpt_sovits.gpt.documents import lay_out, whole
from ttstrain.families.gpt_sovits.gpt.dpo import draw_edits, edited
from ttstrain.families.gpt_sovits.gpt.loss import Compat, clip_losses, num_targets, per_clip, per_target, predict_packed
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder, build_gpt
from ttstrain.families.gpt_sovits.gpt.task import draw, value

TEXTS, AUDIOS = (5, 9, 2, 7), (11, 4, 8, 1)
EOS = 40


def net_config(**changes: Any) -> GptNetConfig:
    small = {"embedding_dim": 16, "hidden_dim": 16, "head": 4, "n_layer": 2, "vocab_size": EOS + 1}
    return GptNetConfig(**{**small, "phoneme_vocab_size": 30, "dropout": 0.0, **changes})


@pytest.fixture
def net() -> Text2SemanticDecoder:
    torch.manual_seed(1)
    return build_gpt(net_config())


def make_batch(texts: Sequence[int] = TEXTS, audios: Sequence[int] = AUDIOS, *, bert: bool = True) -> SovitsBatch:
    generator = torch.Generator().manual_seed(0)
    clips, width, length = len(texts), max(texts), max(audios) + 1
    phones = torch.randint(1, 30, (clips, width), generator=generator)
    codes = torch.randint(0, EOS, (clips, length), generator=generator)
    features = torch.randn(clips, width, 1024, generator=generator)
    features[0] = 0  # a clip of a language without BERT
    for clip, (text, audio) in enumerate(zip(texts, audios, strict=True)):
        phones[clip, text:], codes[clip, audio:], features[clip, text:] = 0, 0, 0
    return SovitsBatch(
        ids=tuple(f"clip-{i}" for i in range(clips)),
        weight=float(clips),
        num_frames=2 * sum(audios),
        num_padded=2 * sum(audios),
        phones=phones,
        phone_lengths=tuple(texts),
        bert=features if bert else None,
        codes=codes,
        code_lengths=tuple(audios),
        wav=None,
        frame_lengths=tuple(2 * audio for audio in audios),
        ssl=None,
        speaker=None,
    )


def only(batch: SovitsBatch, clips: Sequence[int]) -> SovitsBatch:
    """Cut some clips out of a batch, padded no further than they need."""
    texts, audios = ([lengths[i] for i in clips] for lengths in (batch.phone_lengths, batch.code_lengths))
    rows = list(clips)
    return replace(
        batch,
        ids=tuple(batch.ids[i] for i in clips),
        weight=float(len(rows)),
        phones=batch.phones[rows, : max(texts)],
        phone_lengths=tuple(texts),
        bert=None if batch.bert is None else batch.bert[rows, : max(texts)],
        codes=batch.codes[rows, : max(audios)],
        code_lengths=tuple(audios),
        edits=tuple(batch.edits[i] for i in clips) if batch.edits else (),
    )


def gradients(net: Text2SemanticDecoder, total: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(own) if grad is None else grad
        for name, own, grad in zip(names, parameters, found, strict=True)
    }


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("bert", [True, False])
def test_packed_is_padded_is_each_clip_alone(net: Text2SemanticDecoder, bert: bool) -> None:
    batch = make_batch(bert=bert)
    packed = loss.predict_packed(net, batch)
    padded = loss.predict_padded(net, batch, compat="none")
    losses = clip_losses(net, batch, compat="none")
    order = torch.argsort(packed.clip, stable=True)  # firsts of all clips come first when packed
    torch.testing.assert_close(packed.logits[order], padded.logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(packed.targets[order], padded.targets)
    assert packed.num_targets == padded.num_targets == tuple(length + 1 for length in AUDIOS)

    alone = [clip_losses(net, only(batch, [clip]), compat="none").nll[0] for clip in range(len(TEXTS))]
    torch.testing.assert_close(losses.nll, torch.stack(alone), atol=1e-5, rtol=1e-5)
    by_padding = F.cross_entropy(padded.logits, padded.targets, reduction="sum")
    torch.testing.assert_close(losses.nll.sum(), by_padding, atol=1e-5, rtol=1e-5)
    whole_batch = gradients(net, losses.nll.sum())
    assert_alike(gradients(net, by_padding), whole_batch)
    assert_alike(gradients(net, torch.stack(alone).sum()), whole_batch)


@pytest.mark.parametrize("compat", ["upstream-2025-07", "none"])
def test_a_clip_alone_is_the_same_in_every_way(net: Text2SemanticDecoder, compat: Compat) -> None:
    batch = only(make_batch(), [1])
    torch.testing.assert_close(
        clip_losses(net, batch, compat=compat).nll, clip_losses(net, batch, compat="none").nll, atol=1e-5, rtol=1e-5
    )


def test_the_older_way_leaves_out_the_first_token_alone(net: Text2SemanticDecoder) -> None:
    batch = only(make_batch(), [1])
    ours = predict_packed(net, batch)
    nll = F.cross_entropy(ours.logits, ours.targets, reduction="none")
    older = clip_losses(net, batch, compat="upstream-pre-2537")
    torch.testing.assert_close(older.nll[0], nll[1:].sum(), atol=1e-5, rtol=1e-5)
    assert older.num_targets == (batch.code_lengths[0],)


def test_dated_ways_teach_the_padding(net: Text2SemanticDecoder) -> None:
    batch = make_batch()
    longest = max(AUDIOS)
    assert num_targets(batch, "none") == tuple(length + 1 for length in AUDIOS)
    ways: dict[Compat, int] = {"upstream-2025-07": longest + 1, "upstream-pre-2537": longest}
    for compat, count in ways.items():
        made = loss.predict_padded(net, batch, compat=compat)
        assert made.num_targets == num_targets(batch, compat) == (count,) * len(TEXTS)
        ends = (made.targets.view(len(TEXTS), -1) == EOS).sum(dim=1)
        assert ends.tolist() == [longest + 1 - length for length in AUDIOS]


def test_a_short_text_is_hidden_by_the_way_of_2025_and_not_by_ours(net: Text2SemanticDecoder) -> None:
    batch = only(make_batch(), [1, 2])  # nine phonemes beside two
    phones = batch.phones.clone()
    phones[1, :2] = torch.tensor([17, 18])
    changed = replace(batch, phones=phones)
    before, after = (clip_losses(net, each, compat="upstream-2025-07").nll.detach()[1] for each in (batch, changed))
    assert float(before) == float(after)
    before, after = (clip_losses(net, each, compat="none").nll.detach()[1] for each in (batch, changed))
    assert float(before) != float(after)


def test_padded_inside_the_layers_as_on_a_gpu_is_the_same(
    net: Text2SemanticDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = replace(make_batch(), edits=tuple(Edit("repeat", 0, length) for length in AUDIOS))
    one_by_one = predict_packed(net, batch)
    wanted = gradients(net, one_by_one.logits.square().sum())
    monkeypatch.setattr("ttstrain.families.gpt_sovits.gpt.net.Packed", lambda documents: Packed(documents, padded=True))
    at_once = predict_packed(net, batch)
    torch.testing.assert_close(at_once.logits, one_by_one.logits, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(net, at_once.logits.square().sum()).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("compat", ["none", "upstream-2025-07"])
def test_unequal_micro_batches_are_one_batch(net: Text2SemanticDecoder, kind: str, compat: str) -> None:
    """The preference too; under `compat` clips must be equally long, for upstream teaches padding."""
    config = net_config(loss=kind, compat=compat, dpo=0.5 if compat == "none" else 0.0)
    audios = AUDIOS if compat == "none" else (6, 6, 6, 6)
    texts = TEXTS if compat == "none" else (5, 5, 5, 5)
    batch = draw(make_batch(texts, audios), config)
    parts = [only(batch, [0]), only(batch, [1, 2, 3])]
    counts = [sum(num_targets(part, config.compat)) if kind == "mean" else len(part.ids) for part in parts]
    assert batch.weight == sum(counts)
    combined = sum(
        value(clip_losses(net, part, compat=config.compat), config) * count / batch.weight
        for part, count in zip(parts, counts, strict=True)
    )
    assert isinstance(combined, Tensor)
    whole_batch = value(clip_losses(net, batch, compat=config.compat), config)
    torch.testing.assert_close(combined, whole_batch, atol=1e-5, rtol=1e-5)
    assert_alike(gradients(net, combined), gradients(net, whole_batch))


def test_means_are_over_what_they_say(net: Text2SemanticDecoder) -> None:
    losses = clip_losses(net, make_batch(), compat="none")
    counts = torch.tensor([length + 1.0 for length in AUDIOS])
    torch.testing.assert_close(per_target(losses, dpo=0.0), losses.nll.sum() / counts.sum())
    torch.testing.assert_close(per_clip(losses, loss="sum", dpo=0.0), losses.nll.mean())
    torch.testing.assert_close(per_clip(losses, loss="mean", dpo=0.0), (losses.nll / counts).mean())


def test_accuracy_counts_the_three_best_and_no_ends(net: Text2SemanticDecoder) -> None:
    batch = make_batch()
    made = predict_packed(net, batch)
    best = made.logits.topk(3, dim=1).indices
    hits = [int(target) in row.tolist() for target, row in zip(made.targets, best, strict=True) if target != EOS]
    found = clip_losses(net, batch, compat="none").acc_top3
    assert int(found.count) == len(hits) == sum(AUDIOS)
    assert int(found.total) == sum(hits)


def test_spoiled_clips_cost_what_they_do_alone(net: Text2SemanticDecoder) -> None:
    batch = make_batch()
    torch.manual_seed(3)
    batch = replace(batch, edits=draw_edits(batch.code_lengths))
    losses = clip_losses(net, batch, compat="none")
    rows = [
        edited(row[:length], edit)
        for row, length, edit in zip(batch.codes, batch.code_lengths, batch.edits, strict=True)
    ]
    lengths = tuple(map(len, rows))
    spoiled = replace(
        batch, edits=(), codes=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), code_lengths=lengths
    )
    rejected = clip_losses(net, spoiled, compat="none").nll
    assert losses.preference is not None
    torch.testing.assert_close(losses.preference, -F.logsigmoid(0.2 * (rejected - losses.nll)), atol=1e-5, rtol=1e-5)


def test_spans_are_never_empty_and_never_everything_left_out() -> None:
    lengths = (1, 2, 3, 50)
    for seed in range(200):
        torch.manual_seed(seed)
        for length, edit in zip(lengths, draw_edits(lengths), strict=True):
            assert 0 <= edit.begin < edit.end <= length
            assert len(edited(torch.arange(length), edit)) not in (0, length)
    torch.manual_seed(5)
    first = draw_edits(lengths)
    torch.manual_seed(5)
    assert draw_edits(lengths) == first  # from the global generator, whose state is in a checkpoint


def test_attention_with_dropout_keeps_the_mean() -> None:
    documents = lay_out(whole(TEXTS, 9), whole(AUDIOS, 11), device=torch.device("cpu"))
    attend = Packed(documents)
    rows = len(documents.slots)
    query, key, value_ = torch.randn(3, rows, 2, 4).unbind(0)
    wanted = attend(query, key, value_, layer=0, dropout=0.0)
    drawn = [attend(query, key, value_, layer=0, dropout=0.1) for _ in range(3000)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(dim=0), wanted, atol=0.05, rtol=0)


def test_no_mask_is_as_wide_as_the_batch(net: Text2SemanticDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is asked document by document, with masks of bool."""
    seen: list[tuple[int, ...]] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, dropout: float) -> Tensor:
        if mask is not None:
            assert mask.dtype == torch.bool
            seen.append(tuple(mask.shape))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    monkeypatch.setattr(attention, "attend", watched)
    clip_losses(net, make_batch(), compat="none")
    assert set(seen) == {(audio, text + audio) for text, audio in zip(TEXTS, AUDIOS, strict=True)}
