"""Count by ear how often one minute of one speaker makes a voice, and which setting makes the difference.

    python scripts/one_minute.py --voices VOICES/* --seeds 5 --minutes 120
    python scripts/one_minute.py --table

For each voice (a folder of recordings with texts that the base never heard) and seed, a few short clips are put aside
as judged sentences, others for each seed, and up to a minute of the rest fine-tunes the base once for each training.
The arms of `one_minute_arms` are these trainings and one set of weights each. Base and weights say the same sentences
after the same clip with the same noise, and the judge hears them.

    succeeds    the voice is closer to the speaker's than the base's by more than `--margin`, words are kept, MOS is not
                lower where `distillmos` is installed, and the judge's rule finds no other fault (`one_minute_table`)

Each arm, voice and seed is one JSON file in the work folder; one that is there is not measured again, so the same
command goes on where it was stopped. Every arm gets its first seed with every voice before any gets its second. After
`--minutes` no new training is started. `--table` prints what is there, and writes it as Markdown and JSON; with
`--earlier TABLE.json` it counts the runs of an earlier table too, whose files may be gone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from one_minute_arms import ARMS, AVERAGES, NEEDS_REPLAY, RECIPE, Average, Rates, describe, overrides
from one_minute_table import BASE, MARGIN, Result, Row, claims, found, outcome, tables, voice_gain
from one_minute_voices import Cut, cut, name_of, read_voice, write_table

from ttstrain import registry
from ttstrain.contract.data import Clip
from ttstrain.contract.task import Audio, Prompt
from ttstrain.data import atomic
from ttstrain.data.audio import read_clip
from ttstrain.digest import sha256
from ttstrain.errors import DivergedError, NoSpeechError, UserError
from ttstrain.infer.load import load_model
from ttstrain.judge.figures import Figures
from ttstrain.judge.listen import Ears, Target, listen
from ttstrain.judge.wanted import measure_wanted
from ttstrain.optim.ema import Ema
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import begin
from ttstrain.runs.processes import join_processes
from ttstrain.runs.tracked import tracked
from ttstrain.tracking.tracker import Tracker
from ttstrain.train.evaluation_loop import Pieces, evaluate_batches, evaluating, mean_losses, weighted
from ttstrain.train.loop import train
from ttstrain.train.prepare import no_progress
from ttstrain.train.run import Run

FRAMES_PER_S = 24_000 / 256
NORM_STEPS = 50  # whose gradient norms are kept
NORM = "optim/grad_norm/"
DRAWS = 4  # of noise and flow time for each clip of the held-out loss
RETAINED = 6  # clips of other voices whose loss says what is forgotten


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Job:
    """One training, and the arms that its weights serve."""

    training: str
    voice: str
    seed: int
    arms: tuple[str, ...]


def plan(arms: Sequence[str], voices: Sequence[str], seeds: int, made: Collection[tuple[str, str, int]]) -> list[Job]:
    """List what is not made yet: all arms and voices of one seed before any of the next."""
    trainings = list(dict.fromkeys(ARMS[arm].training for arm in arms))
    return [
        Job(training, voice, seed, wanted)
        for seed in range(seeds)
        for training in trainings
        for voice in voices
        if (wanted := tuple(arm for arm in arms if ARMS[arm].training == training and (arm, voice, seed) not in made))
    ]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a work folder share."""

    work: Path
    base: str
    steps: int
    frames: int
    sentences: int
    seconds: float
    rates: Rates
    replay: Sequence[Clip] = ()  # mixed in by the arm `replay`
    retained: Sequence[Clip] = ()  # whose loss is measured

    @property
    def longest_s(self) -> float:
        return self.frames / FRAMES_PER_S - 0.1

    def cut(self, clips: Sequence[Clip], *, voice: str, seed: int) -> Cut:
        options = {"seconds": self.seconds, "longest_s": self.longest_s}
        return cut(clips, voice=voice, seed=seed, sentences=self.sentences, **options)

    def file(self, arm: str, voice: str, seed: int) -> Path:
        return self.work / "results" / f"{arm}--{voice}--{seed}.json"


# ---------------------------------------------------------------- training


