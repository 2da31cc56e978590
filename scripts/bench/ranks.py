"""Compare two processes of one thread with one process of two threads, on the same steps of F5.

    python scripts/bench/ranks.py [--ranks 2] [--size cpu_small cpu_wide]

A step holds as many micro-batches as there are processes: the one process takes them after each other, several take one
each and sum their gradients. All run the engine's own loop on the same batches. They take turns, and the order changes
with every pair of rounds; a ratio is always between the two rounds of one pair. What is to be reached: 0.95.

Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import workload
from sides import Side, speed, stamp, take_turns, utc_now, write_results

STEPS = 10  # in a round


class Together:
    """Processes that train one net together, or a single one."""

    def __init__(self, count: int, *, size: str, threads: int, accumulate: int, folder: Path) -> None:
        given = ["--size", size, "--precision", "fp32", "--accumulate", str(accumulate)]
        port = str(_free_port())
        self._accumulate = accumulate
        self.sides = [
            Side(
                "ranks_ours.py",
                sys.executable,
                *given,
                threads=threads,
                cuda="",
                folder=folder,
                environment={
                    **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
                    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count)),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                },
            )
            for rank in range(count)
        ]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let them take so many steps; return the frames of all, and the time of the last to end."""
        for side in self.sides:
            side.tell(do, **{**arguments, "steps": self._accumulate * arguments["steps"]})
        answers = [side.hear() for side in self.sides]
        return {
            "frames": sum(answer["frames"] for answer in answers),
            "seconds": max(answer["seconds"] for answer in answers),
        }

    def leave(self) -> int:
        """End them; return the peak memory of all of them, in MB."""
        return sum(side.leave()["peak_rss_mb"] for side in self.sides)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        load, count = os.getloadavg()[0], options.ranks
        sides = {
            "one": Together(1, size=size, threads=count, accumulate=count, folder=Path(folder)),
            "several": Together(count, size=size, threads=1, accumulate=1, folder=Path(folder)),
        }
        about = sides["one"].sides[0].about
        print(f"{size}: {about['parameters'] / 1e6:.1f} M parameters on {about['device']}", flush=True)
        pairs: list[tuple[float, float]] = []
        for took in take_turns(sides, dict.fromkeys(sides, STEPS), rounds=options.pairs):
            one, several = speed(took["one"]), speed(took["several"])
            pairs.append((several, one))
            print(f"  {count} processes {several:,.0f}, one {one:,.0f} frames/s: {several / one:.3f}x", flush=True)
        result = {
            "size": size,
            "device": about["device"],
            "parameters": about["parameters"],
            "ranks": count,
            "precision": "fp32",
            "load_before": load,
            "ratio": round(median(several / one for several, one in pairs), 3),
            "pairs": [[round(several, 1), round(one, 1)] for several, one in pairs],
            "peak_rss_mb": {name: side.leave() for name, side in sides.items()},
            "versions": about["versions"],
        }
    print(f"  median {result['ratio']:.3f}x; peak memory {result['peak_rss_mb']} MB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=workload.SIZES, default=["cpu_small", "cpu_wide"])
    parser.add_argument("--ranks", type=int, default=2, help="processes of one thread, and threads of the one process")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    started = utc_now()
    results = [compare(size, options) for size in options.size]
    print(f"wrote {write_results(f'ranks-{stamp(started)}-cpu-fp32', results, started=started)}")


if __name__ == "__main__":
    main()
