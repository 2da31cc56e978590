"""Prove that the judge judges rightly: spoil real fine-tunes, run healthy ones, and see what it says of each.

    python scripts/judge_proof.py WORK --voices package:voice DATA/speaker1 DATA/speaker2 [--only NAME ...]

Planted, each in a fine-tune of RECIPE's base to the first of the voices (`--everywhere`: to each of them):

    lr           30 times the recipe's learning rate
    pace         every clip 1.3 times as fast, at the same pitch
    speaker      the clips of another speaker (the next voice, or the synthetic `package:demo`)
    transcripts  every clip with the text of another one
    ema          EMA with decay 0.9999 from the first step on, without the warm-up that ttstrain gives it
    steps        10 times as many steps

The plan refuses the first and, for a short run, the fifth. The table says so; its limits are lifted for these runs.

Healthy: `--healthy` runs of the recipe as it is, with the voices and seeds in turn.

A run's own judge knows the run's own recordings only, so that it cannot hear a fault of the data. For these the weights
of the last step are given to `ttstrain eval --data` with the true recordings. The pace of speech follows that of its
prompt: there the true recordings are compared with what is said after a clip that the run was trained on, as a user
would prompt it.

Each run is the public command line in a process of its own, on one thread. What was said of it is kept in
WORK/results/NAME.json; the same command takes results of the same base and settings from there, and goes on with a run
that was interrupted. WORK/proof.json holds everything, WORK/proof.md the table. Exit code 1: a run failed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from judge_findings import (
    GAVE_UP,
    Fault,
    Loss,
    Said,
    decide,
    of_json,
    read_loss,
    said_by_eval,
    said_in_run,
    summary,
    table,
    to_json,
)
from planted_speech import plant_pace, plant_speaker, plant_transcripts

from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.contract.task import Audio, Prompt
from ttstrain.data import atomic
from ttstrain.data.audio import read_clip
from ttstrain.data.reference import choose_reference
from ttstrain.judge import evaluate as judge
from ttstrain.judge.listen import Ears
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.tracking import jsonl

SCRIPTS = Path(__file__).resolve().parent
SPEED = 1.3
TIMES_LR, TIMES_STEPS = 30, 10
SLOW_EMA = 0.9999
DIVERGED = 5  # exit code of a run that gave up: that is a result
OTHER_VOICE = "package:demo"
OF_DATA: tuple[Fault, ...] = ("pace", "speaker", "transcripts")
PLANTED: tuple[Fault, ...] = ("lr", *OF_DATA, "ema", "steps")


@dataclass(frozen=True)
class Settings:
    """What all runs share."""

    recipe: str
    base: str
    steps: int
    sentences: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One run, and what is planted in it."""

    name: str  # of its files
    title: str  # for people
    fault: Fault | None
    voice: str  # the true recordings
    other: str = OTHER_VOICE
    seed: int = 0

    def steps(self, settings: Settings) -> int:
        return settings.steps * (TIMES_STEPS if self.fault == "steps" else 1)


def arms(voices: Sequence[str], *, healthy: int, everywhere: bool) -> list[Arm]:
    """List the planted runs, then the healthy ones with the voices and seeds in turn."""
    found = []
    for number, voice in enumerate(voices if everywhere else voices[:1]):
        other = voices[(number + 1) % len(voices)] if len(voices) > 1 else OTHER_VOICE
        for fault in PLANTED:
            title = f"{TITLES[fault]}, {short(voice)}"
            found.append(Arm(f"{fault}-{short(voice)}", title, fault, voice, other=other))
    for number in range(healthy):
        voice, seed = voices[number % len(voices)], 1 + number // len(voices)
        title = f"healthy, {short(voice)}, seed {seed}"
        found.append(Arm(f"healthy-{short(voice)}-{seed}", title, None, voice, seed=seed))
    return found


