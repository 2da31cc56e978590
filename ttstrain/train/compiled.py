"""`train.compile`: the net's repeated blocks, compiled by torch in place.

Blocks of one class share their compiled forms. The sizes of a batch are unknowns of a form; another one is made for a
single clip, for evaluation, which needs no gradient, and where there is no mask: a handful in all. What would need more
than `MOST_FORMS` is computed as it is written.

torch's compiler takes seconds to import, so only the functions do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain.contract.task import HasBlocks, Task
from ttstrain.errors import RecipeError, first_line

MOST_FORMS = 12  # of one class of blocks

Backend = str | Callable[..., Any]  # what `torch.compile` takes


def compile_blocks(task: Task, device: torch.device, *, backend: Backend = "inductor") -> None:
    """Have a task's repeated blocks compiled when they are first used; names of weights stay.

    Raises RecipeError where torch's compiler does not work on this machine, or the task names no blocks.
    """
    blocks = task.repeated_blocks() if isinstance(task, HasBlocks) else ()
    if not blocks:
        raise RecipeError(f"`train.compile`: {type(task).__name__} names no blocks", hint="leave `train.compile` out")
    _try(device, backend)
    import torch._dynamo
    import torch.fx.experimental._config as unknowns

    torch._dynamo.config.recompile_limit = MOST_FORMS
    unknowns.use_duck_shape = False  # or two sizes that are equal in the first batch would have to stay so
    for block in blocks:
        block.compile(dynamic=True, backend=backend)


def num_forms() -> int:
    """Return how many forms of blocks this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def as_written(module: nn.Module) -> AbstractContextManager[Any]:
    """Compute a module inside as it is written, so that hooks on parts of its blocks are called."""
    compiled = any(part._compiled_call_impl is not None for part in module.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _try(device: torch.device, backend: Backend) -> None:
    """Compile a sum. Raises RecipeError where that fails: without C++ compiler, Python's headers or Triton."""
    from torch._dynamo.utils import counters

    try:
        torch.compile(_sum, backend=backend)(torch.ones(8, device=device))
    except Exception as error:
        cause = getattr(error, "inner_exception", error)  # torch's own begins with a line that says nothing
        raise RecipeError(
            f"`train.compile`: torch's compiler does not work on this machine: {first_line(cause)}",
            hint="it needs a C++ compiler (`apt install g++ python3-dev`, or $CXX) and on a GPU Triton; or leave "
            "`train.compile` out",
        ) from error
    counters.clear()


def _sum(x: Tensor) -> Tensor:
    return x.sin() + x
