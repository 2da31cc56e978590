"""Compare a step of the GPT of GPT-SoVITS with one computed as upstream's trainer does, side by side in one run.

    python scripts/bench/gpt.py

Two processes train the same net on the same clips with ScaledAdam, an update every fourth batch of 8 clips, with the
same dropout, precision and number of threads: ours through the engine's own loop with nothing padded, and one that is
written after upstream's trainer (gpt_padded.py). They take turns, and the order changes with every pair; a ratio is
always between the two rounds of one pair. What counts are phonemes and tokens that are no padding, per second. Before
the clock starts both say their loss of one clip with the same weights: it must be equal to 1e-3 of it, or the speed
means nothing.

`cpu_small` hands clips out as they come, `cpu_small_sorted` those of like length together, which upstream's sampler
comes near to. Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import gpt_workload as workload
from sides import Side, common_options, speed, stamp, take_turns, utc_now, write_results

TOLERANCE = 1e-3  # of the loss


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    batches = workload.make_batches(workload.SIZES[size])
    waste = 1 - sum(map(workload.num_rows, batches)) / sum(map(workload.padded, batches))
    load = os.getloadavg()[0]
    given = ["--size", size, "--precision", options.precision]
    with tempfile.TemporaryDirectory() as name:
        common: dict[str, Any] = {"threads": options.threads, "cuda": options.cuda, "folder": Path(name)}
        ours = Side("gpt_ours.py", sys.executable, *given, **common)
        upstream = Side("gpt_padded.py", sys.executable, *given, **common)
        if ours.about["parameters"] != upstream.about["parameters"]:
            raise SystemExit(f"error: not the same net: {ours.about['parameters']} and {upstream.about['parameters']}")
        print(
            f"{size}: {ours.about['parameters'] / 1e6:.1f} M parameters on {ours.about['device']}, "
            f"{waste:.0%} padding when clips are padded",
            flush=True,
        )
        weights = str(Path(name) / "weights.pt")
        losses = [side.ask("loss", weights=weights)["loss"] for side in (upstream, ours)]
        if abs(losses[0] - losses[1]) > TOLERANCE * abs(losses[0]):
            raise SystemExit(f"error: the losses of one clip are {losses[0]} and {losses[1]}: not the same net")
        pairs = _measure(ours, upstream, steps=len(batches), pairs=options.pairs)
        peak = {"ours": ours.leave(), "upstream": upstream.leave()}
    result = {
        "size": size,
        "device": ours.about["device"],
        "parameters": ours.about["parameters"],
        "clips": workload.SIZES[size].clips,
        "padding": round(waste, 4),
        "precision": options.precision,
        "threads": options.threads,
        "load_before": load,
        "loss_of_one_clip": losses,
        "ratio": round(median(mine / theirs for mine, theirs in pairs), 3),
        "rows_per_s": {
            "ours": round(median(mine for mine, _ in pairs), 1),
            "upstream": round(median(theirs for _, theirs in pairs), 1),
        },
        "pairs": [[round(mine, 1), round(theirs, 1)] for mine, theirs in pairs],
        "peak": peak,
        "versions": {"ours": ours.about["versions"], "upstream": upstream.about["versions"]},
    }
    print(f"  median {result['ratio']:.2f}x; peak memory: {peak}", flush=True)
    return result


def _measure(ours: Side, upstream: Side, *, steps: int, pairs: int) -> list[tuple[float, float]]:
    """Return phonemes and tokens per second of ours and of the other, after one round of each to warm up."""
    found = []
    sides = {"upstream": upstream, "ours": ours}
    for took in take_turns(sides, dict.fromkeys(sides, steps), rounds=pairs):
        mine, theirs = speed(took["ours"]), speed(took["upstream"])
        found.append((mine, theirs))
        print(f"  ours {mine:,.0f}, upstream {theirs:,.0f} rows/s: {mine / theirs:.2f}x", flush=True)
    return found


def main() -> None:
    parser = common_options(__doc__, sizes=workload.SIZES, default=["cpu_small", "cpu_small_sorted"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    started = utc_now()
    results = [compare(size, options) for size in options.size]
    device = "cuda" if options.cuda else "cpu"
    print(f"wrote {write_results(f'gpt-{stamp(started)}-{device}-{options.precision}', results, started=started)}")


if __name__ == "__main__":
    main()
