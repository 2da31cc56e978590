"""The part that both workers of the step benchmark share: commands on stdin, answers on stdout, one JSON object a line.

A training loop asks for its next batch; that is where it is timed and where it waits for the next command. So both
sides run their own, unchanged loop.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Generic, TextIO, TypeVar

import torch

T = TypeVar("T")


class Finished(BaseException):  # passes through a loop's own handlers
    """Leaves the training loop."""


def take_stdout() -> TextIO:
    """Keep the real stdout for answers; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def begin(
    sizes: Collection[str], *numbers: str, precisions: Sequence[str] = ("fp32", "bf16")
) -> tuple[argparse.Namespace, TextIO]:
    """Read what the parent says, `numbers` being further options; return it and where answers go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", required=True, choices=sizes)
    parser.add_argument("--precision", required=True, choices=precisions)
    for name in ("threads", *numbers):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--give-back", action="store_true", help="leave the C library's heap as it is")
    parser.add_argument("--compile", action="store_true", help="compile the net's repeated blocks")
    options = parser.parse_args()
    answers = take_stdout()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options, answers


def now(device: torch.device) -> float:
    """Return the time at which everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


class TimedBatches(Generic[T]):
    """Hands out batches in order, for ever, in rounds that the parent asks for.

    `between` answers commands other than `run` and `quit`; it is called between two steps.
    """

    def __init__(
        self,
        batches: list[T],
        *,
        frames: list[int],
        device: torch.device,
        answers: TextIO,
        about: dict[str, Any],
        between: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._batches = batches
        self._frames = frames
        self._device = device
        self._answers = answers
        self._about = about
        self._between = between

    def __iter__(self) -> Iterator[T]:
        taken = 0
        self._answer(**self._about)
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "quit":
                self._answer(**peak_memory(self._device))
                break
            if command["do"] != "run":
                if self._between is None:
                    raise ValueError(f"unknown command {command}")
                self._answer(**self._between(command))
                continue
            frames = 0
            started, busy = now(self._device), process_time()
            for _ in range(command["steps"]):
                yield self._batches[taken % len(self._batches)]
                frames += self._frames[taken % len(self._frames)]
                taken += 1
            took = {"seconds": now(self._device) - started, "cpu_seconds": process_time() - busy}
            self._answer(steps=command["steps"], frames=frames, **took)
        raise Finished

    def _answer(self, **values: Any) -> None:
        self._answers.write(json.dumps(values) + "\n")


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return this process's peak memory in MB, on the host and on the device."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, kB elsewhere
    peak = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)}
    if device.type == "cuda":
        peak["peak_device_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return "CPU"
    models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return models[0] if models else "CPU"