TITLES: Mapping[Fault, str] = {
    "lr": f"learning rate x {TIMES_LR}",
    "pace": f"clips {SPEED} times as fast",
    "speaker": "another speaker's clips",
    "transcripts": "texts exchanged",
    "ema": f"EMA of decay {SLOW_EMA} without warm-up",
    "steps": f"{TIMES_STEPS} times as many steps",
}


def short(voice: str) -> str:
    """Return a voice's name for files and people."""
    return voice.rstrip("/").replace(":", "/").rpartition("/")[2]


# ---------------------------------------------------------------- one run


def prove(arm: Arm, settings: Settings, work: Path, *, keep: bool) -> dict[str, Any]:
    """Train, listen, and return what was said; taken from the work folder where it is there already."""
    torch.set_num_threads(1)
    if (known := read_result(arm, settings, work)) is not None:
        return known
    started = time.monotonic()
    run = work / "runs" / arm.name
    data = plant(arm, work)
    code, refused = train(arm, settings, run, data=data)
    said, loss = find(arm, settings, run, data=data)
    if code == DIVERGED:
        said = replace(said, closing=f"{said.closing} {GAVE_UP}".strip())
    result = {
        "arm": arm.name,
        "title": arm.title,
        "fault": arm.fault,
        "identity": identify(arm, settings),
        "when": now(),
        "commit": commit(),
        "seconds": round(time.monotonic() - started),
        "exit_code": code,
        "refused": refused,
        **to_json(said, loss),
    }
    write_json(work / "results" / f"{arm.name}.json", result)
    if not keep and (run / pointers.CHECKPOINTS).is_dir():
        shutil.rmtree(run / pointers.CHECKPOINTS)
    return result


def identify(arm: Arm, settings: Settings) -> dict[str, Any]:
    """Return what a result depends on, but for the code."""
    digests = {"base_sha256": digest_of_base(settings.base), "voice_sha256": digest_of_voice(arm.voice)}
    names = {key: short(name) for key, name in (("voice", arm.voice), ("other", arm.other), ("base", settings.base))}
    identity = {**asdict(arm), **asdict(settings), **names, **digests}  # no paths of one machine
    as_read: dict[str, Any] = json.loads(json.dumps(identity))
    return as_read


@functools.cache
def digest_of_voice(voice: str) -> str:
    digest = hashlib.sha256()
    for clip in judge.clips_of_data(voice):
        digest.update(clip.text.encode() + b"\0" + clip.path.read_bytes())
    return digest.hexdigest()


def digest_of_base(base: str) -> str:
    digest = hashlib.sha256()
    place = resolve_base(base)
    for file in sorted(place.rglob("*.safetensors")) if place.is_dir() else [place]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def plant(arm: Arm, work: Path) -> str:
    """Return what the run is trained on."""
    place = work / "data" / arm.name
    if arm.fault == "pace":
        return str(plant_pace(arm.voice, place, speed=SPEED))
    if arm.fault == "speaker":
        return str(plant_speaker(arm.voice, place, other=arm.other))
    if arm.fault == "transcripts":
        return str(plant_transcripts(arm.voice, place))
    return arm.voice


