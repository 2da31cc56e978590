"""Decoding: the cache changes nothing, sampling keeps upstream's order, speech ends where it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.sovits_toys import gpt_config
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import SamplingConfig
from ttstrain.families.gpt_sovits.gpt import decode
from ttstrain.families.gpt_sovits.gpt.decode import ENDLESS_STEPS, choose, generate
from ttstrain.families.gpt_sovits.gpt.documents import lay_out
from ttstrain.families.gpt_sovits.gpt.loss import clip_losses, per_target
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder, build_gpt

GREEDY = SamplingConfig(top_k=1, repetition_penalty=1.35, max_s=2.0)


@pytest.fixture
def net() -> Text2SemanticDecoder:
    torch.manual_seed(4)
    net = build_gpt(gpt_config())
    for parameter in net.parameters():  # sharper than fresh weights, so that the best is clearly the best
        parameter.data.mul_(1.5)
    return net.eval()


def prompt(length: int, text: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    phones = torch.randint(1, 300, (text,), generator=generator)
    return phones, torch.randn(text, 1024, generator=generator), torch.randint(0, 1024, (length,), generator=generator)


def without_cache(net: Text2SemanticDecoder, phones: Tensor, bert: Tensor, codes: Tensor, steps: int) -> list[int]:
    """Decode greedily, computing everything anew for each token."""
    start = len(codes)
    for step in range(steps):
        documents = lay_out([torch.arange(len(phones))], [torch.arange(len(codes))], device=phones.device)
        logits = net.ar_predict_layer(net(phones, bert, codes, documents)[-1])
        for token in set(codes.tolist()):
            logits[token] = logits[token] * 1.35 if logits[token] < 0 else logits[token] / 1.35
        if step < ENDLESS_STEPS:
            logits[net.eos] = -torch.inf
        best = int(logits.argmax())
        if best == net.eos:
            break
        codes = torch.cat([codes, torch.tensor([best])])
    return codes[start:].tolist()


@pytest.mark.parametrize("length", [0, 1, 13])
@torch.no_grad()
def test_the_cache_changes_no_token(net: Text2SemanticDecoder, length: int) -> None:
    phones, bert, codes = prompt(length)
    written = generate(net, phones, bert, codes, settings=GREEDY, generator=torch.Generator())
    assert len(written.codes) > ENDLESS_STEPS
    assert written.codes.tolist() == without_cache(net, phones, bert, codes, steps=50)


def test_a_seed_decides_what_is_said(net: Text2SemanticDecoder) -> None:
    phones, bert, codes = prompt(5)

    def said(seed: int) -> list[int]:
        settings = SamplingConfig(max_s=1.0)
        generator = torch.Generator().manual_seed(seed)
        written: list[int] = generate(net, phones, bert, codes, settings=settings, generator=generator).codes.tolist()
        return written

    assert said(1) == said(1) != said(2)


def with_end(score: float) -> Text2SemanticDecoder:
    """Build a GPT that gives the end of speech the sign of a score and everything else 0."""
    net = build_gpt(gpt_config()).eval()
    state = net.state_dict()
    last = f"h.layers.{net.num_layers - 1}.norm2"
    head = torch.zeros_like(state["ar_predict_layer.weight"])
    head[net.eos] = score
    net.load_state_dict(
        {
            **state,
            f"{last}.weight": torch.zeros_like(state[f"{last}.weight"]),
            f"{last}.bias": torch.ones_like(state[f"{last}.bias"]),
            "ar_predict_layer.weight": head,
        }
    )
    return net


def test_speech_ends_when_the_end_is_likeliest_and_not_in_the_first_steps() -> None:
    phones, bert, codes = prompt(5)
    net = with_end(1.0)
    written = generate(net, phones, bert, codes, settings=SamplingConfig(), generator=torch.Generator())
    assert written.stopped
    assert len(written.codes) == ENDLESS_STEPS
    assert net.eos not in written.codes


@pytest.mark.parametrize(("max_s", "tokens"), [(1.2, 30), (100.0, 70)])
def test_speech_that_does_not_end_is_cut(max_s: float, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MOST_TOKENS", 70)
    phones, bert, codes = prompt(5)
    settings = SamplingConfig(max_s=max_s, top_k=3)
    written = generate(with_end(-1.0), phones, bert, codes, settings=settings, generator=torch.Generator())
    assert not written.stopped
    assert len(written.codes) == tokens


def drawn(logits: Tensor, seen: Tensor | None = None, **settings: float) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    none = torch.zeros(len(logits), dtype=torch.bool)
    return {
        choose(
            logits.clone(),
            none if seen is None else seen,
            settings=SamplingConfig(**{"repetition_penalty": 1.0, "top_k": len(logits), **settings}),
            generator=generator,
            eos=len(logits) - 1,
            may_end=False,
        )
        for _ in range(400)
    }


def test_only_the_best_are_drawn() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.9, 0.0])
    assert drawn(logits) == {0, 1, 2, 3}  # never the end
    assert drawn(logits, top_k=2) == {1, 3}
    assert drawn(logits, top_k=1) == {1}
    assert drawn(logits, top_p=0.01) == {1}
    p = logits[:4].softmax(dim=0)
    assert drawn(logits, top_p=float(p[1] + p[3]) + 1e-4) == {1, 3}
    assert drawn(logits, temperature=0.001) == {1}


def test_what_was_said_is_less_likely() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0, 0.0])
    seen = torch.tensor([True, False, False, False])
    assert drawn(logits, top_k=1) == {0}
    assert drawn(logits, seen, top_k=1, repetition_penalty=1.35) == {1}
    logits = torch.tensor([-1.0, -1.1, -5.0, -9.0])
    assert drawn(logits, seen, top_k=1, repetition_penalty=1.35) == {1}  # a negative score falls too


def test_what_was_learned_is_said_again_to_its_end() -> None:
    """Training and decoding agree on positions, the first token and the end."""
    torch.manual_seed(0)
    net = build_gpt(gpt_config())
    texts, audios = ((4, 8, 15, 16), (23, 42, 7)), (17, 14)
    codes = torch.randint(0, 1024, (2, max(audios)))
    batch = SovitsBatch(
        ids=("a", "b"),
        weight=2.0,
        num_frames=62,
        num_padded=62,
        phones=torch.tensor([texts[0], (*texts[1], 0)]),
        phone_lengths=(4, 3),
        bert=None,
        codes=codes,
        code_lengths=audios,
        wav=None,
        frame_lengths=(34, 28),
        ssl=None,
        speaker=None,
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        loss = per_target(clip_losses(net, batch, compat="none"), dpo=0.0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    net.eval()
    settings = SamplingConfig(top_k=1, repetition_penalty=1.0)
    for row, (text, length) in enumerate(zip(texts, audios, strict=True)):
        for shown in (0, 5):  # from the text alone, and going on from a prompt
            written = generate(
                net, torch.tensor(text), None, codes[row, :shown], settings=settings, generator=torch.Generator()
            )
            if shown == 0 or length - shown >= ENDLESS_STEPS:
                assert written.stopped
                assert written.codes.tolist() == codes[row, shown:length].tolist()
