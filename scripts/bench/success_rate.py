"""Count how often one minute of speech makes a voice: runs that end finite, learn and do not collapse.

    python scripts/bench/success_rate.py --data ONE_VOICE --base-data ANOTHER_VOICE --seeds 5

Takes about a minute of a folder of recordings, trains a base of the same small nets on other recordings unless `--base`
names one, and fine-tunes it once for each seed, arm (success_arms.py) and factor of the learning rates. A run counts as

    finite      it came to its end, and its losses and held-out losses are numbers
    learns      the held-out losses of GPT and VAE, added up, come to lie 1 % below the base's
    holds       the last held-out loss of either is no more than 5 % above the base's, and the VAE's KL is still there
    succeeds    all three

Four clips are held out, others for each seed. Tokens come from random encoders, and a text says little of them: of the
GPT, what can be told is whether it holds. Runs go on side by side, one on each core.

The base trains on another voice, so that there is something to learn. Results are added to a JSON file as they come:
the same command goes on where it was stopped, and more `--seeds` add to what is there. The file also holds every run's
gradient norms, of which the last lines compare the first steps with and without warmup.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch
from sides import git, utc_now
from success_arms import SMALL, STEP, Training, arms
from worker import device_name

from ttstrain.checkpoint import pointers
from ttstrain.contract.data import Clip
from ttstrain.data import atomic
from ttstrain.data.audit import audit
from ttstrain.data.manifest import total_hours
from ttstrain.data.readers import read_rows
from ttstrain.data.workers import start_pool
from ttstrain.errors import DivergedError
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import DataConfig
from ttstrain.runs.new import start
from ttstrain.tracking import jsonl

RESULTS = Path(__file__).with_name("results")
QUIET = ("sample.every=null", "tracking.wandb=off", "checkpoint.keep_last=1", "train.measure_every=1")
LEARNT, LOST = 0.99, 1.05  # of the base's held-out loss
COLLAPSED_KL = 0.05  # nats a frame ...
COLLAPSED_SHARE = 0.1  # ... or a tenth of the base's, where that is less
NORMS = 1000  # steps whose gradient norms are kept
NORM = "optim/grad_norm/"


# ---------------------------------------------------------------- data and base


def choose(path: Path, seconds: float, *, shortest: float = 1.0) -> list[Clip]:
    """Take clips in order until they make up so many seconds."""
    chosen: list[Clip] = []
    for clip in audit(read_rows(str(path)), DataConfig(path=str(path))).clips:
        if clip.duration_s >= shortest and sum(one.duration_s for one in chosen) + clip.duration_s <= seconds:
            chosen.append(clip)
    return chosen


def write_table(path: Path, clips: Sequence[Clip]) -> Path:
    rows = [
        {"audio_file": str(clip.path.resolve()), "text": clip.text, "speaker": clip.speaker, "language": clip.language}
        for clip in clips
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_base(data: Path, work: Path, *, steps: int) -> Path:
    """Train the small nets on other recordings; a base that is there is taken."""
    place = work / "base"
    if not (place / "checkpoints" / pointers.LAST).is_file():
        schedule = "optim.schedule={kind: cosine, warmup_steps: 0.1, end_factor: 0.1}"
        lrs = ("optim.lr=1e-3", "optim.groups.0.lr=1e-3")
        training = Training("joint", "gpt_sovits_one_minute", (schedule, *lrs, "~train.early_stop"))
        with quietly(work / "base.log"):
            train(training, data, place, base=None, steps=steps, seed=0)
    return place


def train(training: Training, data: Path, place: Path, *, base: Path | None, steps: int, seed: int) -> None:
    """Run to the end, whatever it is."""
    given = [
        SMALL[training.task],
        *STEP,
        *QUIET,
        *training.overrides,
        f"data.path={json.dumps(str(data))}",
        f"base={json.dumps(str(base)) if base is not None else 'null'}",
        f"train.steps={steps}",
        f"train.seed={seed}",
        f"eval.every={max(steps // 5, 1)}",
        f"checkpoint={{every: {steps}, keep_last: 1}}",
        f"name={place.name}",
        f"run_dir={json.dumps(str(place.parent))}",
    ]
    start(compose(training.recipe, given))


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Send what runs print to a file."""
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield


# ---------------------------------------------------------------- judging


