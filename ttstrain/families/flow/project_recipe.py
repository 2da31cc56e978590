"""Converts the web tool's `setting.json` to a recipe, with the original value and the reason beside every key.

What upstream would do with the settings is computed as it does: warmup over the given updates from 1e-8 of the LR, then
down to 1e-8 of it over the rest, where it stays. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow.config import HOP_LENGTH, SAMPLE_RATE
from ttstrain.families.flow.project_files import (
    SETTINGS,
    TOKENIZERS,
    WebSettings,
    choose,
    project_data,
    read_durations,
    read_settings,
    vocab_settings,
)
from ttstrain.recipe.emit import emit

CONFIGS = {
    "F5TTS_v1_Base": "models/f5_v1_base",
    "F5TTS_Base": "models/f5_v0_base",
    "E2TTS_Base": "models/e2_base",
    "F5TTS_v1_Small": "models/f5_v1_small",
    "F5TTS_Small": "models/f5_v0_small",
    "E2TTS_Small": "models/e2_small",
}
LRS = (1e-7, 2e-4)  # of a fine-tune; the published nets were trained at 7.5e-5
USUAL_LR = 1e-5
MOST_EPOCHS = 500.0  # more than any data set of an hour needs; the web tool's auto settings ask for 1e4 and more
CLIP_LIMITS = (0.3, 30.0)  # seconds, as upstream's reading filters
USUAL_FRAMES = 3200


@dataclass(slots=True)
class _Mapped:
    """Recipe values under their dotted keys, and a remark for each."""

    values: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # settings without a key, and why

    def put(self, key: str, value: Any, remark: str) -> None:
        self.values[key] = value
        self.remarks[key] = remark


def recipe_of(folder: Path) -> str | None:
    """Write the recipe of a project's `ckpts` folder; None when there is no `setting.json` in it."""
    settings = read_settings(folder)
    if settings is None:
        return None
    data = _data_of(folder, settings)
    seconds = [] if data is None else [s for s in read_durations(data) if CLIP_LIMITS[0] <= s <= CLIP_LIMITS[1]]
    mapped = _Mapped()
    _map_model(mapped, settings, folder, data)
    frames = _map_batches(mapped, settings, seconds)
    updates = _updates(settings, seconds, frames)
    _map_length(mapped, settings, updates)
    _map_lr(mapped, settings, updates)
    _map_rest(mapped, settings)
    return _text(mapped, settings)


def _data_of(folder: Path, settings: WebSettings) -> Path | None:
    found = project_data(folder)
    kind = settings.word("tokenizer_type")
    named = [data for data in found if data.name == f"{folder.name}_{kind}"]
    return next(iter(named or found), None)


# ---------------------------------------------------------------- parts


def _map_model(mapped: _Mapped, settings: WebSettings, folder: Path, data: Path | None) -> None:
    name = settings.word("exp_name")
    if name not in CONFIGS:
        raise RecipeError(
            f"`exp_name` in `{settings.path}` is `{name}`, which is not a net of F5-TTS",
            hint=f"known: {', '.join(CONFIGS)}",
        )
    mapped.put("extends", [CONFIGS[name]], f"exp_name {name}")
    mapped.put("task", "flow", "")
    try:
        chosen = choose(folder)
    except CheckpointError as error:
        chosen = None
        mapped.left_out.append(error.message)
    given = settings.word("file_checkpoint_train")
    if chosen is not None:
        mapped.put("base", str(chosen.path), chosen.why)
    elif given:
        mapped.put("base", given, "file_checkpoint_train")
    else:
        mapped.left_out.append("no checkpoint in the folder: give the published weights with `--base`")
    if data is None:
        expected = " or ".join(f"{folder.name}_{kind}" for kind in TOKENIZERS)
        mapped.left_out.append(f"no data at ../../data/{expected}: give them with `--data`")
        return
    mapped.put("data.path", str(data), "prepared by upstream's tool")
    for key, value in vocab_settings(data).items():
        mapped.put(key, value, f"the project's own, in {data.name}")


def _map_batches(mapped: _Mapped, settings: WebSettings, seconds: Sequence[float]) -> float:
    """Return the frames of a micro-batch as upstream counts them."""
    size, kind = settings.number("batch_size_per_gpu"), settings.word("batch_size_type") or "frame"
    mean = SAMPLE_RATE / HOP_LENGTH * sum(seconds) / len(seconds) if seconds else 0.0
    longest = SAMPLE_RATE / HOP_LENGTH * max(seconds, default=0.0)
    if size is None or size < 1 or (kind == "sample" and not mean):
        frames, remark = float(USUAL_FRAMES), f"batch_size_per_gpu {settings.values.get('batch_size_per_gpu')}"
    elif kind == "sample":
        frames, remark = size * mean, f"{size:g} clips of {mean:,.0f} frames"
    else:
        frames, remark = size, "batch_size_per_gpu"
    if frames < longest:
        remark += f", raised: the longest clip has {longest:,.0f} frames and upstream drops it silently"
        frames = longest + 1
    mapped.put("data.batch_frames", math.ceil(frames), remark)
    clips = settings.number("max_samples")
    if clips is not None and clips >= 1:
        mapped.put("data.max_clips", int(clips), "max_samples")
    accumulate = settings.number("grad_accumulation_steps")
    if accumulate is not None and accumulate > 1:
        mapped.put("train.accumulate", int(accumulate), "grad_accumulation_steps")
    return frames


