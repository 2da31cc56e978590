"""Sums of gradients over processes that each hold the whole model; they begin while the backward pass still computes.

Only the last backward pass of a step into an optimizer's parameters makes their gradients final. In it, the gradients
of a bucket are summed as soon as all of them are there; what it leaves out is summed after it.

What keeps the processes together:

- All of them ask, before that pass, whether all have come so far (`Ranks.all_fit`); nothing has begun until then.
- Then each begins the sum of every bucket, once and in one order, whatever happens. One whose memory runs out in the
  pass sends zeros for what it had not begun, and says so in the exchange of `finish`; all of them then drop the sums.
- Which gradients a bucket holds follows from the parameters alone, so that a resumed run adds up in the same order.
  When its sum begins changes no number: that order is the one in which the first process had them in the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttstrain.train.distributed import Ranks, peers

BUCKET_BYTES = 25 * 2**20
LARGE_BYTES = 2**28  # a gradient above that is summed where it is, after the backward pass: its copy would not be small
ROUNDED_AT_ONCE = 4  # buckets in half precision that are being added up; in fp32 they are twice as large
_HALF = (torch.bfloat16, torch.float16)


class GradientSums:
    """Sums the gradients of one optimizer after the other over processes; those in half precision in fp32.

    A gradient that some ranks lack counts as zero there. One that all lack stays None, as in a single process: weight
    decay and momentum would otherwise update its parameter.
    """

    def __init__(self) -> None:
        self._layouts: dict[str, _Layout] = {}  # of each optimizer
        self._pass: _Pass | None = None

    @property
    def under_way(self) -> bool:
        """Whether this process owes the others a `finish`."""
        return self._pass is not None

    @contextmanager
    def beginning(self, ranks: Ranks, name: str, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Sum gradients of an optimizer's parameters as soon as the backward pass inside has made them.

        All ranks enter, and call `finish` afterwards, also where the pass has raised an error that ends no process.
        """
        if ranks.alone:
            yield
            return
        layout = self._layouts.get(name)
        if layout is None or not layout.is_of(parameters):
            layout = self._layouts[name] = _Layout(parameters)
        self._pass = _Pass(ranks, layout)
        with self._pass.watching():
            yield
        self._pass.begin_rest()

    def finish(self, ranks: Ranks, *, fits: bool = True) -> bool:
        """Wait for the sums and put them into the gradients; return whether every rank's `fits` is true.

        Where it is not, the gradients are worth nothing. Where this rank's is not, it drops its gradients before.
        """
        if ranks.alone:
            return fits
        own, self._pass = self._pass, None
        assert own is not None
        with peers():
            own.begin_rest()
        return own.finish(fits=fits)