def judge(place: Path, *, ended: bool) -> dict[str, Any]:
    """Say what became of a run, from its metrics."""
    rows = jsonl.read(place / jsonl.FILE_NAME)
    evals = [row for row in rows if "eval/loss/total" in row]
    losses = [value for row in rows for key, value in row.items() if key.startswith(("train/loss/", "eval/loss/"))]
    nets = [key for key in ("eval/loss/gpt", "eval/loss/vae") if evals and key in evals[0]] or ["eval/loss/total"]
    courses = {key.rpartition("/")[2]: [row[key] for row in evals] for key in nets}
    kls = [row["eval/loss/kl"] for row in evals if "eval/loss/kl" in row]
    finite = ended and len(evals) > 1 and all(map(math.isfinite, losses))
    has_kl = not kls or kls[-1] >= min(COLLAPSED_KL, COLLAPSED_SHARE * kls[0])
    return {
        "finite": finite,
        "holds": finite and has_kl and all(course[-1] <= LOST * course[0] for course in courses.values()),
        "held_out": {net: [_rounded(loss) for loss in course] for net, course in courses.items()},
        "kl": [_rounded(kl) for kl in kls],
        "skipped": max((int(row["guard/skipped"]) for row in rows if "guard/skipped" in row), default=0),
        "grad_norms": _norms(rows),
    }