def train(arm: Arm, settings: Settings, run: Path, *, data: str) -> tuple[int, str]:
    """Run to the end, or go on with a run that was interrupted; return its exit code, and what the plan said first.

    Raises RuntimeError where the run ends in another way than by its last step or by diverging.
    """
    steps, refused = arm.steps(settings), ""
    command = ["finetune", settings.recipe, *overrides(arm, settings, run, data=data)]
    fault = {"lr": "any_lr", "ema": "slow_ema"}.get(arm.fault or "", "none")
    log = run.with_name(f"{run.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if fault != "none":
        refused = refusal([*command, "--dry-run"])
    last = pointers.pointed(run / pointers.CHECKPOINTS, pointers.LAST)
    if last is not None and pointers.step_of(run / pointers.CHECKPOINTS / last) == steps:
        return 0, refused
    if last is None:
        shutil.rmtree(run, ignore_errors=True)
    else:
        command = ["resume", str(run)]
    with log.open("w", encoding="utf-8") as file:
        ran = subprocess.run(
            [sys.executable, str(SCRIPTS / "planted_faults.py"), fault, *command],
            stdout=file, stderr=subprocess.STDOUT, env=one_thread(), check=False,
        )  # fmt: skip
    if ran.returncode not in (0, DIVERGED):
        raise RuntimeError(f"exit code {ran.returncode}: `{log}`\n{log.read_text(encoding='utf-8')[-2000:]}")
    return ran.returncode, refused


def refusal(command: Sequence[str]) -> str:
    """Return the error of a command that is refused; empty where it is not."""
    ran = subprocess.run(
        [sys.executable, "-m", "ttstrain", *command], capture_output=True, text=True, env=one_thread(), check=False
    )
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    return errors[0].removeprefix("error: ") if ran.returncode and errors else ""


def overrides(arm: Arm, settings: Settings, run: Path, *, data: str) -> Iterator[str]:
    """List what differs from the recipe. Everything is listened to three times, and at the first step."""
    listen = max(1, settings.steps // 3) if arm.fault != "steps" else settings.steps
    yield from settings.overrides
    yield f"base={json.dumps(settings.base)}"
    yield f"data.path={json.dumps(data)}"
    yield f"name={arm.name}"
    yield f"run_dir={json.dumps(str(run.parent))}"
    yield f"train.steps={arm.steps(settings)}"
    yield f"train.seed={arm.seed}"
    yield f"eval.every={max(1, listen // 2)}"
    yield f"sample.every={listen}"
    yield f"judge={{sentences: {settings.sentences}, between: {min(4, settings.sentences)}}}"
    yield f"checkpoint={{every: {listen}, keep_last: {TIMES_STEPS + 1}, best: judge}}"
    yield "tracking.wandb=off"
    if arm.fault == "lr":
        yield f"optim.lr={TIMES_LR * parse(compose(settings.recipe, [])).optim.lr}"
    if arm.fault == "ema":
        yield f"ema.decay={SLOW_EMA}"


def find(arm: Arm, settings: Settings, run: Path, *, data: str) -> tuple[Said, Loss]:
    """Read what the run's judge said, or ask `ttstrain eval` where the run's own recordings are false."""
    loss = read_loss(jsonl.read(run / jsonl.FILE_NAME))
    last = pointers.pointed(run / pointers.CHECKPOINTS, pointers.LAST)
    if arm.fault not in OF_DATA or last is None:
        return said_in_run(run), loss
    checkpoint = run / pointers.CHECKPOINTS / last
    said = said_by_eval(evaluate(checkpoint, run / "eval.json", true=arm.voice, settings=settings), run)
    if arm.fault == "pace":
        spoken_as_trained = said_by_eval(hear(checkpoint, true=arm.voice, prompts=data, settings=settings), run)
        return replace(spoken_as_trained, by_true_prompts=said.verdict), loss
    return said, loss


def evaluate(checkpoint: Path, file: Path, *, true: str, settings: Settings) -> dict[str, Any]:
    """Ask `ttstrain eval` with the true recordings."""
    command = ["eval", str(checkpoint), "--data", true, "--base", settings.base, "--json", str(file)]
    ran = subprocess.run(
        [sys.executable, "-m", "ttstrain", *command, "--sentences", str(settings.sentences)],
        capture_output=True, text=True, env=one_thread(), check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"`ttstrain eval` ended with exit code {ran.returncode}: {ran.stderr[-2000:]}")
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def hear(checkpoint: Path, *, true: str, prompts: str, settings: Settings) -> dict[str, Any]:
    """Do what `ttstrain eval --data TRUE` does, with prompts from other recordings of the same sentences."""
    contestants, notes = judge.find_contestants([str(checkpoint)], base=settings.base)
    clips, others = judge.clips_of_data(true), judge.clips_of_data(prompts)
    sentences = []
    for sentence in judge.choose_sentences(clips, count=settings.sentences):
        reference = choose_reference([clip for clip in others if clip.text != sentence.text], apart_from=None)
        assert reference is not None
        voice = Audio(read_clip(reference, reference.sample_rate), reference.sample_rate)
        prompt = Prompt(sentence.text, voice, reference.text, speaker=sentence.speaker, language=reference.language)
        sentences.append(replace(sentence, prompt=prompt))
    panel = judge.open_panel(sentences, clips, ears=Ears.open(language=clips[0].language))
    panel.notes[:0] = notes
    return judge.to_json(judge.evaluate(contestants, sentences, panel, show=lambda _: nullcontext()))


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


# ---------------------------------------------------------------- all runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for runs and results")
    parser.add_argument("--voices", nargs="+", default=["package:voice"], metavar="DATA", help="as `data.path`")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--base", default="package:small_f5")
    parser.add_argument("--steps", type=int, default=300, help="of a run, at least 3; `steps` takes ten times as many")
    parser.add_argument("--sentences", type=int, default=8, help="that are listened to at the start and the end")
    parser.add_argument("--healthy", type=int, default=10, help="number of healthy runs")
    parser.add_argument("--everywhere", action="store_true", help="plant the faults in runs of every voice")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of a fault or a run, or its beginning")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the recipe in all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of finished runs")
    given = parser.parse_args()
    if given.steps < 3 or len({short(voice) for voice in given.voices}) < len(given.voices):
        parser.error("give at least 3 steps, and voices whose folders have different names")
    settings = Settings(given.recipe, given.base, given.steps, given.sentences, tuple(given.set))
    voices = [voice if voice.startswith("package:") else str(Path(voice).resolve()) for voice in given.voices]
    every = arms(voices, healthy=given.healthy, everywhere=given.everywhere)
    chosen = [arm for arm in every if not given.only or arm.name.startswith(tuple(given.only))]
    if not chosen:
        parser.error(f"`--only` matches none of {', '.join(arm.name for arm in every)}")
    work = given.work.resolve()
    os.environ.setdefault("TTSTRAIN_CACHE", str(work / "cache"))
    results, failed = run_all(chosen, settings, work, jobs=given.jobs, keep=given.keep)
    report(every, settings, work)
    print(f"{len(results)} of {len(chosen)} runs finished; `{work / 'proof.md'}`, `{work / 'proof.json'}`")
    return 1 if failed else 0


def run_all(
    chosen: Sequence[Arm], settings: Settings, work: Path, *, jobs: int, keep: bool
) -> tuple[list[dict[str, Any]], int]:
    """Do every run; return the results and how many failed, which the same command tries again."""
    results, failed = [], 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {pool.submit(prove, arm, settings, work, keep=keep): arm for arm in chosen}
        for done in as_completed(waiting):
            arm = waiting[done]
            try:
                results.append(done.result())
            except Exception as error:  # the other runs go on; this one has no result
                failed += 1
                print(f"error: {arm.title}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{arm.title}: {results[-1]['seconds']} s, {results[-1]['judge']['verdict']}", flush=True)
    return results, failed


def report(every: Sequence[Arm], settings: Settings, work: Path) -> None:
    """Write and print the table of every result there is of these settings and this base."""
    results = [known for arm in every if (known := read_result(arm, settings, work)) is not None]
    lines = [*table(results), "", summary(results)]
    document = {
        "when": now(),
        "commit": commit(),
        "threads": 1,
        "settings": {**asdict(settings), "base": short(settings.base)},
        "summary": summary(results),
        "runs": [{**one, "named": asdict(decide(one["fault"], of_json(one)[0]))} for one in results],
    }
    write_json(work / "proof.json", document)
    atomic.write_text(work / "proof.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def read_result(arm: Arm, settings: Settings, work: Path) -> dict[str, Any] | None:
    """Read a run's result; None where there is none of this base and these settings."""
    path = work / "results" / f"{arm.name}.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known if known.get("identity") == identify(arm, settings) else None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """Return the commit of the checkout, marked where files differ from it."""
    ran = subprocess.run(
        ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