class _Layout:
    """How an optimizer's gradients are put together: in buckets of one dtype, the last parameter's first."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.buckets: list[list[Tensor]] = []
        self.large = [parameter for parameter in parameters if parameter.nbytes > LARGE_BYTES]
        filling: dict[torch.dtype, list[Tensor]] = {}
        sizes: dict[torch.dtype, int] = {}
        for parameter in reversed(parameters):
            kind, size = parameter.dtype, parameter.nbytes
            if size > LARGE_BYTES:
                continue
            if kind not in filling or sizes[kind] + size > BUCKET_BYTES:
                filling[kind], sizes[kind] = [], 0
                self.buckets.append(filling[kind])
            filling[kind].append(parameter)
            sizes[kind] += size
        self.place = {parameter: i for i, bucket in enumerate(self.buckets) for parameter in bucket}
        self.order = list(range(len(self.buckets)))  # in which sums begin

    def is_of(self, parameters: Sequence[Tensor]) -> bool:
        """Tell whether this is the layout of these parameters: a stage may have frozen some."""
        return len(parameters) == len(self.parameters) and all(
            one is own for one, own in zip(parameters, self.parameters, strict=True)
        )


@dataclass(slots=True)
class _Begun:
    """A bucket whose sum has begun."""

    parameters: list[Tensor]
    pieces: Sequence[Tensor]  # of the sum, one for each parameter
    wait: Callable[[], None]


@dataclass(slots=True)
class _Pass:
    """The sums of one optimizer's gradients in one step."""

    ranks: Ranks
    layout: _Layout
    waits_for: list[set[Tensor]] = field(init=False)  # of each bucket: parameters whose gradient is not there yet
    complete: list[int] = field(default_factory=list)  # buckets, in the order in which the backward pass made them
    begun: int = 0  # buckets of `layout.order`
    under_way: list[_Begun] = field(default_factory=list)
    had: list[bool] | None = None  # of each parameter: whether it has a gradient on this rank

    def __post_init__(self) -> None:
        self.waits_for = [set(bucket) for bucket in self.layout.buckets]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Begin the sums of buckets that are complete, while a backward pass runs inside."""
        place: Iterable[Any] = self.layout.place  # torch declares no types for the method
        hooks = [parameter.register_post_accumulate_grad_hook(self._note) for parameter in place]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, parameter: Tensor) -> None:
        place = self.layout.place[parameter]
        self.waits_for[place].remove(parameter)  # KeyError for a second gradient: the sum of the first may have begun
        if self.waits_for[place]:
            return
        self.complete.append(place)
        while self.begun < len(self.layout.order) and not self.waits_for[self.layout.order[self.begun]]:
            self._begin_next()

    def begin_rest(self) -> None:
        """Begin the sums that the backward pass has not begun."""
        if self.had is None:
            self.had = [parameter.grad is not None for parameter in self.layout.parameters]
        while self.begun < len(self.layout.order):
            self._begin_next()

    @torch.no_grad()
    def _begin_next(self) -> None:
        """Begin to sum a bucket, in a copy that takes the place of its gradients.

        A backward pass may still read the memory of a gradient that it has made.
        """
        bucket = self.layout.buckets[self.layout.order[self.begun]]
        half = bucket[0].dtype in _HALF
        if half and len(self.under_way) == ROUNDED_AT_ONCE:
            self._end(self.under_way.pop(0))
        sizes = [parameter.numel() for parameter in bucket]
        flat = torch.empty(sum(sizes), dtype=torch.float32 if half else bucket[0].dtype, device=bucket[0].device)
        pieces = [piece.view(own.shape) for piece, own in zip(torch.split(flat, sizes), bucket, strict=True)]
        missing = [piece for piece, own in zip(pieces, bucket, strict=True) if own.grad is None]
        there = [piece for piece, own in zip(pieces, bucket, strict=True) if own.grad is not None]
        if missing:
            torch._foreach_zero_(missing)
        if there:
            torch._foreach_copy_(there, [own.grad for own in bucket if own.grad is not None])
        if not half:
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.grad = piece
        self.under_way.append(_Begun(bucket, pieces, self.ranks.begin_sum(flat)))
        self.begun += 1

    def _end(self, bucket: _Begun) -> None:
        bucket.wait()
        if bucket.parameters[0].dtype in _HALF:
            gradients = [_gradient(parameter) for parameter in bucket.parameters]
            torch._foreach_copy_(gradients, list(bucket.pieces))

    def finish(self, *, fits: bool) -> bool:
        """Exchange which gradients there are, and wait for the sums. All buckets have begun."""
        assert self.had is not None
        number = len(self.layout.parameters)
        said = torch.tensor([not fits, *self.had, *self._order()], dtype=torch.int64)
        short, *answers = self.ranks.sum(said).tolist()  # on the host: no wait
        holders, self.layout.order = answers[:number], answers[number:]
        if short:
            for bucket in self.under_way:
                bucket.wait()
            return False
        for bucket in self.under_way:
            self._end(bucket)
        for parameter, count in zip(self.layout.parameters, holders, strict=True):
            if not count:
                parameter.grad = None
            elif parameter not in self.layout.place:
                _sum_in_place(self.ranks, _gradient(parameter))
        return True

    def _order(self) -> list[int]:
        """Return the order for the next step on the first rank, zeros on the others."""
        if not self.ranks.main:
            return [0] * len(self.layout.order)
        return [*self.complete, *(place for place, waits in enumerate(self.waits_for) if waits)]


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


@torch.no_grad()
def _sum_in_place(ranks: Ranks, gradient: Tensor) -> None:
    whole = gradient.contiguous()
    half = whole.dtype in _HALF
    for piece in torch.split(whole.view(-1), BUCKET_BYTES // 4):
        piece.copy_(ranks.sum(piece.float() if half else piece))
    if whole is not gradient:
        gradient.copy_(whole)
