"""Cross entropy over 156,940 tokens, in chunks so that not all logits are in memory.

Legend: m target tokens, h width, v vocabulary, c tokens of one chunk, k = 4096 codes of a slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ttstrain.families.orpheus.batch import EOS_SLOT
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, TokenIds

CPU_CHUNK_BYTES: Final = 80_000_000  # of fp32 logits; measured with scripts/bench/lm_head.py
# 2.6 GB of logits and their gradients; fewer waste the bandwidth of the head's weights. The same on every GPU, however
# full it is: sums over tokens are rounded in the order of the chunks, and a resumed run must round as the whole one.
CUDA_CHUNK_TOKENS: Final = 1024


@dataclass(frozen=True, slots=True)
class HeadLoss:
    """The loss over all target tokens, and each token's part. Only `value` has a gradient."""

    value: Tensor  # (), a mean over the tokens
    nll: Tensor  # (m,) fp32, full-vocabulary negative log-likelihood
    illegal: Tensor  # (m,) fp32, probability of ids that the slot forbids; 0 where there is no slot
    log_normaliser: Tensor  # (m,) fp32, logsumexp of the logits


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """Terms besides the plain cross entropy."""

    ids: TokenIds
    z_loss: float = 0.0  # times the squared log-normaliser (PaLM, arXiv 2204.02311, 5)
    slot_loss: float = 0.0  # share of the loss that is taken over the slot's own ids alone
    chunk_tokens: int | None = None  # None: by the kind of device


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, slots: Tensor, *, options: HeadOptions) -> HeadLoss:
    """Return the mean loss of tokens whose hidden states (m, h) predict `targets` (m,) through `weight` (v, h).

    `slots` (m,) holds each target's slot 0..6, 7 for the end of speech, or less than 0 where any id is legal. The
    products are computed in autocast's type, or the weight's; sums over tokens and ids in fp32.
    """
    if not len(targets):
        zero = hidden.new_zeros(0, dtype=torch.float32)
        return HeadLoss(hidden.float().sum() * 0.0, zero, zero, zero)
    apply: Any = _HeadLoss.apply
    return HeadLoss(*apply(hidden, weight, targets, slots, options))