@dataclass(slots=True)
class Follower(Tracker):
    """A tracker that keeps the gradient norms, and an EMA for each horizon, of the raw weights of a run."""

    run: Run
    emas: Mapping[str, tuple[Average, Ema]]
    norms: list[float] = field(default_factory=list)
    step: int = 0

    @classmethod
    def of(cls, run: Run, names: Sequence[str]) -> Follower:
        def make(average: Average) -> Ema:
            at: Callable[[int], float] = lambda step: average.decay_at(step) or 0.0  # noqa: E731
            return Ema(run.task.exported(), decay=0.0, start_step=0, every=1, decay_at=at)

        return cls(run, {name: (AVERAGES[name], make(AVERAGES[name])) for name in names})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        norms = [value for key, value in values.items() if key.startswith(NORM)]
        if not norms:
            return
        if step != self.step + 1:
            raise RuntimeError(f"step {step} follows step {self.step}: the run went back")
        self.step = step
        self.norms += [max(norms)] if step <= NORM_STEPS else []
        for average, ema in self.emas.values():
            if average.decay_at(step) is not None:
                ema.update(step)

    def weights(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Put one set of weights into the task."""
        if name == "raw":
            return contextlib.nullcontext()
        ema = self.run.ema if name == "ema" else self.emas[name][1]
        if ema is None:
            raise RuntimeError("the recipe keeps no EMA")
        return ema.swapped_in(self.run.task.exported())


def given(job: Job, setting: Setting, table: Path) -> list[str]:
    """Return what is changed in the recipe: the training's settings, the data, and nothing measured by the run."""
    replay = None
    if job.training == NEEDS_REPLAY:
        replay = str(write_table(setting.work / "replay.jsonl", setting.replay))
    return [
        *overrides(job.training, steps=setting.steps, rates=setting.rates, replay=replay),
        f"data.path={json.dumps(str(table))}",
        f"base={json.dumps(setting.base)}",
        f"data.batch_frames={setting.frames}",
        f"data.cache_dir={json.dumps(str(setting.work / 'cache'))}",
        f"train.steps={setting.steps}",
        f"train.seed={job.seed}",
        "data.holdout=0",
        "eval.every=null",
        "sample.every=null",
        f"checkpoint={{every: {setting.steps}, keep_last: 1, best: null}}",
        "tracking.wandb=off",
        f"name={job.training}--{job.voice}--{job.seed}",
        f"run_dir={json.dumps(str(setting.work / 'runs'))}",
    ]


def carry_out(job: Job, setting: Setting, clips: Sequence[Clip], ears: Ears) -> list[Path]:
    """Train once, judge every set of weights that is wanted, and write a file for each; return the files."""
    split = setting.cut(clips, voice=job.voice, seed=job.seed)
    table = write_table(setting.work / "data" / f"{job.voice}--{job.seed}.jsonl", split.train, speaker=job.voice)
    composed = compose(RECIPE, given(job, setting, table))
    place = setting.work / "runs" / composed.values["name"]
    shutil.rmtree(place, ignore_errors=True)  # of a call that was stopped
    started = perf_counter()
    common = {
        "voice": job.voice,
        "seed": job.seed,
        "trained_s": round(sum(clip.duration_s for clip in split.train), 1),
        "sentences": [clip.text for clip in split.judged],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    wanted = [name for arm in job.arms if (name := ARMS[arm].weights) in AVERAGES]
    files: list[Path] = []
    with join_processes() as here:
        ready = begin(composed, composed.name, here, show=no_progress)
        follower = Follower.of(ready.run, wanted)
        ready.run.trackers.append(follower)
        panel = Panel.open(ready.run, split, setting, ears, voice=job.voice, seed=job.seed)
        if not setting.file(BASE, job.voice, job.seed).exists():
            files.append(write(setting, {"arm": BASE, **common, "ended": "done", **panel.hear(ready.run)}))
        ended, begun = "done", perf_counter()
        try:
            with tracked(ready, here) as training:
                training.status = train(ready.run, training.held_out, training.snapshots)
            if training.status != "done" or follower.step != setting.steps:
                raise SystemExit(f"stopped at step {follower.step}: {training.status}")
        except DivergedError:
            ended = "diverged"
        common |= {"ended": ended, "norms": rounded(follower.norms), "train_s": round(perf_counter() - begun, 1)}
        for arm in job.arms:
            heard: dict[str, Any] = {"figures": [], "loss": None, "retention": None, "judge_s": 0.0}
            if ended == "done":
                with follower.weights(ARMS[arm].weights):
                    heard = panel.hear(ready.run)
            files.append(write(setting, {"arm": arm, "training": job.training, **common, **heard}))
    shutil.rmtree(place, ignore_errors=True)
    print(f"{job.training}, {job.voice}, seed {job.seed}: {perf_counter() - started:.0f} s", flush=True)
    return files


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Panel:
    """The sentences of one voice and seed, and what they are heard with."""

    prompts: Sequence[Prompt]
    target: Target
    ears: Ears
    judged: Sequence[Pieces]  # held-out clips, several times
    retained: Sequence[Pieces]

    @classmethod
    def open(cls, run: Run, split: Cut, setting: Setting, ears: Ears, *, voice: str, seed: int) -> Panel:
        clips = [*split.judged, *split.train]
        speaker = clips[0].speaker
        wanted = measure_wanted(clips, texts=[clip.text for clip in split.judged], speakers=[speaker], ears=ears)
        reference = split.prompt
        audio = Audio(read_clip(reference, reference.sample_rate), reference.sample_rate)
        prompts = [
            Prompt(clip.text, audio, reference.text, speaker=voice, seed=seed, language=clip.language)
            for clip in split.judged
        ]
        return cls(
            prompts,
            wanted.targets[speaker],
            ears,
            batches(run, split.judged),
            batches(run, setting.retained),
        )

    def hear(self, run: Run) -> dict[str, Any]:
        """Let the task's present weights say every sentence; return the figures and the losses."""
        started = perf_counter()
        run.task.prepare_sampling()
        with run.rng.preserved(), evaluating(run.task):
            spoken = [say(run, prompt) for prompt in self.prompts]
        figures = [
            listen(audio, prompt.text, target=self.target, ears=self.ears)
            for audio, prompt in zip(spoken, self.prompts, strict=True)
        ]
        return {
            "figures": [{name: rounded_one(value) for name, value in one.measured().items()} for one in figures],
            "loss": loss(run, self.judged),
            "retention": loss(run, self.retained),
            "judge_s": round(perf_counter() - started, 1),
        }


def say(run: Run, prompt: Prompt) -> Audio:
    """Generate a sentence; a net that generates nothing is silent, and loses the sentence."""
    try:
        return run.task.sample(prompt).audio
    except NoSpeechError:
        return Audio(torch.zeros(0), sample_rate=24_000)


def batches(run: Run, clips: Sequence[Clip]) -> list[Pieces]:
    """Collate clips one by one, each so often that the noise of the loss averages out."""
    recipe = run.plan.recipe
    data = registry.find_task(recipe.task).data(recipe.model)
    made = [
        data.collate([data.example(clip, data.features(read_clip(clip, data.sample_rate), clip))]) for clip in clips
    ]
    return [[batch] for batch in made for _ in range(DRAWS)]


def loss(run: Run, held_out: Sequence[Pieces]) -> float | None:
    """Return the loss of the task's present weights, always with the same noise; None without clips."""
    if not held_out:
        return None
    with run.rng.preserved():
        parts = evaluate_batches(
            run.task,
            held_out,
            lambda batch, generator: weighted(run.task.evaluate(batch, generator), batch.weight),
            device=run.device,
        )
    return rounded_one(mean_losses(parts, device=run.device)["total"])


# ---------------------------------------------------------------- files


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def rounded_one(value: float) -> float:
    return float(f"{value:.5g}")


def rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values if math.isfinite(value)]  # JSON has no NaN


def write(setting: Setting, record: Mapping[str, Any]) -> Path:
    path = setting.file(record["arm"], record["voice"], record["seed"])
    atomic.write_text(path, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_results(work: Path) -> list[Result]:
    """Read every arm's files, each with its base's."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "results").glob("*.json"))]
    bases = {(record["voice"], record["seed"]): record for record in records if record["arm"] == BASE}
    results = []
    for record in records:
        base = bases.get((record["voice"], record["seed"]))
        if record["arm"] == BASE or base is None:
            continue
        results.append(
            Result(
                arm=record["arm"],
                voice=record["voice"],
                seed=record["seed"],
                ended=record["ended"],
                figures=[Figures.of_json(one) for one in record["figures"]],
                base=[Figures.of_json(one) for one in base["figures"]],
                loss=record["loss"],
                base_loss=base["loss"],
                retention=record["retention"],
                base_retention=base["retention"],
                norms=record["norms"],
                train_s=record["train_s"],
                judge_s=record["judge_s"],
                trained_s=record["trained_s"],
            )
        )
    return results


def settle(work: Path, about: Mapping[str, Any]) -> None:
    """Note down what the runs of a work folder share. Raises SystemExit where it holds runs of another kind."""
    path = work / "about.json"
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != about:
        differing = sorted(key for key in {*before, *about} if before.get(key) != about.get(key))
        raise SystemExit(f"error: `{work}` holds runs with another {', '.join(differing)}: give another --work")
    atomic.write_text(path, json.dumps(about, indent=1) + "\n")


def digest_of(base: str) -> str:
    """Return a digest of the base's weights, so that another base is not taken for it."""
    weights = load_model(base, []).task.exported().state_dict()
    total = [f"{name} {tensor.double().sum().item():.9g}" for name, tensor in sorted(weights.items())]
    return sha256("\n".join(total))[:12]


# ---------------------------------------------------------------- the program


def line(result: Result, *, margin: float) -> str:
    found_out = outcome(result, margin=margin)
    gain = voice_gain(result)
    said = "succeeds" if found_out.succeeded else f"lacks {', '.join(found_out.lacking)}"
    heard = "diverged" if gain is None else f"voice {gain:+.3f}"
    words = f"words {found(result.figures)} (base {found(result.base)}) of {len(result.base)}"
    norms = f", norm {median(result.norms):.3g}" if result.norms else ""
    return f"  {result.arm:14} {said:24} {heard}, {words}, loss {result.loss} (base {result.base_loss}){norms}"


def read_earlier(path: Path, about: Mapping[str, Any], *, margin: float) -> list[Row]:
    """Read the runs of an earlier table. Raises SystemExit where they are of another kind."""
    written = json.loads(path.read_text(encoding="utf-8"))
    theirs = {**written["about"], "margin": written["margin"]}
    ours = {**about, "margin": margin}
    if differing := sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key)):
        raise SystemExit(f"error: `{path}` is of runs with another {', '.join(differing)}")
    return [Row.of_json(run) for run in written["runs"]]


