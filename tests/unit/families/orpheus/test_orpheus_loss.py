"""The chunked loss against torch's own cross entropy in double precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.families.orpheus.batch import EOS_SLOT
from ttstrain.families.orpheus.ids import NUM_SLOTS, TokenIds
from ttstrain.families.orpheus.loss import HeadOptions, chunk_tokens, head_loss

IDS = TokenIds(first_custom=32, bos=30, eot=31)
VOCAB = IDS.end_audio + 2
TOKENS, WIDTH = 24, 16


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, weights, targets and slots: frames, an end of speech, and text."""
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH).mul(0.4).requires_grad_()
    slots = torch.tensor([*range(NUM_SLOTS)] * 3 + [EOS_SLOT, -1, -1])
    codes = torch.randint(4096, (TOKENS,)).tolist()
    targets = [
        IDS.of(slot, code) if 0 <= slot < NUM_SLOTS else 5 for slot, code in zip(slots.tolist(), codes, strict=True)
    ]
    targets[-3] = IDS.eos
    return hidden, weight, torch.tensor(targets), slots


def legal_ids(slot: int) -> list[int]:
    begins = slot in (0, EOS_SLOT)
    return [*IDS.slot_ids(0 if begins else slot), *([IDS.eos] if begins else [])]


def expected_loss(problem: tuple[Tensor, Tensor, Tensor, Tensor], *, z_loss: float, slot_loss: float) -> Tensor:
    hidden, weight, targets, slots = problem
    logits = hidden.double() @ weight.double().t()
    total = logits.logsumexp(1)
    own = logits.gather(1, targets[:, None])[:, 0]
    losses = []
    for i, slot in enumerate(slots.tolist()):
        share = slot_loss if slot >= 0 else 0.0
        within = logits[i, legal_ids(slot)].logsumexp(0) if slot >= 0 else total[i]
        losses.append((1 - share) * (total[i] - own[i]) + share * (within - own[i]) + z_loss * total[i] ** 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [1, 7, TOKENS, 1000])
@pytest.mark.parametrize(("z_loss", "slot_loss"), [(0.0, 0.0), (1e-3, 0.0), (0.0, 0.3), (1e-3, 1.0)])
def test_value_and_gradients_are_those_of_full_logits(
    problem: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int, z_loss: float, slot_loss: float
) -> None:
    hidden, weight, targets, slots = problem
    options = HeadOptions(IDS, z_loss=z_loss, slot_loss=slot_loss, chunk_tokens=chunk)
    loss = head_loss(hidden, weight, targets, slots, options=options)
    found = torch.autograd.grad(0.5 * loss.value, (hidden, weight))
    expected = expected_loss(problem, z_loss=z_loss, slot_loss=slot_loss)
    wanted = torch.autograd.grad(0.5 * expected, (hidden, weight))
    torch.testing.assert_close(loss.value.double(), expected, rtol=1e-6, atol=0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_log_softmax_may_write_over_its_input_on_the_cpu() -> None:
    """torch does not promise it. `head_loss` holds one buffer of logits, not two."""
    logits = torch.randn(3, VOCAB) * 8
    expected = torch.log_softmax(logits, dim=-1)
    torch.log_softmax(logits, dim=-1, out=logits)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_read_of_memory_that_nobody_has_written(
    problem: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    torch.use_deterministic_algorithms(True)  # fresh memory is filled with NaN
    try:
        assert torch.empty(1).isnan().all()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            loss = head_loss(*problem, options=HeadOptions(IDS, chunk_tokens=7))
        loss.value.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    for values in (loss.value, loss.nll, loss.illegal, loss.log_normaliser, problem[0].grad, problem[1].grad):
        assert values is not None
        assert values.isfinite().all()


def test_what_each_token_reports_is_over_the_whole_vocabulary(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets, slots = problem
    loss = head_loss(hidden, weight, targets, slots, options=HeadOptions(IDS, slot_loss=1.0, z_loss=1.0))
    logits = hidden @ weight.t()
    torch.testing.assert_close(loss.nll, F.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.log_normaliser, logits.logsumexp(1), rtol=1e-5, atol=1e-6)
    p = logits.softmax(1)
    illegal = [
        1 - p[i, legal_ids(slot)].sum() if slot >= 0 else torch.zeros(()) for i, slot in enumerate(slots.tolist())
    ]
    torch.testing.assert_close(loss.illegal, torch.stack(illegal), rtol=1e-4, atol=1e-6)
    assert not loss.nll.requires_grad


def test_only_what_is_trained_gets_a_gradient(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets, slots = problem
    frozen = weight.detach()
    loss = head_loss(hidden, frozen, targets, slots, options=HeadOptions(IDS))
    (gradient,) = torch.autograd.grad(loss.value, hidden)
    wanted = torch.autograd.grad(F.cross_entropy(hidden @ frozen.t(), targets), hidden)[0]
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_autocast_computes_products_in_half_precision_and_sums_in_single(
    problem: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, weight, targets, slots = problem
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head_loss(hidden, weight, targets, slots, options=HeadOptions(IDS, chunk_tokens=5))
    expected = F.cross_entropy((hidden.bfloat16() @ weight.bfloat16().t()).float(), targets)
    torch.testing.assert_close(loss.value, expected, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(loss.value, (hidden, weight))
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
    wanted = torch.autograd.grad(expected, (hidden, weight))
    for one, other in zip(gradients, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02


def test_a_second_backward_is_refused(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    loss = head_loss(*problem, options=HeadOptions(IDS))
    loss.value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only one backward pass"):
        loss.value.backward()


def test_no_learned_token_is_no_loss(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets, slots = problem
    loss = head_loss(hidden[:0], weight, targets[:0], slots[:0], options=HeadOptions(IDS))
    assert float(loss.value.detach()) == 0.0
    assert loss.nll.shape == (0,)


def test_logits_of_few_tokens_are_held_at_a_time() -> None:
    assert 1 <= chunk_tokens(156_940, torch.device("cpu")) * 156_940 * 4 <= 100e6
    assert math.isfinite(chunk_tokens(100, torch.device("cpu")))


def test_a_chunk_is_the_same_on_every_gpu_however_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size decides the order of sums: a resumed run must have that of the whole one."""

    def asked(*_: object) -> None:
        raise AssertionError("the size depends on the device's memory")

    for name in ("mem_get_info", "get_device_properties", "memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, asked)
    assert chunk_tokens(156_940, torch.device("cuda")) == chunk_tokens(156_940, torch.device("cuda", 3)) == 1024
