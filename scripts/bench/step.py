"""Compare our training step with upstream F5-TTS's, side by side in one run.

    python -m venv ../venv-f5 && ../venv-f5/bin/pip install "torch==2.11.*" "torchaudio==2.11.*" f5-tts
    python scripts/bench/step.py --upstream-python ../venv-f5/bin/python

Each side is a process that runs its own training loop (`Trainer.train` there, `ttstrain.engine.loop.train` here) on the
same batches, with the same net, dropout, precision and number of threads. They take turns, and the order changes with
every pair of rounds; a ratio is always between the two rounds of one pair. The data pipeline is not part of it: batches
are padded and on the device before the clock starts.

Writes JSON to scripts/bench/results. Close other programs first; `load_before` tells whether you did.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import workload

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
STEPS = 10  # in a round: twice over the batches, and once what either side does every tenth step


class Side:
    """A worker process and its answers."""

    def __init__(self, script: str, python: str, *, size: str, options: argparse.Namespace, folder: Path) -> None:
        command = [python, str(HERE / script), "--size", size, "--precision", options.precision]
        self._log = folder / f"{script}.log"
        self._process = subprocess.Popen(
            [*command, "--threads", str(options.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": options.cuda},
        )
        self.about = self._read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit(f"error: a worker failed:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def leave(self) -> dict[str, Any]:
        peak = self.ask("quit")
        self._process.wait()
        return peak


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
        upstream = Side("upstream_f5.py", options.upstream_python, size=size, options=options, folder=Path(folder))
        ours = Side("ours.py", sys.executable, size=size, options=options, folder=Path(folder))
        return measure(size, ours=ours, upstream=upstream, options=options)


def measure(size: str, *, ours: Side, upstream: Side, options: argparse.Namespace) -> dict[str, Any]:
    if ours.about["parameters"] != upstream.about["parameters"]:
        raise SystemExit(f"error: not the same net: {ours.about['parameters']} and {upstream.about['parameters']}")
    load = os.getloadavg()[0]
    print(f"{size}: {ours.about['parameters'] / 1e6:.1f} M parameters on {ours.about['device']}", flush=True)
    for side in (upstream, ours):
        side.ask("run", steps=STEPS)

    pairs: list[Pair] = []
    for number in range(options.pairs):
        turns = [("ours", ours), ("upstream", upstream)]
        speeds = {name: speed(side.ask("run", steps=STEPS)) for name, side in (turns if number % 2 else turns[::-1])}
        pairs.append(Pair(**speeds))
        print(
            f"  ours {pairs[-1].ours:,.0f}, upstream {pairs[-1].upstream:,.0f} frames/s: {pairs[-1].ratio:.2f}x",
            flush=True,
        )

    shares = watch(ours)
    result = {
        "size": size,
        "device": ours.about["device"],
        "parameters": ours.about["parameters"],
        "batch_frames": workload.SIZES[size].batch_frames,
        "precision": options.precision,
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


def speed(took: dict[str, Any]) -> float:
    """Return real frames per second."""
    frames_per_s: float = took["frames"] / took["seconds"]
    return frames_per_s


def watch(ours: Side) -> dict[str, float]:
    """Return which share of our step its parts take; a snapshot's cost is spread over the steps between two."""
    snapshot = ours.ask("watch")
    took = ours.ask("run", steps=STEPS)
    seconds: dict[str, float] = ours.ask("watched")["seconds"]
    seconds["guard: snapshot"] = snapshot["seconds"] / snapshot["every"] * STEPS
    return {part: round(spent / took["seconds"], 5) for part, spent in sorted(seconds.items())}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream-python", required=True, help="a Python that has f5-tts")
    parser.add_argument("--size", nargs="+", choices=workload.SIZES, default=["cpu_small", "cpu_wide"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cuda", default="", help="the GPU to use, as in CUDA_VISIBLE_DEVICES; default: the CPU")
    options = parser.parse_args()
    started = datetime.now(timezone.utc)
    results = [compare(size, options) for size in options.size]
    document = {
        "date": started.isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else ""),
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"step-{started:%Y%m%d-%H%M}-{'cuda' if options.cuda else 'cpu'}-{options.precision}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(HERE.parents[1])}")


if __name__ == "__main__":
    main()