def _updates(settings: WebSettings, seconds: Sequence[float], frames: float) -> int | None:
    """Estimate how many updates upstream would have made; None without durations."""
    epochs, accumulate = settings.number("epochs"), settings.number("grad_accumulation_steps") or 1.0
    if not seconds or epochs is None or epochs < 1:
        return None
    batches = max(1, math.ceil(SAMPLE_RATE / HOP_LENGTH * sum(seconds) / frames))
    return math.ceil(batches / max(1.0, accumulate)) * int(epochs)


def _map_length(mapped: _Mapped, settings: WebSettings, updates: int | None) -> None:
    epochs = settings.number("epochs")
    told = "" if updates is None else f", about {updates:,} updates"
    if epochs is not None and 1 <= epochs <= MOST_EPOCHS:
        mapped.put("train.epochs", epochs if epochs % 1 else int(epochs), f"epochs{told}")
        return
    why = "no number" if epochs is None else f"{epochs:,.0f}{told}: so many that the LR would hardly decay"
    mapped.put("train.steps", "auto", f"from the hours of data. epochs was {why}")


def _map_lr(mapped: _Mapped, settings: WebSettings, updates: int | None) -> None:
    lr = settings.number("learning_rate")
    if lr is not None and LRS[0] <= lr <= LRS[1]:
        mapped.put("optim.lr", lr, "learning_rate")
    else:
        why = (
            "no number"
            if lr is None
            else f"{lr:g}, which {'would not train' if lr < LRS[0] else 'would ruin the base'}"
        )
        mapped.put("optim.lr", USUAL_LR, f"usual for a fine-tune; learning_rate was {why}")
        lr = USUAL_LR
    mapped.put("optim.schedule.kind", "cosine", f"upstream decays to {1e-8 * lr:.0e}")
    mapped.put("optim.schedule.end_factor", 0.1, "")
    warmup = settings.number("num_warmup_updates")
    if warmup is None or warmup < 0:
        mapped.put("optim.schedule.warmup_steps", "auto", "num_warmup_updates was not a number")
    elif mapped.values.get("train.steps") == "auto" or updates is None:
        mapped.put("optim.schedule.warmup_steps", "auto", f"num_warmup_updates was {warmup:,.0f}")
    elif warmup >= updates / 2:
        reached = min(1.0, updates / warmup) if warmup else 1.0
        effect = f"would end at {reached:.0%} of the peak" if warmup >= updates else "is most of the run"
        mapped.put("optim.schedule.warmup_steps", "auto", f"num_warmup_updates {warmup:,.0f} of {updates:,} {effect}")
    else:
        mapped.put("optim.schedule.warmup_steps", int(warmup), "num_warmup_updates")


def _map_rest(mapped: _Mapped, settings: WebSettings) -> None:
    norm = settings.number("max_grad_norm")
    if norm is not None and norm > 0:
        mapped.put("optim.max_grad_norm", norm, "max_grad_norm")
    if settings.values.get("bnb_optimizer") is True:
        mapped.put("optim.kind", "adamw8bit", "bnb_optimizer")
    precision = settings.word("mixed_precision")
    if precision == "fp16":
        mapped.put(
            "train.precision",
            "auto",
            "bf16 where the GPU supports it; mixed_precision was fp16, which gives NaN more often",
        )
    elif precision in ("bf16", "none", "no"):
        mapped.put("train.precision", "bf16" if precision == "bf16" else "fp32", f"mixed_precision {precision}")
    keep = settings.number("keep_last_n_checkpoints")
    if keep is not None and keep >= 1:
        mapped.put("checkpoint.keep_last", int(keep), "keep_last_n_checkpoints")
    elif keep is not None:
        mapped.left_out.append(f"keep_last_n_checkpoints {keep:g}: ttstrain keeps the last two and the best")
    if settings.number("save_per_updates") is not None:
        mapped.left_out.append(
            f"save_per_updates {settings.values['save_per_updates']} and last_per_updates "
            f"{settings.values.get('last_per_updates')}: ttstrain saves ten times per run, in the background"
        )
    logger = settings.word("logger")
    if logger == "tensorboard":
        mapped.put("tracking.tensorboard", True, "logger")
    if logger in ("none", "tensorboard"):
        mapped.put("tracking.wandb", "off", f"logger {logger}")


# ---------------------------------------------------------------- text


def _text(mapped: _Mapped, settings: WebSettings) -> str:
    nested: dict[str, Any] = {}
    for key, value in mapped.values.items():
        *sections, last = key.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    head = [
        f"# For: going on with the F5-TTS project `{settings.path.parent.name}`, from its {SETTINGS}.",
        "# Data: what the project was prepared from.",
        "# Hardware and time: as before; `ttstrain plan` says more.",
        "# Measured: not measured yet",
        *(f"# Left out: {line}" for line in mapped.left_out),
    ]
    return "\n".join(head) + "\n" + emit(nested, lambda key: mapped.remarks.get(key) or None)