def show(work: Path, out: Path, *, earlier: Path | None, margin: float) -> None:
    """Print the tables of what is there, and write them beside a JSON. A run is counted once, by its newest result."""
    about_file = work / "about.json"
    if not about_file.exists():
        raise SystemExit(f"error: `{work}` holds no results yet")
    about = json.loads(about_file.read_text(encoding="utf-8"))
    before = read_earlier(earlier, about, margin=margin) if earlier else []
    now = [Row.of(result, margin=margin) for result in read_results(work)]
    rows = list({(row.arm, *row.key): row for row in [*before, *now]}.values())
    head = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "margin": margin}
    text = tables(rows, about, margin=margin)
    print(text)
    atomic.write_text(out.with_suffix(".md"), f"Made {head['date']} at commit {head['commit']}.\n\n{text}")
    document = {**head, "about": about, "claims": claims(rows, about)}
    body = ",\n".join(json.dumps(row.to_json()) for row in rows)
    atomic.write_text(out.with_suffix(".json"), f'{json.dumps(document)[:-1]}, "runs": [\n{body}\n]}}\n')


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Send what a run prints to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield


def measure(options: argparse.Namespace) -> None:
    """Make the runs that the work folder does not hold yet."""
    work: Path = options.work.resolve()
    others = [read_voice(place, options.language) for place in options.replay]
    retained = [clip for clips in others for clip in clips[:1]][:RETAINED]
    kept = {clip.id for clip in retained}
    setting = Setting(
        work=work,
        base=options.base,
        steps=options.steps,
        frames=options.frames,
        sentences=options.sentences,
        seconds=options.seconds,
        rates=Rates.of_recipes(options.lr_factor),
        replay=[clip for clips in others for clip in clips if clip.id not in kept],
        retained=retained,
    )
    about = {
        "base": options.base,
        "base_digest": digest_of(options.base),
        "frames": options.frames,
        "sentences": options.sentences,
        "seconds": options.seconds,
        "replay": sorted(map(name_of, options.replay)),
        **describe(options.steps, setting.rates),
    }
    settle(work, about)
    voices = {name_of(place): read_voice(place, options.language) for place in options.voices}
    made = {
        tuple(json.loads(path.read_text())[key] for key in ("arm", "voice", "seed"))
        for path in (work / "results").glob("*.json")
    }
    jobs = plan(options.arms, list(voices), options.seeds, made)
    for job in jobs:  # before an hour is spent
        setting.cut(voices[job.voice], voice=job.voice, seed=job.seed)
    ears = replace(Ears.open(language=options.language, transcribe=False), detector=None)  # pitch decides nothing here
    for note in ears.notes:
        print(f"note: {note}")
    started = perf_counter()
    for number, job in enumerate(jobs, start=1):
        if perf_counter() - started > 60 * options.minutes:
            print(f"{options.minutes:g} minutes are over: {len(jobs) - number + 1} trainings are left")
            return
        with quietly(work / "logs" / f"{job.training}--{job.voice}--{job.seed}.log"):
            carry_out(job, setting, voices[job.voice], ears)
        for result in read_results(work):
            if result.key == (job.voice, job.seed) and result.arm in job.arms:
                print(line(result, margin=options.margin), flush=True)
    print(f"all {options.seeds} seeds are there")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--voices",
        nargs="+",
        default=[],
        help="folders, each with one speaker's recordings and texts; or `package:voice`",
    )
    parser.add_argument("--arms", help=f"names with commas between, of: {', '.join(ARMS)}; default: all")
    parser.add_argument("--seeds", type=int, default=5, help="for each voice and arm")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these, no training is started")
    parser.add_argument("--work", type=Path, default=Path("runs/one_minute"), help="where results are kept")
    parser.add_argument("--replay", nargs="+", default=[], help="folders of voices that the base knows")
    parser.add_argument("--base", default="package:small_f5")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--frames", type=int, default=1600, help="in a step, padding included")
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech to train on, at most")
    parser.add_argument("--sentences", type=int, default=5, help="that are judged")
    parser.add_argument("--lr-factor", type=float, default=1.0, help="of all learning rates")
    parser.add_argument("--language", default="en")
    parser.add_argument("--margin", type=float, default=MARGIN, help="of voice similarity, for success")
    parser.add_argument("--table", action="store_true", help="print the results so far, and write them")
    parser.add_argument("--earlier", type=Path, help="the JSON of an earlier --table, whose runs are counted too")
    parser.add_argument("--out", type=Path, help="files of --table, without an ending; default: in the work folder")
    options = parser.parse_args(arguments)
    default = [arm for arm in ARMS if arm != NEEDS_REPLAY or options.replay]
    options.arms = options.arms.split(",") if options.arms else default
    if unknown := [arm for arm in options.arms if arm not in ARMS]:
        parser.error(f"unknown arm `{unknown[0]}`: {', '.join(ARMS)}")
    if NEEDS_REPLAY in options.arms and not options.replay:
        parser.error("the arm `replay` needs `--replay` with voices that the base knows")
    if not options.table and not options.voices:
        parser.error("give voices with `--voices`, or ask for `--table`")
    return options


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    try:
        if options.table:
            show(options.work, options.out or options.work / "table", earlier=options.earlier, margin=options.margin)
        else:
            measure(options)
    except UserError as error:
        raise SystemExit(f"error: {error.message}") from error


if __name__ == "__main__":
    main()
