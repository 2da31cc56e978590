"""Compare our training step with upstream F5-TTS's, side by side in one run.

    python -m venv ../venv-f5 && ../venv-f5/bin/pip install "torch==2.11.*" "torchaudio==2.11.*" f5-tts
    python scripts/bench/step.py --upstream-python ../venv-f5/bin/python

Each side is a process that runs its own training loop (`Trainer.train` there, `ttstrain.train.loop.train` here) on the
same batches, with the same net, dropout, precision and number of threads. They take turns, and the order changes with
every pair of rounds; a ratio is always between the two rounds of one pair. The data pipeline is not part of it: batches
are padded and on the device before the clock starts.

Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import workload
from sides import Side, common_options, speed, stamp, take_turns, utc_now, write_results

STEPS = 10  # in a round: twice over the batches, and once what either side does every tenth step


@dataclass(frozen=True)
class Pair:
    """Frames per second of two rounds on the same batches, one after the other."""

    ours: float
    upstream: float

    @property
    def ratio(self) -> float:
        return self.ours / self.upstream


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given = ["--size", size, "--precision", options.precision]
        common: dict[str, Any] = {"threads": options.threads, "cuda": options.cuda, "folder": Path(folder)}
        upstream = Side("upstream_f5.py", options.upstream_python, *given, **common)
        ours = Side("ours.py", sys.executable, *given, *(["--compile"] if options.compile else []), **common)
        return measure(size, ours=ours, upstream=upstream, options=options)


def measure(size: str, *, ours: Side, upstream: Side, options: argparse.Namespace) -> dict[str, Any]:
    if ours.about["parameters"] != upstream.about["parameters"]:
        raise SystemExit(f"error: not the same net: {ours.about['parameters']} and {upstream.about['parameters']}")
    load = os.getloadavg()[0]
    print(f"{size}: {ours.about['parameters'] / 1e6:.1f} M parameters on {ours.about['device']}", flush=True)
    pairs: list[Pair] = []
    sides = {"upstream": upstream, "ours": ours}
    for took in take_turns(sides, dict.fromkeys(sides, STEPS), rounds=options.pairs):
        pairs.append(pair := Pair(**{name: speed(answer) for name, answer in took.items()}))
        print(f"  ours {pair.ours:,.0f}, upstream {pair.upstream:,.0f} frames/s: {pair.ratio:.2f}x", flush=True)

    shares = watch(ours)
    result = {
        "size": size,
        "device": ours.about["device"],
        "parameters": ours.about["parameters"],
        "batch_frames": workload.SIZES[size].batch_frames,
        "precision": options.precision,
        "compiled": options.compile,
        "threads": options.threads,
        "load_before": load,
        "ratio": round(median(pair.ratio for pair in pairs), 3),
        "frames_per_s": {
            "ours": round(median(pair.ours for pair in pairs), 1),
            "upstream": round(median(pair.upstream for pair in pairs), 1),
        },
        "pairs": [[round(pair.ours, 1), round(pair.upstream, 1)] for pair in pairs],
        "share_of_our_step": shares,
        "peak": {"ours": ours.leave(), "upstream": upstream.leave()},
        "versions": {"ours": ours.about["versions"], "upstream": upstream.about["versions"]},
    }
    print(
        f"  median {result['ratio']:.2f}x; guard, EMA and logging take {sum(shares.values()):.2%} of our step: {shares}"
    )
    print(f"  peak memory: {result['peak']}")
    return result


def watch(ours: Side) -> dict[str, float]:
    """Return which share of our step its parts take; a snapshot's cost is spread over the steps between two."""
    snapshot = ours.ask("watch")
    took = ours.ask("run", steps=STEPS)
    seconds: dict[str, float] = ours.ask("watched")["seconds"]
    seconds["guard: snapshot"] = snapshot["seconds"] / snapshot["every"] * STEPS
    return {part: round(spent / took["seconds"], 5) for part, spent in sorted(seconds.items())}


def main() -> None:
    parser = common_options(__doc__, sizes=workload.SIZES, default=["cpu_small", "cpu_wide"])
    parser.add_argument("--upstream-python", required=True, help="a Python that has f5-tts")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="our side with `train.compile`")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    started = utc_now()
    results = [compare(size, options) for size in options.size]
    device = "cuda" if options.cuda else "cpu"
    kind = f"{device}-{options.precision}{'-compiled' if options.compile else ''}"
    print(f"wrote {write_results(f'step-{stamp(started)}-{kind}', results, started=started)}")


if __name__ == "__main__":
    main()
