"""Compare a step of the VAE of GPT-SoVITS with one computed as upstream's trainer does, side by side in one run.

    python scripts/bench/vae.py

Two processes train the same VAE and discriminator on the same clips, with the same optimizer groups, dropout, precision
and number of threads: ours through the engine's own loop on cached tokens, and one that is written after upstream's
trainer (vae_plain.py says what differs). They take turns, and the order changes with every pair; a ratio is always
between the two rounds of one pair. Before the clock starts both say their two losses of one batch with the same
weights: they must be equal to 1e-4 of them, or the speed means nothing.

`cpu_small` is the published discriminator with a smaller VAE, 10,240 samples of 4 clips; `v2` are the published nets.
Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import vae_workload as workload
from sides import Side, common_options, speed, stamp, take_turns, utc_now, write_results

TOLERANCE = 1e-4  # of a loss


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    given = ["--size", size, "--precision", "fp32"]
    with tempfile.TemporaryDirectory() as name:
        common: dict[str, Any] = {"threads": options.threads, "cuda": options.cuda, "folder": Path(name)}
        upstream = Side("vae_plain.py", sys.executable, *given, **common)
        ours = Side("vae_ours.py", sys.executable, *given, **common)
        if ours.about["parameters"] != upstream.about["parameters"]:
            raise SystemExit(f"error: not the same net: {ours.about['parameters']} and {upstream.about['parameters']}")
        print(f"{size}: {ours.about['parameters'] / 1e6:.1f} M parameters on {ours.about['device']}", flush=True)
        weights = str(Path(name) / "weights.pt")
        losses = [side.ask("losses", weights=weights)["losses"] for side in (upstream, ours)]
        for theirs, mine in zip(*losses, strict=True):
            if abs(theirs - mine) > TOLERANCE * abs(theirs):
                raise SystemExit(f"error: the losses of one batch are {losses[0]} and {losses[1]}: not the same net")
        pairs = _measure(ours, upstream, steps=options.steps, pairs=options.pairs)
        peak = {"ours": ours.leave(), "upstream": upstream.leave()}
    result = {
        "size": size,
        "device": ours.about["device"],
        "parameters": ours.about["parameters"],
        "clips": workload.SIZES[size].clips,
        "segment": workload.SIZES[size].segment_size,
        "precision": "fp32",
        "threads": options.threads,
        "load_before": load,
        "losses_of_one_batch": losses,
        "ratio": round(median(theirs / mine for mine, theirs in pairs), 3),
        "step_s": {
            "ours": round(median(mine for mine, _ in pairs), 3),
            "upstream": round(median(theirs for _, theirs in pairs), 3),
        },
        "pairs": [[round(mine, 3), round(theirs, 3)] for mine, theirs in pairs],
        "peak": peak,
        "versions": {"ours": ours.about["versions"], "upstream": upstream.about["versions"]},
    }
    print(f"  median {result['ratio']:.2f}x; peak memory: {peak}", flush=True)
    return result


def _measure(ours: Side, upstream: Side, *, steps: int, pairs: int) -> list[tuple[float, float]]:
    """Return seconds a step of ours and of the other, after one round of each to warm up."""
    found = []
    sides = {"upstream": upstream, "ours": ours}
    for took in take_turns(sides, dict.fromkeys(sides, steps), rounds=pairs):
        mine, theirs = (took[name]["seconds"] / steps for name in ("ours", "upstream"))
        found.append((mine, theirs))
        speeds = f"{speed(took['ours']):,.0f}, {speed(took['upstream']):,.0f}"
        print(f"  ours {mine:.2f} s, upstream {theirs:.2f} s ({speeds} frames/s): {theirs / mine:.2f}x", flush=True)
    return found


def main() -> None:
    parser = common_options(__doc__, sizes=workload.SIZES, default=["cpu_small"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2 * workload.NUM_BATCHES, help="in a round")
    options = parser.parse_args()
    started = utc_now()
    results = [compare(size, options) for size in options.size]
    device = "cuda" if options.cuda else "cpu"
    print(f"wrote {write_results(f'vae-{stamp(started)}-{device}-fp32', results, started=started)}")


if __name__ == "__main__":
    main()
