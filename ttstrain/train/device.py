"""Which device a process computes on."""

from __future__ import annotations

import platform

import torch

from ttstrain.errors import RecipeError
from ttstrain.train.distributed import Ranks


def choose_device(name: str, *, tf32: bool, ranks: Ranks | None = None) -> torch.device:
    """Resolve `auto` to this process's GPU, or to the CPU where there is none; make a GPU ready.

    `tf32` says whether it may compute fp32 products in TF32.
    """
    ranks = ranks or Ranks()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"unknown device `{name}`", hint="use `auto`, `cpu`, `cuda` or `cuda:N`") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RecipeError(f"`train.device={name}` but no GPU can be used", hint="see `ttstrain env`; or use `cpu`")
        if device.index is not None and not ranks.alone:
            raise RecipeError(
                f"`train.device={name}` puts all {ranks.world_size} processes on one GPU", hint="use `cuda`"
            )
        device = _own_gpu(device, ranks)
        torch.cuda.set_device(device)
        # torch 2.11's first choice on H100 and H200. It builds a plan for every new shape, about 0.5 s each way
        # (modelscope/FunASR#3704), and can give NaN gradients under a mask (pytorch#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    return device


def _own_gpu(device: torch.device, ranks: Ranks) -> torch.device:
    """Choose this process's GPU among those it sees, which no other process may have.

    A scheduler that gives each process one GPU to see (Slurm's `--gpus-per-task=1`) has chosen already.
    """
    count = torch.cuda.device_count()
    wanted = ranks.local_rank if device.index is None else device.index
    bound = not ranks.alone and count == 1
    if wanted >= count and not bound:
        raise RecipeError(
            f"there is no GPU {wanted}: this machine has {count}",
            hint="start one process per GPU (`--nproc`), or use `train.device=cpu`",
        )
    own = torch.device("cuda", 0 if bound else wanted)
    if ranks.alone:
        return own
    taken = ranks.gather((platform.node(), str(torch.cuda.get_device_properties(own).uuid)))
    if taken.count(taken[ranks.rank]) > 1:
        sharing = [str(rank) for rank, gpu in enumerate(taken) if gpu == taken[ranks.rank]]
        raise RecipeError(
            f"processes {', '.join(sharing)} use the same GPU of `{platform.node()}`",
            hint="start one process per GPU (`--nproc`), or use `train.device=cpu`",
        )
    return own
