"""The GPT on a GPU: the same losses as on a CPU, nothing waited for, and no mask that grows with the heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import GptNetConfig
from ttstrain.families.gpt_sovits.gpt.loss import clip_losses, per_target
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder, build_gpt
from ttstrain.optim.scaled_adam import ScaledAdam

pytestmark = pytest.mark.gpu

TEXTS, AUDIOS = (40, 90, 17, 60), (110, 45, 80, 12)


def make_net(*, dropout: float = 0.0, heads: int = 4, layers: int = 3) -> Text2SemanticDecoder:
    torch.manual_seed(0)
    return build_gpt(GptNetConfig(embedding_dim=64, hidden_dim=64, head=heads, n_layer=layers, dropout=dropout))


def make_batch(texts: Sequence[int], audios: Sequence[int]) -> SovitsBatch:
    generator = torch.Generator().manual_seed(0)
    return SovitsBatch(
        ids=tuple(map(str, range(len(texts)))),
        weight=float(len(texts)),
        num_frames=2 * sum(audios),
        num_padded=2 * sum(audios),
        phones=torch.randint(1, 300, (len(texts), max(texts)), generator=generator),
        phone_lengths=tuple(texts),
        bert=torch.randn(len(texts), max(texts), 1024, generator=generator),
        codes=torch.randint(0, 1024, (len(texts), max(audios)), generator=generator),
        code_lengths=tuple(audios),
        wav=None,
        frame_lengths=tuple(2 * audio for audio in audios),
        ssl=None,
        speaker=None,
    )


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def scaled_adam(net: Text2SemanticDecoder) -> ScaledAdam:
    group = {"params": list(net.parameters()), "lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.0}
    return ScaledAdam([group], eps=1e-8, clipping_period=4)


def test_losses_gradients_and_updates_are_those_of_a_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    nets = [make_net(), make_net().cuda()]
    optimizers = [scaled_adam(net) for net in nets]
    for step in range(10):
        for net, optimizer in zip(nets, optimizers, strict=True):
            batch = make_batch(TEXTS, AUDIOS).to(next(net.parameters()).device)
            optimizer.zero_grad()
            loss = per_target(clip_losses(net, batch, compat="none"), dpo=0.0)
            torch.autograd.backward(loss)
            if step == 0:
                continue
            optimizer.step()
        if step == 0:
            for name, parameter in nets[0].named_parameters():
                other = nets[1].get_parameter(name).grad
                assert other is not None
                torch.testing.assert_close(other.cpu(), parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
    for name, parameter in nets[0].named_parameters():
        if not name.endswith("in_proj_bias"):  # keys' biases have no gradient but rounding
            torch.testing.assert_close(nets[1].get_parameter(name).cpu(), parameter, atol=2e-3, rtol=2e-3, msg=name)


def test_a_step_waits_for_nothing() -> None:
    net = make_net(dropout=0.1).cuda().train()
    optimizer = scaled_adam(net)
    batch = make_batch(TEXTS, AUDIOS).to(torch.device("cuda"))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = per_target(clip_losses(net, batch, compat="none"), dpo=0.0)
        torch.autograd.backward(loss)
        optimizer.step()

    for _ in range(3):  # tables and kernels
        step()
    with waiting_is_an_error():
        for _ in range(6):  # sizes and the clipping threshold change among these
            step()
    assert all(bool(parameter.isfinite().all()) for parameter in net.parameters())


def test_memory_does_not_grow_with_the_heads() -> None:
    """A mask for every head, as upstream makes, would take 2 GB here."""
    net = make_net(dropout=0.1, heads=32, layers=2).cuda().train()
    batch = make_batch((500,) * 4, (1300,) * 4).to(torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = per_target(clip_losses(net, batch, compat="none"), dpo=0.0)
    torch.autograd.backward(loss)
    assert torch.cuda.max_memory_allocated() < 1_000_000_000
