"""The parent of a benchmark: workers that take turns, and what becomes of their figures."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


class Side:
    """A worker process and its answers."""

    def __init__(
        self,
        script: str,
        python: str,
        *arguments: str,
        threads: int,
        cuda: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        more = environment or {}
        self._log = folder / f"{'-'.join([script, *arguments, *more.values()])}.log"
        self._process = subprocess.Popen(
            [python, str(HERE / script), *arguments, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": cuda, **more},
        )

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the worker says of itself, once it is ready."""
        return self.hear()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.tell(do, **arguments)
        return self.hear()

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a command whose answer `hear` returns."""
        assert self.about  # a worker says that first
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
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


class Asked(Protocol):
    """A worker process, or several that work together."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...


def take_turns(sides: Mapping[str, Asked], steps: Mapping[str, int], *, rounds: int) -> Iterator[dict[str, Any]]:
    """Warm up with a round of each, then let them take turns, in another order each time; yield name -> its answer."""
    for name, side in sides.items():
        side.ask("run", steps=steps[name])
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        yield {name: sides[name].ask("run", steps=steps[name]) for name in names[first:] + names[:first]}


def common_options(
    description: str | None, *, sizes: Collection[str], default: Sequence[str]
) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=sizes, default=list(default))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cuda", default="", help="the GPU to use, as in CUDA_VISIBLE_DEVICES; default: the CPU")
    return parser


def speed(took: dict[str, Any]) -> float:
    """Return real frames or tokens per second."""
    per_s: float = took["frames"] / took["seconds"]
    return per_s


def write_results(name: str, results: Sequence[dict[str, Any]], *, started: datetime) -> Path:
    """Write what was measured, with the day and the commit."""
    document = {
        "date": started.isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else ""),
        "results": list(results),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path.relative_to(HERE.parents[1])


def stamp(started: datetime) -> str:
    return f"{started:%Y%m%d-%H%M}"


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()
