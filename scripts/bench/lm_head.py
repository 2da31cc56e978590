"""Measure what turns hidden states into a loss over Orpheus' 156,940 tokens: time, memory and how far from exact.

Each arm runs forward and backward in a process of its own, so that one's memory is not another's. Arms whose package is
not installed, or that need a GPU, say so.

usage: lm_head.py [--tokens 2048] [--width 128] [--repeats 5] [--chunks 64,128,256] [--device cpu]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.families.orpheus.ids import PUBLISHED
from ttstrain.families.orpheus.loss import HeadOptions, chunk_tokens, head_loss

VOCAB = 156_940
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(chunk: int | None) -> Head:
    options = HeadOptions(PUBLISHED, chunk_tokens=chunk)

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        slots = torch.where(targets >= PUBLISHED.first_audio, (targets - PUBLISHED.first_audio) // 4096, -1)
        return head_loss(hidden, weight, targets, slots, options=options).value

    return loss


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What transformers computes: all logits, in single precision."""
    return F.cross_entropy((hidden @ weight.t()).float(), targets)


def torch_own(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions())


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(weight, hidden, targets)


def cut(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, targets)


def absent(name: str, device: str) -> str:
    """Say why an arm cannot run, or nothing."""
    if name == "torch" and not hasattr(F, "linear_cross_entropy"):
        return f"torch {torch.__version__} has no linear_cross_entropy"
    package = {"liger": "liger_kernel", "cut": "cut_cross_entropy"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"`{package}` is not installed"
    if package is not None and device != "cuda":
        return "needs a GPU"
    return ""


def head_of(name: str) -> Head:
    if name.startswith("ours"):
        _, _, chunk = name.partition("-")
        return ours(int(chunk) if chunk else None)
    return {"full": full_logits, "torch": torch_own, "liger": liger, "cut": cut}[name]


def measure(name: str, *, tokens: int, width: int, repeats: int, device: str) -> dict[str, Any]:
    """Run one arm in this process."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    hidden = torch.randn(tokens, width, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(VOCAB, width, device=device) * width**-0.5).to(dtype).requires_grad_()
    targets = torch.randint(PUBLISHED.first_audio, PUBLISHED.end_audio, (tokens,), device=device)
    head = head_of(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    times, loss = [], torch.zeros(())
    for _ in range(repeats + 1):
        hidden.grad = weight.grad = None
        start = perf_counter()
        loss = head(hidden, weight, targets)
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    assert hidden.grad is not None
    return {
        "seconds": median(times[1:]),
        "bytes": peak - before,
        "loss": loss.item(),
        "gradient": float(hidden.grad.float().norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunks", default="32,64,128,256,512", help="chunk sizes of ours to compare")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arm", help="run this arm here and print JSON")
    arguments = parser.parse_args()
    settings = {key: getattr(arguments, key) for key in ("tokens", "width", "repeats", "device")}
    if arguments.arm:
        print(json.dumps(measure(arguments.arm, **settings)))
        return
    auto = chunk_tokens(VOCAB, torch.device(arguments.device))
    print(f"{arguments.tokens:,} tokens x {arguments.width} x {VOCAB:,}, {arguments.device}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; forward and backward\n")
    print(f"{'arm':22} {'s':>8} {'tokens/s':>10} {'GB':>7} {'loss':>10} {'|dX|':>10}")
    for name in ("full", "ours", *(f"ours-{chunk}" for chunk in arguments.chunks.split(",")), "torch", "liger", "cut"):
        label = f"ours, auto ({auto})" if name == "ours" else name.replace("ours-", "ours, ")
        if why := absent(name, arguments.device):
            print(f"{label:22} {why}")
            continue
        options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, *options, "--arm", name], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        rate = arguments.tokens / found["seconds"]
        print(
            f"{label:22} {found['seconds']:8.3f} {rate:10,.0f} {found['bytes'] / 1e9:7.2f} "
            f"{found['loss']:10.5f} {found['gradient']:10.4g}"
        )


if __name__ == "__main__":
    main()
