"""A run's folder as a run leaves it, written by hand: for what reads run folders, in milliseconds and without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttstrain.bands.band import Band, Curves
from ttstrain.bands.compare import Place
from ttstrain.bands.facts import Facts
from ttstrain.bands.outcome import Outcome, write_outcome

RATE = 16_000
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \u2028 ]]> <!-- fill: style -->"
STEPS = 60
SCHEDULE = {"warmup_steps": 6, "warmup_start": 0.1, "kind": "cosine", "end_factor": 0.1}
RECIPE: dict[str, Any] = {
    "name": "made",
    "task": "toy",
    "base": "bases/toy",
    "data": {"path": EVIL, "workers": 0},
    "optim": {"lr": 1e-3, "max_grad_norm": 1.0, "groups": [], "schedule": SCHEDULE},
    "stages": [],
    "sample": {"every": "auto"},
}


def write_run(folder: Path, *, name: str = "made", lr: float = 1e-3, steps: int = STEPS) -> Path:
    """Write a run with losses, samples, a verdict, an incident, a warning and clip lists."""
    folder.mkdir(parents=True)
    recipe = {**RECIPE, "name": name, "optim": {**RECIPE["optim"], "lr": lr}}
    plan = {
        "name": name,
        "recipe": recipe,
        "origins": {"optim.lr": "recipe", "data.path": "command line", "task": "configs/toy"},
        "steps": STEPS,
        "steps_per_epoch": 7.5,
        "stages": [],
        "warmup_steps": 6,
        "sample_every": 20,
        "groups": [group("net/default", lr)],
        "num_parameters": 1234,
        "num_trained": 1234,
        "data": {"padding_share": 0.1, "overlong": ["long-1"], "texts": None},
    }
    _write_json(folder / "plan.json", plan)
    _write_json(folder / "env.json", {"ttstrain": "0", "started": "2026-01-02T03:04:05", "command": ["finetune", EVIL]})
    write_metrics(folder, [row(step) for step in range(steps + 1)])
    _write_json(
        folder / "incidents" / "00000031-spike.json",
        {"step": 31, "kind": "spike", "action": "skip", "loss": "nan", "grad_norm": 7.5, "clips": [EVIL], "notes": []},
    )
    warning = {"time": "2026-01-02", "step": 12, "warning": EVIL}
    (folder / "warnings.jsonl").write_text(json.dumps(warning) + "\n", encoding="utf-8")
    write_data(folder)
    for step in range(0, steps + 1, 20):
        write_samples(folder, step)
    return folder


def group(key: str, lr: float) -> dict[str, Any]:
    optimizer, _, name = key.partition("/")
    return {
        "optimizer": optimizer,
        "name": name,
        "lr": lr,
        "weight_decay": 0.0,
        "schedule": SCHEDULE,
        "frozen": False,
        "layer_decay": None,
    }


def row(step: int) -> dict[str, Any]:
    values: dict[str, Any] = {"step": step}
    if step:
        values |= {
            "train/loss/total": 1 + 1 / step,
            "optim/lr/net/default": 1e-3,
            "optim/grad_norm/net": 0.5 + (step == 32) * 7,
            "time/step_s": 0.1,
            "time/data_s": 0.0,
            "perf/frames_per_s": 1000.0,
            "guard/skipped": 0,
        }
    if step % 10 == 0:
        values |= {"eval/loss/total": math.exp(-step / 30), "eval/loss/t0": 0.5, "eval/ema_loss/total": 0.9}
    if step % 20 == 0:
        values |= {"judge/voice": 0.5 + step / 200, "judge/base_voice": 0.5, "sample/mel_distance/mean": 2 - step / 100}
    return values


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


FACTS = Facts("toy", "", 3, "i", "t", "p", "s", {}, {}, 10, {}, {})
"""What a run that was compared with `BAND` began with."""
BAND = Band(
    "small",
    50,
    FACTS,
    [
        Curves(
            seed,
            {
                "train/loss/total": {step: (1 + 1 / step) * (1 + 0.05 * seed) for step in range(1, 51)},
                "optim/grad_norm/net": dict.fromkeys(range(1, 51), 2.0 + seed),
                "eval/loss/total": {0: 1.0, 50: 0.2 + 0.01 * seed},
            },
        )
        for seed in (0, 1, 2)
    ],
    {},
)


def write_comparison(folder: Path, *, place: Place | None = "inside") -> None:
    """Write how the run lies beside `BAND`: its training loss inside, its gradient norm below; None: not yet."""
    write_outcome(folder, Outcome("small", FACTS, place=place, step=50, sentences=("it was compared",)))
    if place is not None:
        positions = {"band/train/loss/total": 0.4, "band/optim/grad_norm/net": -1.7}
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        write_metrics(folder, [{**one, **(positions if one["step"] == 50 else {})} for one in rows])


def write_data(folder: Path) -> None:
    """Write the clip lists, and the recording of the one held-out clip, twice as loud and with a lead."""
    recording = folder / "recording.wav"
    soundfile.write(recording, np.concatenate([np.zeros(RATE // 2), tone(1.0)]), RATE)
    treatment = {"channel": 0, "gain": 0.5, "offset": 0.0, "start": RATE // 2, "end": RATE // 2 + RATE}
    clips = [
        {
            "id": f"clip-{number}",
            "path": str(recording),
            "text": EVIL if number == 0 else "an ordinary text",
            "speaker": EVIL,
            "duration_s": 1.0 + number,
            "sample_rate": RATE,
            "treatment": treatment,
        }
        for number in range(4)
    ]
    (folder / "data").mkdir()
    for name, some in (("held_out", clips[:1]), ("train", clips[1:])):
        text = "".join(json.dumps(clip) + "\n" for clip in some)
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    left_out = {"id": "bad", "source": "a.csv:3", "action": "skip", "reason": "too short", "why": EVIL}
    (folder / "data" / "quarantine.jsonl").write_text(json.dumps(left_out) + "\n", encoding="utf-8")


def write_samples(folder: Path, step: int) -> None:
    place = folder / "samples" / f"step-{step:08d}"
    place.mkdir(parents=True)
    said = ("online", "base") if step == 0 else ("online", "ema", "base")
    suffixes = {"online": "", "ema": ".ema", "base": ".base"}
    entry: dict[str, Any] = {"name": "clip-0", "text": EVIL, "voice": "", "voice_text": "", "recorded_s": 1.0}
    for weights in said:
        file = f"clip-0{suffixes[weights]}.wav"
        soundfile.write(place / file, tone(1.0 + step / 100), RATE, subtype="PCM_16")
        entry[weights] = {"file": file, "seconds": 1.0 + step / 100, "mel_distance": 1.5, "duration_ratio": 1.0}
    _write_json(place / "numbers.json", {"step": step, "previews": [entry]})


def tone(duration_s: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    times = np.arange(round(duration_s * RATE)) / RATE
    return 0.4 * np.sin(2 * np.pi * 440 * times)


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
