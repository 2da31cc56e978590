"""The learned clip after an export: read back from the files, compared with memory, measured and spoken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ttstrain import registry
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.upstream import SUFFIXES, open_checkpoint
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.data import Clip
from ttstrain.contract.task import Audio, Mean, Prompt, Task
from ttstrain.data.audio import read_clip
from ttstrain.errors import UserError
from ttstrain.export.choose import gather
from ttstrain.export.write import Exported, load_exporter
from ttstrain.export.write import export as write
from ttstrain.judge.waveform import RATE
from ttstrain.judge.words import content, retrieve
from ttstrain.modules import lora
from ttstrain.prove.finding import Finding
from ttstrain.prove.learning import Learned
from ttstrain.prove.material import Material
from ttstrain.tensors.loading import load_weights
from ttstrain.train import checkpointing
from ttstrain.train.evaluation_loop import EVALUATION_SEED, evaluating
from ttstrain.train.run import Run

FULL, HALF = 1e-4, 2e-2  # of the largest output, after files in full and in half precision
HALVES = (torch.float16, torch.bfloat16)


def clip_losses(task: Task, batches: Sequence[Any], *, device: torch.device, seconds: float = math.inf) -> list[float]:
    """Return the evaluation loss of each batch, with the same noise each time; of the first ones if time is short."""
    found: list[float] = []
    started = perf_counter()
    with evaluating(task):
        for batch in batches:
            if found and (perf_counter() - started) / len(found) * (len(found) + 1) > seconds:
                break
            value = task.evaluate(batch.to(device), torch.Generator().manual_seed(EVALUATION_SEED))["total"]
            found.append(float(value.total / value.count) if isinstance(value, Mean) else float(value))
    return found


# ---------------------------------------------------------------- the files


def export_and_reread(material: Material, place: Path) -> tuple[Finding, Task | None]:
    """Export the net as `ttstrain export` does and build it again from nothing but the files.

    Returns the finding and the net that was read, None where there is none.
    """
    run = material.run
    run.task.to("cpu").eval()
    if registry.find_task(run.plan.recipe.task).load_exporter() is None:
        return Finding("export", "skipped", "this task has no exporter"), None
    checkpointing.save(run)
    run.store.wait()
    try:
        exported = write(gather(run.folder, weights="online", training=False), place)
    except UserError as error:
        return Finding("export", "FAULT", f"the net could not be exported: {error.lines[0]}"), None
    opened = _open(exported)
    fresh = registry.find_task(run.plan.recipe.task).build(run.plan.recipe.model).eval().float()
    load_weights(fresh.exported(), {**_not_exported(fresh, opened), **opened.weights}, source=opened.title)
    return _compare(run, exported, opened, fresh), fresh


def _open(exported: Exported) -> OpenedCheckpoint:
    """Open the files of weights as any upstream file is opened."""
    files = [name for name in exported.files if name.endswith(SUFFIXES)]
    return merge([open_checkpoint(exported.folder / name) for name in files])


def _not_exported(task: Task, opened: OpenedCheckpoint) -> dict[str, Tensor]:
    patterns = [entry.pattern for entry in opened.absent if entry.to_train_only]
    own = task.exported().state_dict()
    return {key: tensor for key, tensor in own.items() if any(fnmatchcase(key, pattern) for pattern in patterns)}


def _compare(run: Run, exported: Exported, opened: OpenedCheckpoint, fresh: Task) -> Finding:
    live = lora.merged_state_dict(run.task.exported(), dtype=torch.float32)
    differing = [key for key, stored in opened.weights.items() if not _same(live.get(key), stored.read())]
    numbers: dict[str, Any] = {"tensors": len(opened.weights), "differing": len(differing)}
    if differing:
        return Finding(
            "export",
            "FAULT",
            f"{len(differing)} of {len(opened.weights)} exported tensors are not those in memory, such as "
            f"`{differing[0]}`",
            numbers,
        )
    probe = load_exporter(run.plan.recipe.task).probe
    limit = HALF if any(stored.dtype in HALVES for stored in opened.weights.values()) else FULL
    expected, found = probe(run.task).float(), probe(fresh).float()
    off = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)
    numbers["difference"] = off
    if not off <= limit:
        said = f"the net that was read from the export computes other outputs: {off:.2g} of the largest"
        return Finding("export", "FAULT", said, numbers)
    said = f"{len(opened.weights)} tensors read back equal, outputs within {off:.1g} of those in memory"
    return Finding("export", "ok", "; ".join([said, *exported.proven]), numbers)


def _same(own: Tensor | None, stored: Tensor) -> bool:
    return own is not None and own.shape == stored.shape and torch.equal(own.to("cpu", stored.dtype), stored)


# ---------------------------------------------------------------- what was learned


def check_learned(
    material: Material, learned: Learned, before: Sequence[float], after: Sequence[float], *, told: str
) -> Finding:
    """Judge by evaluation losses whether the clip was learned, and more than the others; `told` names the net."""
    numbers = {
        "losses": learned.losses,
        "before": {clip.id: loss for clip, loss in zip(material.clips[: len(before)], before, strict=True)},
        "after": {clip.id: loss for clip, loss in zip(material.clips[: len(after)], after, strict=True)},
    }
    gains = [1 - late / early for early, late in zip(before, after, strict=True)]
    own, others = gains[0], gains[1:]
    said = f"{told}: {learned.steps} steps on `{material.clips[0].id}` lowered its loss by {own:.0%}"
    if not own > 0:
        said = f"{told}: {learned.steps} steps on one clip raised its loss by {-own:.0%}"
        return Finding("learned", "FAULT", said, numbers)
    if not others:
        return Finding("learned", "ok", f"{said}; there is no other clip to compare with", numbers)
    if own <= max(others):  # a net that makes sound of tokens may gain as much on clips that are easier
        said = f"undecided: {said}, that of another clip, never trained on, by {max(others):.0%}"
        return Finding("learned", "skipped", said, numbers)
    most = f"fell by {max(others):.0%} at most" if max(others) >= 0 else f"rose by {-max(others):.0%} or more"
    return Finding("learned", "ok", f"{said}; those of {len(others)} other clips {most}", numbers)


# ---------------------------------------------------------------- what it says


def check_spoken(material: Material, task: Task) -> Finding:
    """Say whether the learned clip's words are the nearest to what is heard, as the judge hears words."""
    clips = list(material.clips)
    if len(clips) < 3:
        return Finding("spoken", "skipped", f"{len(clips)} clips are too few to compare sounds")
    learned, reference, *others = clips
    prompt = Prompt(
        learned.text,
        reference=_sound(reference, material.prepared.task_data.sample_rate),
        reference_text=reference.text,
        speaker=learned.speaker,
        language=learned.language,
        seed=0,
    )
    try:
        with evaluating(task):
            sample = task.sample(prompt)
    except UserError as error:
        return Finding("spoken", "skipped", f"this net cannot speak here: {error.lines[0]}")
    spoken = content(sample.audio)
    if spoken is None:
        return Finding("spoken", "skipped", "undecided: less than 0.3 s of speech is heard after so few steps")
    recorded = {clip.id: content(_sound(clip, RATE)) for clip in (learned, *others)}
    candidates = {name: frames for name, frames in recorded.items() if frames is not None}
    if learned.id not in candidates or len(candidates) < 2:
        return Finding("spoken", "skipped", "the recordings hold less than 0.3 s of speech, too little to compare")
    found = retrieve(spoken, list(candidates.values()), own=list(candidates).index(learned.id))
    numbers: dict[str, Any] = {"rank": found.rank, "margin": found.margin, "num_clips": found.num_candidates}
    among = f"of {found.num_candidates} clips"
    if found.rank == 1:
        return Finding("spoken", "ok", f"its words are nearest to the learned clip's, {among}", numbers)
    return Finding(
        "spoken",
        "skipped",
        f"undecided: the learned clip's words are only number {found.rank} {among} by their distance to what is "
        "heard; so few steps need not be understood",
        numbers,
    )


def _sound(clip: Clip, rate: int) -> Audio:
    return Audio(read_clip(clip, rate), rate)
