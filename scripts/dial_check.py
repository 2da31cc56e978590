"""Measure the dial between base and fine-tune on several voices: how much forgetting is undone, and what it costs.

    python scripts/dial_check.py WORK --voices package:voice DATA/speaker1 DATA/speaker2 --retention OTHERS

Each voice fine-tunes the recipe's base once, without as many of its clips as are judged: sentences that were trained on
lose more with every blend. Then `ttstrain eval --blend` lets blends say the sentences held out, and measures the loss
on OTHERS, speech of other voices. Both are the public command line in processes of their own, on one
thread. What is in WORK already is not made again.

    reached   a blend undoes half of the forgetting and keeps 98 % of the fine-tune's voice similarity

Writes WORK/dial.json and prints the table, for each voice and blend: voice similarity and its share of the fine-tune's,
words, loss on OTHERS, share of the forgetting undone. Exit code 1: a voice did not reach it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttstrain.judge.dial import MOST_LOST

HALF = 0.5  # of the forgetting
HEAD = "| voice | blend | similarity | of the fine-tune's | words | loss on others | forgetting undone |"


def run(*arguments: str, log: Path) -> None:
    """Run ttstrain, keeping what it prints; ends this program with it where the command fails."""
    command = [sys.executable, "-m", "ttstrain", *arguments]
    print("  " + " ".join(arguments), flush=True)
    with log.open("w", encoding="utf-8") as said:
        done = subprocess.run(command, check=False, stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"exit code {done.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}")


def measure(work: Path, voice: str, given: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune to a voice and turn the dial; returns what `ttstrain eval --json` wrote."""
    name = "of-" + voice.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    folder, found = work / name, work / f"{name}.json"
    if not (folder / "checkpoints" / "last").exists():
        settings = [f"data.path={voice}", f"name={name}", f"run_dir={work}"]
        settings += [f"data.holdout={given.sentences}", *given.set]
        run("finetune", given.recipe, *settings, log=work / f"{name}.train.log")
    if not found.exists():
        blends = ",".join(f"{blend:g}" for blend in given.blends)
        evaluated = ["--blend", blends, "--retention", given.retention, "--sentences", str(given.sentences)]
        run("eval", str(folder), *evaluated, "--json", str(found), log=work / f"{name}.eval.log")
    result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))["dial"]
    return {"voice": name, **result}


def reached(dial: dict[str, Any]) -> dict[str, Any] | None:
    """Return the blend that undoes most among those that keep the similarity, if it undoes half; None otherwise."""
    kept = [one for one in dial["blends"] if one["blend"] > 0 and (one["likeness"] or 0) >= 1 - MOST_LOST]
    best = max(kept, key=lambda one: one["undone"] or 0, default=None)
    return best if best is not None and (best["undone"] or 0) >= HALF else None


def table(dials: Sequence[dict[str, Any]]) -> str:
    """Write the blends of all voices as Markdown."""
    lines = [HEAD, "|---" * 7 + "|"]
    for dial in dials:
        for one in dial["blends"]:
            cells = (
                dial["voice"],
                f"{one['blend']:g}",
                _figure(one["voice"], ".2f"),
                _share(one["likeness"]),
                _figure(one["words"], ".2f"),
                _figure(one["retention"], ".3f"),
                _share(one["undone"]),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(interval: dict[str, float] | None, form: str) -> str:
    return "-" if interval is None else format(interval["mean"], form)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--voices", nargs="+", required=True, help="folders that the base never heard")
    parser.add_argument("--retention", required=True, help="speech of other voices")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--blends", type=float, nargs="+", default=[0, 0.5, 0.7, 0.85, 1])
    parser.add_argument("--sentences", type=int, default=8)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the fine-tunes")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    dials = [measure(given.work, voice, given) for voice in given.voices]
    (given.work / "dial.json").write_text(json.dumps(dials, indent=1), encoding="utf-8", newline="\n")
    print(table(dials))
    for dial in dials:
        one = reached(dial)
        told = "not reached" if one is None else f"blend {one['blend']:g} undoes {one['undone']:.0%}"
        print(f"{dial['voice']}: {told}")
    return 0 if all(reached(dial) for dial in dials) else 1


if __name__ == "__main__":
    sys.exit(main())
