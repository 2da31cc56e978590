"""Sampling against transformers' own processors, and the frames found in what was written."""

from __future__ import annotations

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from ttstrain.families.orpheus.config import OrpheusConfig, SamplingConfig
from ttstrain.families.orpheus.ids import TokenIds
from ttstrain.families.orpheus.net import build_net, hidden_states
from ttstrain.families.orpheus.sampler import choose, read, write

IDS = TokenIds(first_custom=259, bos=256, eot=258)
CONFIG = OrpheusConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=28_943,
    text_vocab_size=259,
    bos_token_id=256,
    eot_token_id=258,
)
GREEDY = SamplingConfig(temperature=1e-6, repetition_penalty=1.0, max_tokens=12)


def test_tokens_are_drawn_from_what_transformers_would_leave() -> None:
    settings = SamplingConfig()
    logits = torch.randn(200) * 3
    prompt = torch.tensor([[3, 50, 60, 3]])
    theirs = logits[None].clone()
    for processor in (
        RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        TemperatureLogitsWarper(settings.temperature),
        TopPLogitsWarper(settings.top_p),
    ):
        theirs = processor(prompt, theirs)
    expected = theirs[0].softmax(dim=0)
    seen = torch.zeros(200, dtype=torch.bool)
    seen[prompt[0]] = True
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose(logits, seen, settings=settings, generator=generator) for _ in range(4000)])
    found = torch.bincount(draws, minlength=200) / len(draws)
    assert bool((expected[draws] > 0).all())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_the_cache_changes_nothing() -> None:
    """Writing token by token gives what a forward pass over everything so far would choose."""
    net = build_net(CONFIG).eval()
    torch.nn.init.normal_(net.lm_head.weight)
    prompt = [261, 5, 6, 7]
    written = write(net, prompt, settings=GREEDY, ids=IDS, generator=torch.Generator())
    tokens = torch.tensor([prompt + written])
    with torch.no_grad():
        states = hidden_states(net, tokens, torch.arange(tokens.shape[1])[None], torch.tensor([0, tokens.shape[1]]))
    expected = (states @ net.lm_head.weight.t()).argmax(dim=1)[len(prompt) - 1 : -1]
    assert written == expected.tolist()


def test_masked_writing_keeps_to_the_slots() -> None:
    net = build_net(CONFIG).eval()
    settings = SamplingConfig(grammar="masked", max_tokens=21)
    written = write(net, [261, 5], settings=settings, ids=IDS, generator=torch.Generator().manual_seed(0))
    found = read(written, IDS)
    assert (len(found.frames), found.num_misplaced) == (len(written) // 7, 0)


def test_masked_writing_keeps_to_the_codes_that_the_codec_has() -> None:
    net = build_net(CONFIG).eval()
    settings = SamplingConfig(grammar="masked", max_tokens=21)
    generator = torch.Generator().manual_seed(0)
    found = read(write(net, [261, 5], settings=settings, ids=IDS, generator=generator, num_codes=3), IDS)
    assert len(found.frames) > 0
    assert int(found.frames.max()) < 3


def frame(*codes: int) -> list[int]:
    return [IDS.of(slot, code) for slot, code in enumerate(codes)]


def test_frames_are_read_up_to_the_end_of_speech() -> None:
    first, second = frame(1, 2, 3, 4, 5, 6, 7), frame(0, 0, 0, 0, 0, 0, 4095)
    found = read([*first, *second, IDS.eos, *first], IDS)
    assert found.frames.tolist() == [[1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0, 4095]]
    assert (found.num_tokens, found.num_misplaced, found.stopped) == (14, 0, True)


@pytest.mark.parametrize(
    ("broken", "misplaced"),
    [
        ([9], 1),  # text
        ([IDS.of(3, 1)], 1),
        (frame(1, 2, 3, 4, 5, 6, 7)[:3], 3),  # broken off by the next frame
        ([*frame(1, 2, 3, 4, 5, 6, 7)[:3], IDS.soa], 4),
        ([*frame(1, 2, 3, 4, 5, 6, 7)[:2], IDS.of(5, 0)], 3),
    ],
)
def test_what_is_out_of_its_slot_is_counted_and_left_out(broken: list[int], misplaced: int) -> None:
    whole = frame(1, 2, 3, 4, 5, 6, 7)
    found = read([*whole, *broken, *whole], IDS)
    assert found.frames.tolist() == [[1, 2, 3, 4, 5, 6, 7]] * 2
    assert (found.num_misplaced, found.stopped) == (misplaced, False)
