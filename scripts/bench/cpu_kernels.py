"""Say what each kernel of ttstrain/modules/cpu brings to a training step.

    python scripts/bench/cpu_kernels.py --threads 2 --size flow/quickstart gpt/tiny

A worker runs the engine's own loop. In every round it trains once with all kernels and once without each of them, on
the same batches, in an order that changes from round to round. A gain is the share of a step's time that a kernel
saves, the median over the rounds: by the clock, and by the CPU time of all threads, which other programs disturb less.
Threads that wait for others sleep, so that their CPU time counts work only. What becomes of freed memory is decided
when a loop starts, so `heap` is measured between pairs of workers, of which several are started.

Writes JSON to scripts/bench/results.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from sides import Side, stamp, utc_now, write_results
from worker import device_name, versions

WORKERS = {"flow": "ours.py", "gpt": "gpt_ours.py", "vae": "vae_ours.py", "lm": "lm_ours.py"}
KERNELS = {
    "flow": ("dropout", "frame_convolution"),
    "gpt": ("attention", "documents", "dropout"),
    "vae": ("dropout",),
    "lm": (),
}
STEPS = {  # batches of a round, a multiple of how many there are: every variant sees the same ones
    "flow/quickstart": 4,
    "flow/small_batch": 1,
    "flow/one_layer": 1,
    "gpt/tiny": 8,
    "gpt/six_layers": 4,
    "gpt/two_layers": 4,
    "vae/tiny": 2,
    "vae/published_discriminator": 2,
    "lm/one_batch": 1,
}
HEAP = "heap"
HEAP_PAIRS = 4  # of workers: memory lies differently in each


def family_of(size: str) -> str:
    return size.partition("/")[0]


@contextmanager
def worker(size: str, options: argparse.Namespace, *arguments: str) -> Iterator[Side]:
    name = size.partition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        given = ["--size", name, "--precision", "fp32", *arguments]
        side = Side(
            WORKERS[family_of(size)], sys.executable, *given, threads=options.threads, cuda="", folder=Path(folder)
        )
        yield side
        side.leave()


@dataclass(frozen=True, slots=True)
class Took:
    """What the steps of one variant took in one round."""

    seconds: float
    cpu_seconds: float  # of all threads


Round = dict[str, Took]  # variant -> what it took


def train(side: Side, size: str) -> Took:
    answer = side.ask("run", steps=STEPS[size])
    return Took(answer["seconds"], answer["cpu_seconds"])


def kernel_rounds(size: str, options: argparse.Namespace) -> Iterator[Round]:
    """Yield rounds: with all kernels, and without each."""
    variants = ["all", *KERNELS[family_of(size)]]
    with worker(size, options) as side:
        for number in range(options.rounds + 1):
            first = number % len(variants)
            took = {}
            for variant in variants[first:] + variants[:first]:
                side.ask("without", kernel=None if variant == "all" else variant)
                took[variant] = train(side, size)
            if number:  # the first one warms up
                yield took


def heap_rounds(size: str, options: argparse.Namespace) -> Iterator[Round]:
    """Yield rounds: a worker that keeps freed memory, and one that gives it back."""
    for _ in range(HEAP_PAIRS):
        with worker(size, options) as keeps, worker(size, options, "--give-back") as gives:
            sides = {"all": keeps, HEAP: gives}
            for number in range(-(-options.rounds // HEAP_PAIRS) + 1):
                took = {name: train(sides[name], size) for name in (sides if number % 2 else reversed(sides))}
                if number:
                    yield took


def told(size: str, rounds: list[Round], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what was found of each kernel. A gain is a share of the time without it."""
    for kernel in sorted(rounds[0].keys() - {"all"}):
        found: dict[str, Any] = {"size": size, "kernel": kernel, "threads": options.threads}
        for clock in ("seconds", "cpu_seconds"):
            pairs = [(getattr(took["all"], clock), getattr(took[kernel], clock)) for took in rounds]
            gains = [1 - all_of_them / without for all_of_them, without in pairs]
            low, _, high = quantiles(gains, n=4)
            found[clock] = {
                "gain": round(median(gains), 4),
                "quartiles": [round(low, 4), round(high, 4)],
                "with": round(median(pair[0] for pair in pairs), 4),
                "without": round(median(pair[1] for pair in pairs), 4),
            }
        yield found | {"rounds": len(rounds), "batches_per_round": STEPS[size]}
        gains_told = " and ".join(
            f"{found[clock]['gain']:.1%} ({found[clock]['quartiles'][0]:.1%} to {found[clock]['quartiles'][1]:.1%})"
            for clock in ("seconds", "cpu_seconds")
        )
        print(f"{size}, {options.threads} threads: {kernel} saves {gains_told} of time and CPU time", flush=True)
        print(f"  {found['seconds']}, {found['cpu_seconds']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=["heap", "others"], help="default: heap and all others")
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "passive"  # of the workers
    started, load = utc_now(), os.getloadavg()[0]
    results: list[dict[str, Any]] = []
    for size in options.size:
        if options.only != "heap" and KERNELS[family_of(size)]:
            results += told(size, list(kernel_rounds(size, options)), options)
        if options.only != "others":
            results += told(size, list(heap_rounds(size, options)), options)
    machine = {"device": device_name(torch.device("cpu")), "versions": versions("ttstrain", "torch")}
    results = [result | machine | {"load_before": load} for result in results]
    only = f"-{options.only}" if options.only else ""
    name = f"cpu-kernels-{stamp(started)}-{options.threads}-threads{only}"
    print(f"wrote {write_results(name, results, started=started)}")


if __name__ == "__main__":
    main()
