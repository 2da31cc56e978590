"""Say how far processes are apart that train together from one that trains alone, for every family's own task.

    python scripts/ranks_parity.py [--steps 2] [RECIPE ...]

Each smoke recipe's task takes the same steps on the same global batch: in one process, on two and four processes with
whole copies, and on two and four that hold its weights in two shards. Noise is the same for every clip and dropout is
off, so that only the order of sums differs. Prints a table: the largest difference from one process in fp32, of weights
and their averages, of a learned codebook and of AdamW's state, each as a share of its tensor's largest value, or of 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from processes import Processes
from ranked_tasks import KINDS, Stepped, step_alone, step_on_shares
from subjects import SMOKE_RECIPES

WAYS = ((2, 1), (4, 1), (2, 2), (4, 2))  # processes and shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=SMOKE_RECIPES, metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    print(f"| recipe | processes | held as | {' | '.join(KINDS)} |")
    print(f"|{'---|' * (3 + len(KINDS))}")
    for recipe in given.recipes:
        with tempfile.TemporaryDirectory() as folder:
            alone = Path(folder, "alone.pt")
            step_alone(recipe, [], given.steps, into=alone)
            for count, shard in WAYS:
                most = farthest(step(recipe, given.steps, count, shard, alone))
                cells = [f"`{recipe}`", str(count), "whole copies" if shard == 1 else f"shard: {shard}"]
                cells += [f"{most[kind]:.1e}" if most[kind] else "0" for kind in KINDS]
                print(f"| {' | '.join(cells)} |", flush=True)


def step(recipe: str, steps: int, count: int, shard: int, alone: Path) -> list[Stepped]:
    """Take the steps in processes of their own, which leave no memory behind. Raises what one of them raised."""
    processes = Processes(count, timeout_s=600.0)
    ranks = processes(step_on_shares, recipe, [], steps, shard, alone)
    processes.close()
    for failed in (rank for rank in ranks if isinstance(rank, BaseException)):
        raise failed
    return ranks


def farthest(ranks: Sequence[Stepped]) -> dict[str, float]:
    """Return how far the farthest rank is from the process that trained alone, by kind of state."""
    return {kind: max(rank.apart[kind] for rank in ranks) for kind in KINDS}


if __name__ == "__main__":
    main()
