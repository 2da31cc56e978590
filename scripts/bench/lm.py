"""Compare training a language model over codes with transformers' Trainer, side by side in one run.

    python scripts/bench/lm.py

Three processes train the same Llama on the same rows with the same optimizer, precision and number of threads: ours,
rows packed and the loss in chunks; Trainer with 8 rows padded to the longest; and Trainer with one row a step, as
upstream's script. They take turns, in another order each time, and every turn is the same rows for all. What counts
are tokens that are no padding, per second. Before and after a number of updates that both have made, ours and the
padded Trainer say their loss on the same rows: they must be equal to 1e-3, or the speed means nothing.

Memory is the peak of each process. Writes JSON to scripts/bench/results. Close other programs first; `load_before`
tells whether you did.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import lm_workload as workload
from sides import Side, common_options, speed, stamp, take_turns, utc_now, write_results

TOLERANCE = 1e-3  # of the losses
OURS, PADDED, SINGLE = "ours", "trainer, 8 rows", "trainer, 1 row"


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    batches = workload.make_batches(workload.SIZES[size])
    tokens = sum(len(row.ids) for rows in batches for row in rows)
    waste = 1 - tokens / sum(workload.padded(rows) for rows in batches)
    load = os.getloadavg()[0]
    given = ["--size", size, "--precision", options.precision]
    with tempfile.TemporaryDirectory() as name:
        common: dict[str, Any] = {"threads": options.threads, "cuda": options.cuda, "folder": Path(name)}
        python = sys.executable
        sides = {
            OURS: Side("lm_ours.py", python, *given, **common),
            PADDED: Side("lm_hf.py", python, *given, "--rows", str(workload.ROWS), **common),
            SINGLE: Side("lm_hf.py", python, *given, "--rows", "1", **common),
        }
        about = {name: side.about for name, side in sides.items()}
        parameters = {side["parameters"] for side in about.values()}
        if len(parameters) > 1:
            raise SystemExit(f"error: not the same net: {about}")
        print(
            f"{size}: {about[OURS]['parameters'] / 1e6:.1f} M parameters on {about[OURS]['device']}; "
            f"{tokens / len(batches):,.0f} tokens a step, {waste:.0%} padding in 8 rows",
            flush=True,
        )
        losses = [_losses(sides, updates=0)]
        turns = _measure(sides, len(batches), rounds=options.rounds)
        losses.append(_losses(sides, updates=len(batches) * (options.rounds + 1)))
        peaks = {name: side.leave() for name, side in sides.items()}
    result = {
        "size": size,
        "device": about[OURS]["device"],
        "parameters": about[OURS]["parameters"],
        "shorter": workload.SIZES[size].shorter,
        "precision": options.precision,
        "threads": options.threads,
        "load_before": load,
        "tokens_per_step": tokens / len(batches),
        "padding_in_8_rows": round(waste, 4),
        "tokens_per_s": {name: round(median(turn[name] for turn in turns), 1) for name in sides},
        "ratio": {name: round(median(turn[OURS] / turn[name] for turn in turns), 3) for name in (PADDED, SINGLE)},
        "turns": [{name: round(turn[name], 1) for name in sides} for turn in turns],
        "losses": losses,
        "peak": peaks,
        "versions": {name: side["versions"] for name, side in about.items()},
    }
    _print(result)
    return result


def _measure(sides: dict[str, Side], num_batches: int, *, rounds: int) -> list[dict[str, float]]:
    """Warm up with one turn of each, then take turns; one step of a single row stands against one of eight rows."""
    steps = {OURS: num_batches, PADDED: num_batches, SINGLE: num_batches * workload.ROWS}
    turns = []
    for took in take_turns(sides, steps, rounds=rounds):
        turn = {name: speed(answer) for name, answer in took.items()}
        turns.append(turn)
        told = ", ".join(f"{name} {turn[name]:,.0f}" for name in sides)
        print(f"  {told} tokens/s: {turn[OURS] / turn[PADDED]:.2f}x, {turn[OURS] / turn[SINGLE]:.2f}x", flush=True)
    return turns


def _losses(sides: dict[str, Side], *, updates: int) -> dict[str, float]:
    """Ask both sides that have made the same updates for their loss on the same rows."""
    found = {name: sides[name].ask("loss", batch=0)["loss"] for name in (OURS, PADDED)}
    apart = abs(found[OURS] - found[PADDED])
    print(f"  loss after {updates} updates: {found[OURS]:.5f} and {found[PADDED]:.5f}", flush=True)
    if apart > TOLERANCE:
        raise SystemExit(f"error: the losses are {apart:.2g} apart: the two do not train the same")
    return {"updates": updates, **found}


def _print(result: dict[str, Any]) -> None:
    kind = "peak_device_mb" if all("peak_device_mb" in peak for peak in result["peak"].values()) else "peak_rss_mb"
    ours = result["peak"][OURS][kind]
    for name, ratio in result["ratio"].items():
        theirs = result["peak"][name][kind]
        print(f"  against {name}: {ratio:.2f}x the speed, {ours:,} of {theirs:,} MB ({ours / theirs:.0%})")


def main() -> None:
    parser = common_options(__doc__, sizes=workload.SIZES, default=["cpu_small"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    started = utc_now()
    results = [compare(size, options) for size in options.size]
    device = "cuda" if options.cuda else "cpu"
    print(f"wrote {write_results(f'lm-{stamp(started)}-{device}-{options.precision}', results, started=started)}")


if __name__ == "__main__":
    main()