def chunk_tokens(vocab_size: int, device: torch.device) -> int:
    """Return how many tokens' logits are held at a time: the kind of device decides it, not what is free there."""
    return CUDA_CHUNK_TOKENS if device.type == "cuda" else max(1, CPU_CHUNK_BYTES // (4 * vocab_size))


class _HeadLoss(torch.autograd.Function):
    """Computes gradients together with the loss, while a chunk's logits are at hand: three products per chunk."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, slots: Tensor, options: HeadOptions
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        device = hidden.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
        with torch.autocast(device.type, enabled=False):
            sums = _chunked(
                hidden.detach(),
                weight.detach(),
                targets,
                slots,
                options=options,
                dtype=dtype,
                into_hidden=ctx.needs_input_grad[0],
                into_weight=ctx.needs_input_grad[1],
            )
        ctx.gradients = (sums.into_hidden, sums.into_weight)
        ctx.mark_non_differentiable(sums.nll, sums.illegal, sums.log_normaliser)
        return sums.value, sums.nll, sums.illegal, sums.log_normaliser

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the head's loss supports only one backward pass, because its gradients are not copied")
        into_hidden, into_weight = ctx.gradients
        ctx.gradients = None
        factor = grad_outputs[0]
        for gradient in (into_hidden, into_weight):
            if gradient is not None:
                gradient.mul_(factor)
        return into_hidden, into_weight, None, None, None


@dataclass(frozen=True, slots=True)
class _Sums:
    value: Tensor
    nll: Tensor
    illegal: Tensor
    log_normaliser: Tensor
    into_hidden: Tensor | None
    into_weight: Tensor | None


def _chunked(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    slots: Tensor,
    *,
    options: HeadOptions,
    dtype: torch.dtype,
    into_hidden: bool,
    into_weight: bool,
) -> _Sums:
    m, v = len(hidden), len(weight)
    step = min(m, options.chunk_tokens or chunk_tokens(v, hidden.device))
    head = weight.to(dtype)
    nll, illegal, log_normaliser, losses = (hidden.new_empty(m, dtype=torch.float32) for _ in range(4))
    grad_hidden = torch.empty_like(hidden) if into_hidden else None
    grad_weight = torch.empty_like(weight, dtype=torch.float32) if into_weight else None
    buffers = _Buffers.of(step, v, device=hidden.device) if dtype == torch.float32 else None

    def add(rows: slice) -> None:  # a function, so that one chunk's logits are gone when the next one's are made
        x, target, slot = hidden[rows].to(dtype), targets[rows, None], slots[rows].long()
        # (c, v), in half precision as transformers' head
        logits = x @ head.t() if buffers is None else torch.mm(x, head.t(), out=buffers.logits[: len(x)])
        own = logits.gather(1, target)[:, 0].float()
        legal = _Legal.of(logits, slot, options.ids)
        log_p = _log_softmax(logits, buffers)
        nll[rows] = -log_p.gather(1, target)[:, 0]
        log_normaliser[rows] = own + nll[rows]
        illegal[rows] = legal.missing(log_normaliser[rows])
        share = options.slot_loss * legal.known
        losses[rows] = (
            (1 - share) * nll[rows]
            + share * (legal.log_normaliser - own)
            + options.z_loss * log_normaliser[rows].square()
        )
        if grad_hidden is None and grad_weight is None:
            return
        slopes = _by_logits(log_p, target, legal, log_normaliser[rows], options).to(dtype)
        if grad_hidden is not None:
            grad_hidden[rows] = (slopes @ head).div_(m)
        if grad_weight is not None:
            _add_product(grad_weight, slopes, x, scale=1 / m, begins=rows.start == 0)

    for start in range(0, m, step):
        add(slice(start, min(start + step, m)))
    value = losses.double().mean().float()
    if grad_weight is not None:
        grad_weight = grad_weight.to(weight.dtype)
    return _Sums(value, nll, illegal, log_normaliser, grad_hidden, grad_weight)


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What serves all chunks, as fresh memory costs the CPU more than the arithmetic on it. One tensor there."""

    logits: Tensor  # (c, v) fp32
    log_p: Tensor  # (c, v) fp32

    @classmethod
    def of(cls, tokens: int, vocab_size: int, *, device: torch.device) -> _Buffers:
        logits = torch.empty(tokens, vocab_size, device=device)
        return cls(logits, logits if device.type == "cpu" else torch.empty_like(logits))


def _log_softmax(logits: Tensor, buffers: _Buffers | None) -> Tensor:
    """Return log probabilities in fp32; without buffers in fresh memory, else over the logits where both are one."""
    if buffers is None:
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    return torch.log_softmax(logits, dim=-1, out=buffers.log_p[: len(logits)])  # a row is read before it is written


def _add_product(total: Tensor, slopes: Tensor, x: Tensor, *, scale: float, begins: bool) -> None:
    """Add slopes' @ x, in its own precision, to a sum in fp32. What `total` holds before the first is not read."""
    if slopes.dtype == torch.float32:
        total.addmm_(slopes.t(), x, beta=0 if begins else 1, alpha=scale)
    elif begins:
        total.copy_(slopes.t() @ x).mul_(scale)
    else:
        total.add_(slopes.t() @ x, alpha=scale)


def _by_logits(log_p: Tensor, target: Tensor, legal: _Legal, log_normaliser: Tensor, options: HeadOptions) -> Tensor:
    """Turn log probabilities (c, v) into the gradient by the logits, in place."""
    p, share = log_p.exp_(), options.slot_loss * legal.known
    if options.z_loss or options.slot_loss:
        p.mul_((1 - share + 2 * options.z_loss * log_normaliser)[:, None])
    if options.slot_loss:
        legal.add_gradient(p, share)
    return p.scatter_add_(1, target, p.new_full(target.shape, -1.0))


@dataclass(frozen=True, slots=True)
class _Legal:
    """The logits of the ids that a slot allows: its own block, and the end of speech where a frame may begin."""

    columns: Tensor  # (c, k)
    eos_column: int
    logits: Tensor  # (c, k) fp32
    eos: Tensor  # (c,) fp32, -inf where a frame cannot begin
    log_normaliser: Tensor  # (c,) fp32
    known: Tensor  # (c,) fp32, 1 where there is a slot

    @classmethod
    def of(cls, logits: Tensor, slot: Tensor, ids: TokenIds) -> _Legal:
        block = torch.where(slot == EOS_SLOT, 0, slot).clamp(min=0)  # rows without a slot are masked by `known`
        codes = torch.arange(CODEBOOK_SIZE, device=logits.device)
        columns = ids.first_audio + CODEBOOK_SIZE * block[:, None] + codes
        own = logits.gather(1, columns).float()
        begins = (slot == 0) | (slot == EOS_SLOT)
        eos = logits[:, ids.eos].float().masked_fill(~begins, -math.inf)
        log_normaliser = torch.logaddexp(torch.logsumexp(own, dim=1), eos)
        return cls(columns, ids.eos, own, eos, log_normaliser, (slot >= 0).float())

    def missing(self, log_normaliser: Tensor) -> Tensor:
        """Return the probability of everything else."""
        return -torch.expm1((self.log_normaliser - log_normaliser).clamp(max=0)) * self.known

    def add_gradient(self, into: Tensor, share: Tensor) -> None:
        """Add `share` times the softmax over the legal ids to the rows of `into` (c, v)."""
        within = (self.logits - self.log_normaliser[:, None]).exp().mul_(share[:, None])
        into.scatter_add_(1, self.columns, within)
        into[:, self.eos_column] += (self.eos - self.log_normaliser).exp() * share
