"""Choose how many processes hold the weights once together (`train.parallel.shard: auto`), and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.plan.estimate import ACTIVATIONS
from ttstrain.plan.parallel import SHARDABLE, kinds_of, memory_by_shards
from ttstrain.plan.plan import Sharding, on_device
from ttstrain.plan.render import GPU_SHARE, shown_bytes


@dataclass(frozen=True, slots=True)
class Room:
    """What a degree is chosen by, beyond the recipe."""

    gpu_memory: int | None = None  # bytes of the smallest GPU; None where there is none or its size is unknown
    kept: int | None = None  # the degree that a resumed run chose before, for as many processes


NO_GPU = Room()


def choose_sharding(
    recipe: ResolvedRecipe, memory: Mapping[str, int], *, world_size: int, weight_bytes: int, room: Room
) -> Sharding:
    """Return the recipe's degree; of `auto` the smallest that divides the processes and fits the GPU, or the largest.

    `memory` holds the bytes per part of a process that holds everything.
    """
    asked = recipe.train.parallel.shard
    if asked != "auto":
        return Sharding(asked)
    if (why := _why_whole(recipe, world_size)) is not None:
        return Sharding(1, why)
    if room.gpu_memory is None:
        return Sharding(1, "there is no GPU here whose memory is known")

    def needs(degree: int) -> int:
        return on_device(memory_by_shards(memory, recipe, shard=degree, weight_bytes=weight_bytes))

    given = int(GPU_SHARE * room.gpu_memory)
    if room.kept is not None:
        why = f"at the run's last start, which had {world_size} processes too"
        return Sharding(room.kept, why, fits=needs(room.kept) <= given)
    found = _smallest(needs, world_size, given)
    before = "" if ACTIVATIONS in memory else " before activations"
    of_gpu = f"a GPU of {shown_bytes(room.gpu_memory)} gives {shown_bytes(given)}"
    return Sharding(found, f"{_sizes(needs, found, world_size)}{before}, and {of_gpu}", fits=needs(found) <= given)


def _why_whole(recipe: ResolvedRecipe, world_size: int) -> str | None:
    """Return why the weights cannot or need not be divided, whatever they take; None where they can."""
    if world_size == 1:
        return "the run has one process"
    if recipe.train.device == "cpu":
        return "the run is on a CPU"
    if recipe.lora is not None and recipe.lora.base == "nf4":
        return "`lora.base=nf4` holds weights in blocks that are not cut"
    if recipe.optim.offload:
        return "`optim.offload` keeps whole state on the host"
    if recipe.train.kernels != "torch" or recipe.train.fp8:
        key = "train.fp8" if recipe.train.fp8 else "train.kernels"
        return f"`{key}` has not been tried on weights that are divided"
    whole = [f"`{key}={kind}`" for key, kind in kinds_of(recipe).items() if kind not in SHARDABLE]
    return f"{whole[0]} looks at whole tensors" if whole else None


def _smallest(needs: Callable[[int], int], world_size: int, given: int) -> int:
    """Return the smallest degree whose memory per process is at most `given` bytes, or the largest one."""
    return next((degree for degree in degrees(world_size) if needs(degree) <= given), world_size)


def degrees(world_size: int) -> Iterator[int]:
    """Yield the numbers of processes that may hold the weights together, the smallest first."""
    return (degree for degree in range(1, world_size + 1) if world_size % degree == 0)


def _sizes(needs: Callable[[int], int], found: int, world_size: int) -> str:
    """Say what a process takes with this degree, and with the next smaller one."""
    if found == 1:
        return f"whole copies take {shown_bytes(needs(1))}"
    less = max(degree for degree in degrees(world_size) if degree < found)
    instead = "whole copies" if less == 1 else f"with {less}"
    return f"a process takes {shown_bytes(needs(found))} ({instead}: {shown_bytes(needs(less))})"