def _norms(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return each optimizer's and each group's gradient norms, before clipping, of the first steps."""
    found: dict[str, list[float | None]] = {}
    for row in [row for row in rows if any(key.startswith(NORM) for key in row)][:NORMS]:
        for key, value in row.items():
            if key.startswith((NORM, "optim/group_norm/")):
                name = key.removeprefix(NORM).removeprefix("optim/group_norm/")
                found.setdefault(name, []).append(_rounded(value))
    return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None  # JSON has no NaN


# ---------------------------------------------------------------- all runs


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed, in a process of its own."""

    arm: str
    factor: float
    seed: int
    half: bool
    table: Path
    base: Path
    steps: int
    work: Path


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Make the runs that the file does not hold yet."""
    clips = choose(options.data, options.seconds)
    table = write_table(work / "minute.jsonl", clips)
    base = options.base
    if base is None:
        base_table = write_table(work / "base.jsonl", choose(options.base_data, options.base_seconds))
        base = make_base(base_table, work, steps=options.base_steps)
    about = {
        "data": options.data.name,
        "seconds": round(3600 * total_hours(clips), 1),
        "clips": len(clips),
        "base": options.base.name
        if options.base is not None
        else f"{options.base_data.name}, {options.base_steps} steps",
        "steps": options.steps,
    }
    results = _read(options.results, about)
    made = {(run["arm"], run["lr_factor"], run["seed"]) for run in results["runs"]}
    wanted = [
        Job(name, factor, seed, options.half, table, base, options.steps, work)
        for seed in range(options.seeds)
        for factor in options.lr_factors
        for name in options.arms.split(",")
        if (name, factor, seed) not in made
    ]
    with start_pool(options.jobs, None) as pool:  # one thread each, and gone when this process is
        for done in as_completed([pool.submit(carry_out, job) for job in wanted]):
            where = {
                "date": utc_now().isoformat(timespec="seconds"),
                "device": device_name(torch.device("cpu")),
                "commit": git("rev-parse", "--short", "HEAD"),
            }
            results["runs"].append(run := done.result() | where)  # a file may hold runs of several commits
            results |= where
            _write(options.results, results)
            print(_line(run), flush=True)
    return results


def carry_out(job: Job) -> dict[str, Any]:
    """Train what an arm consists of, and say what became of it."""
    started = perf_counter()
    parts = {}
    for training in arms(job.factor, half=job.half)[job.arm].runs:
        place = job.work / f"{job.arm}-{job.factor:g}-{job.seed}-{training.task}"
        shutil.rmtree(place, ignore_errors=True)  # of a call that was stopped
        ended = True
        with quietly(job.work / f"{place.name}.log"):
            try:
                train(training, job.table, place, base=job.base, steps=job.steps, seed=job.seed)
            except DivergedError:
                ended = False
        parts[training.task] = judge(place, ended=ended)
    key = {"arm": job.arm, "lr_factor": job.factor, "seed": job.seed}
    return {**key, "took_s": round(perf_counter() - started, 1), **verdict(parts), "tasks": parts}


def verdict(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Judge the trainings of an arm together."""
    finite = all(part["finite"] for part in parts.values())
    courses = [course for part in parts.values() for course in part["held_out"].values()]
    sums = [sum(losses) for losses in zip(*courses, strict=True)] if finite else []
    learns = finite and min(sums[1:]) < LEARNT * sums[0]
    holds = all(part["holds"] for part in parts.values())
    return {"finite": finite, "learns": learns, "holds": holds, "succeeds": finite and learns and holds}


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return {"about": dict(about), "runs": []}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results["about"] != about:
        raise SystemExit(
            f"error: `{path}` is about {results['about']}, and this would be {about}: give another --results"
        )
    return results


def _write(path: Path, results: Mapping[str, Any]) -> None:
    """Write a line for every run, so that its hundreds of norms do not fill the screen."""
    head = {name: value for name, value in results.items() if name != "runs"}
    runs = ",\n".join(json.dumps(run) for run in results["runs"])
    atomic.write_text(path, f'{json.dumps(head)[:-1]}, "runs": [\n{runs}\n]}}\n')


def _courses(run: Mapping[str, Any]) -> dict[str, list[float]]:
    """Map GPT and VAE to the course of their held-out losses, whether trained in one run or in two."""
    return {
        task if net == "total" else net: course
        for task, part in run["tasks"].items()
        for net, course in part["held_out"].items()
    }


def _line(run: Mapping[str, Any]) -> str:
    told = ", ".join(what if run[what] else f"NOT {what}" for what in ("finite", "learns", "holds"))
    held_out = "; ".join(f"{net} {course[0]} to {course[-1]}" for net, course in _courses(run).items() if course)
    who = f"{run['arm']:13} lr x {run['lr_factor']:<5g} seed {run['seed']}"
    return f"{who}: {told} ({held_out}) in {run['took_s']:.0f} s"


# ---------------------------------------------------------------- tables


def show(results: Mapping[str, Any]) -> None:
    """Print how many runs of each arm succeed, and what warmup does to the first gradients."""
    runs = results["runs"]
    factors = sorted({run["lr_factor"] for run in runs})
    names = list(dict.fromkeys(run["arm"] for run in runs))
    print(f"\n{'lr x':>6} {'arm':14}{'succeed':>10}{'GPT':>10}{'VAE':>10}   held-out loss at the end, median change")
    for factor in factors:
        for name in names:
            if own := [run for run in runs if (run["arm"], run["lr_factor"]) == (name, factor)]:
                share = f"{sum(run['succeeds'] for run in own)} of {len(own)}"
                changes = "".join(f"{_change(own, net):>10}" for net in ("gpt", "vae"))
                print(f"{factor:6g} {name:14}{share:>10}{changes}")
    for factor in factors:
        with_it, without = _norms_with_and_without_warmup(runs, factor)
        for kind, measured in (("mean", fmean), ("median", median)):
            if with_it and without:
                change = 100 * (measured(with_it) / measured(without) - 1)
                print(
                    f"{kind} gradient norm of the first steps at lr x {factor:g}: {measured(with_it):.4g} with warmup, "
                    f"{measured(without):.4g} without ({change:+.0f} %)"
                )


def _change(runs: Sequence[Mapping[str, Any]], net: str) -> str:
    courses = [_courses(run)[net] for run in runs if run["finite"]]
    return f"{100 * (median(course[-1] / course[0] for course in courses) - 1):+.1f} %" if courses else "-"


def _norms_with_and_without_warmup(runs: Sequence[Mapping[str, Any]], factor: float) -> tuple[list[float], list[float]]:
    """Return the norms of the nets' optimizer over the seeds that both have; what is not finite is left out."""
    found: dict[str, dict[int, list[float]]] = {"ours": {}, "no-warmup": {}}
    for run in runs:
        if run["arm"] in found and run["lr_factor"] == factor:
            norms = run["tasks"]["joint"]["grad_norms"].get("model", ())
            found[run["arm"]][run["seed"]] = [norm for norm in norms if norm is not None]
    seeds = found["ours"].keys() & found["no-warmup"].keys()
    with_it, without = ([norm for seed in sorted(seeds) for norm in of[seed]] for of in found.values())
    return with_it, without


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="recordings of one voice, of which a minute is taken")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--base", type=Path, help="weights of the small nets to start from")
    parser.add_argument("--base-data", type=Path, help="other recordings, to train a base on")
    parser.add_argument("--base-seconds", type=float, default=600.0)
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--arms", default=",".join(arms(1.0, half=False)))
    parser.add_argument("--lr-factors", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm, with the seeds from 0 on")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    parser.add_argument("--half", action="store_true", help="train upstream's arm in fp16, as it does on a GPU")
    parser.add_argument("--work", type=Path, help="keep the runs here; default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS / "success-rate-small.json")
    options = parser.parse_args(arguments)
    if options.base is None and options.base_data is None:
        parser.error("give `--base`, or `--base-data` to train one on")
    if unknown := set(options.arms.split(",")) - set(arms(1.0, half=False)):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    options = parse_options()
    with contextlib.ExitStack() as stack:
        work = options.work
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        print({name: asdict(arm)["what"] for name, arm in arms(1.0, half=options.half).items()}, file=sys.stderr)
        print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        show(measure(options, work))


if __name__ == "__main__":
    main()
