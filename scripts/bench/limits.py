"""Say how much of a training step on a CPU are heavy products, and so how much faster any step could be.

    python scripts/bench/limits.py [--size flow/cpu_small gpt/cpu_random vae/cpu_small]

A worker runs the engine's own loop. A round is timed; in the next one its matrix products, convolutions and attention
are recorded (products.py), and then repeated alone, on the same threads. `alone / step` is their share, and
`step / alone` the limit: how many times as fast a step were in which nothing else took any time. Multiplied by the
ratio to another trainer, it says what ratio is out of reach for torch's kernels on this machine, whatever we write.

One more round runs under torch's profiler, and is printed by kind of work: what the rest of a step consists of. Shares
are of that round, which is slower; what torch does not record, Python among it, is what is left of it.

Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import os
from statistics import median
from typing import Any

from cpu_kernels import family_of, worker
from sides import stamp, utc_now, write_results

BATCHES = {"flow": 5, "gpt": 8, "vae": 2, "lm": 4}  # of a round


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    load, batches = os.getloadavg()[0], BATCHES[family_of(name)]
    with worker(name, options) as side:
        side.ask("run", steps=batches)
        rounds = [side.ask("run", steps=batches)["seconds"] / batches for _ in range(options.rounds)]
        side.ask("record")
        side.ask("run", steps=batches)
        alone = {kind: seconds / batches for kind, seconds in side.ask("recorded")["seconds"].items()}
        side.ask("profile")
        wall = side.ask("run", steps=batches)["seconds"]
        spent = side.ask("profiled")
        about = side.about
    profile = {kind: seconds / wall for kind, seconds in spent["kinds"].items()}
    step, products = median(rounds), sum(alone.values())
    print(f"{name}, {about['parameters'] / 1e6:.1f} M parameters on {about['device']}: a batch takes {step:.3f} s")
    for kind, seconds in sorted(alone.items(), key=lambda item: -item[1]):
        print(f"  {kind:16} {seconds:.3f} s by themselves, {seconds / step:.0%} of it")
    print(f"  with all else free, {step / products:.2f} times as fast")
    print(f"  under the profiler it takes {wall / batches:.3f} s, of which")
    for kind, share in {**profile, "not recorded": 1 - sum(profile.values())}.items():
        print(f"  {share:6.1%} {kind}")
    longest = [f"{name} {seconds / wall:.1%}" for name, seconds in spent["operations"].items()]
    print("  longest: " + ", ".join(longest), flush=True)
    return {
        "size": name,
        "device": about["device"],
        "parameters": about["parameters"],
        "precision": "fp32",
        "threads": options.threads,
        "load_before": load,
        "batch_s": [round(seconds, 4) for seconds in rounds],
        "alone_s": {kind: round(seconds, 4) for kind, seconds in alone.items()},
        "share": round(products / step, 3),
        "limit": round(step / products, 3),
        "profiled_batch_s": round(wall / batches, 4),
        "profile": {kind: round(share, 4) for kind, share in profile.items()},
        "longest": {name: round(seconds / wall, 4) for name, seconds in spent["operations"].items()},
        "versions": about["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["flow/cpu_small", "gpt/cpu_small", "vae/cpu_small"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    started = utc_now()
    results = [measure(name, options) for name in options.size]
    print(f"wrote {write_results(f'limits-{stamp(started)}-cpu-fp32', results, started=started)}")


if __name__ == "__main__":
    main()
