"""Measure what a large manifest costs: the plan, the first batch, a resume at a late step, and memory over batches.

    manifest_scale.py --rows 10000 100000 1000000 [--kind given|measured] [--table jsonl|csv] [--folder FOLDER]

Rows name hard links to the 96 recordings of the demo, a thousand to a folder, each row with an id of its own. `given`:
the table has each recording's duration, and texts are words of the demo in random order. `measured`: it has none, so
every recording is decoded, and each has its own text. A first plan starts with an empty cache, a second one follows.
Times are seconds by the clock, `cpu_s` of the processor, imports included; memory is the peak of a process in MB.
Writes JSON to scripts/bench/results.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "ttstrain" / "_demo"
RESULTS = ROOT / "scripts" / "bench" / "results"
RECIPE = "from_scratch"
IN_A_FOLDER = 1000
LATE_EPOCH = 20
DRAWN = 2000  # micro-batches
SETTINGS = ("data.batch_frames=1000", "data.max_clips=2", "data.features=disk")  # small: the demo's clips have 4 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000])
    parser.add_argument("--kind", choices=["given", "measured"], default="given")
    parser.add_argument("--table", choices=["jsonl", "csv"], default="jsonl")
    parser.add_argument("--folder", type=Path, help="where the manifests are kept; default: a temporary one")
    parser.add_argument("--only", choices=["plan", "draw"], help="default: both")
    parser.add_argument("--step", choices=["plan", "draw"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(_plan(given.folder) if given.step == "plan" else _draw(given.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        found = [_measure(folder, rows, given.kind, given.table, given.only) for rows in given.rows]
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "kind": given.kind,
        "table": given.table,
        "recipe": [RECIPE, *SETTINGS],
        "sizes": found,
    }
    name = f"manifest-scale-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{given.kind}-{given.table}.json"
    (RESULTS / name).write_text(json.dumps(document, indent=1) + "\n")
    print(RESULTS / name)


def _measure(folder: Path, rows: int, kind: str, table: str, only: str | None) -> dict[str, Any]:
    place = folder / f"{kind}-{table}-{rows}"
    path = write_manifest(place, rows, durations=kind == "given", table=table)
    found: dict[str, Any] = {"rows": rows, "manifest_mb": round(path.stat().st_size / 1e6, 1)}
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "TTSTRAIN_CACHE": cache, "OMP_NUM_THREADS": "1"}
        for name, step in (("first_plan", "plan"), ("second_plan", "plan"), ("training", "draw")):
            if only in (None, step):
                command = [sys.executable, str(Path(__file__)), "--step", step, "--folder", str(path)]
                done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
                if done.returncode:  # otherwise it only says, a thousand times, that features are not there yet
                    raise SystemExit(f"{done.stderr[-3000:]}\nerror: {' '.join(command)} failed")
                found[name] = json.loads(done.stdout.splitlines()[-1])
                print(rows, name, found[name], flush=True)
    return found


# ---------------------------------------------------------------- the manifest


def write_manifest(folder: Path, count: int, *, durations: bool, table: str) -> Path:
    """Write a manifest of `count` rows and link its recordings; one that is there already is kept."""
    path = folder / f"metadata.{table}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(folder, count, durations=durations)
    with path.with_suffix(".part").open("w", encoding="utf-8", newline="") as file:
        if table == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            first = next(rows)
            writer = csv.DictWriter(file, first, lineterminator="\n")
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)
    path.with_suffix(".part").rename(path)
    return path


def _rows(folder: Path, count: int, *, durations: bool) -> Iterator[dict[str, Any]]:
    import soundfile

    demo = [json.loads(line) for line in (DEMO / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [soundfile.info(str(DEMO / row["audio"])).duration for row in demo]
    words = sorted({word for row in demo for word in row["text"].rstrip(".?!").split()})
    draw = random.Random(0)
    for i in range(count):
        row = demo[i % len(demo)]
        name = f"clips/{i // IN_A_FOLDER:04d}/{i:07d}.ogg"
        target = folder / name
        if i % IN_A_FOLDER == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
        os.link(_own_copy(folder, DEMO / row["audio"], i), target)
        text = row["text"]
        if durations:
            text = " ".join(draw.choice(words) for _ in text.split()) + "."
        written = {"id": f"row-{i:07d}", "audio": name, "text": text, "speaker": row["speaker"], "language": "en"}
        yield {**written, "duration": seconds[i % len(demo)]} if durations else written


def _own_copy(folder: Path, recording: Path, number: int) -> Path:
    """Return a copy that has few enough links: ext4 allows 65,000 of one file."""
    copy = folder / ".recordings" / f"{number // 1_000_000}-{recording.name}"
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(recording.read_bytes())
    return copy


# ---------------------------------------------------------------- in a process of its own


def _plan(path: Path) -> dict[str, Any]:
    from ttstrain.plan.facts import gather_facts
    from ttstrain.plan.resolve import parse, resolve
    from ttstrain.recipe.compose import compose, with_flags

    began = time.perf_counter()
    composed = with_flags(compose(RECIPE, list(SETTINGS)), data=path)
    recipe = parse(composed)
    facts = gather_facts(recipe)
    made = resolve(recipe, origins=composed.origins, facts=facts, world_size=1, source_name=composed.name)
    took = time.perf_counter() - began
    figures = {"seconds": round(took, 2), "cpu_s": round(time.process_time(), 2), "peak_mb": _peak_mb()}
    return {**figures, "clips": made.facts.num_clips}


def _draw(path: Path) -> dict[str, Any]:
    """Open the loader as training does, without computing all features first: those of a batch are made on the way."""
    from ttstrain.data.loader import Loader
    from ttstrain.data.split import split_data
    from ttstrain.plan.facts import audit_data
    from ttstrain.plan.resolve import parse
    from ttstrain.recipe.compose import compose, with_flags
    from ttstrain.train.prepare import open_cache

    began = time.perf_counter()
    recipe = parse(with_flags(compose(RECIPE, list(SETTINGS)), data=path))
    audited = audit_data(recipe, lengths="given")  # of the true length, though not trimmed
    split = split_data(audited.data.clips, [], recipe.data, seed=0)
    cache = open_cache(recipe, place="disk")
    found: dict[str, Any] = {"audited_s": round(time.perf_counter() - began, 2)}

    def loader() -> Any:
        data = recipe.data
        return Loader(
            cache, split.train, cache.task_data, batch_frames=data.batch_frames, max_clips=data.max_clips, seed=0
        )

    began = time.perf_counter()
    first = loader()
    first.next()
    found["first_batch_s"] = round(time.perf_counter() - began, 2)
    state = {**first.state_dict(), "epoch": LATE_EPOCH, "index": first.batches_per_epoch // 2}
    began = time.perf_counter()
    first.state_dict()
    found["state_s"] = round(time.perf_counter() - began, 2)
    began = time.perf_counter()
    resumed = loader()
    resumed.load_state_dict(state)
    resumed.next()
    found["resume_s"] = round(time.perf_counter() - began, 2)
    found["batches_per_epoch"] = resumed.batches_per_epoch
    del first
    memory = [_resident_mb()]
    began = time.perf_counter()
    for number in range(1, DRAWN + 1):
        resumed.next()
        if number % (DRAWN // 20) == 0:
            memory.append(_resident_mb())
    found["batch_ms"] = round(1000 * (time.perf_counter() - began) / DRAWN, 2)
    return {**found, "resident_mb": memory, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
