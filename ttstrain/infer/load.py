"""Load any checkpoint as a task that generates speech, and read texts and reference voices."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from ttstrain import documents, registry
from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.meta import check_vocab
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import Absent
from ttstrain.contract.task import Audio, Task
from ttstrain.data.audio import read_clip
from ttstrain.data.decode import decode
from ttstrain.data.manifest import read_manifest
from ttstrain.data.other_formats import what_it_is
from ttstrain.data.reference import choose_reference
from ttstrain.data.transcript import CleanText, misfit, readable
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.export.choose import gather
from ttstrain.places import expanded
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import COMMAND_LINE, RUN_RECIPE, Composed, Removed, parse_override
from ttstrain.recipe.schema import TrainConfig
from ttstrain.recipe.shipped import base_path
from ttstrain.tensors.hub import HUB
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import read_tree
from ttstrain.train.device import choose_device
from ttstrain.weights import WeightsChoice

DEVICE = ("train", "device")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A task with its weights, in eval mode on its device."""

    task: Task
    run: Path | None  # the run of ours that the weights are from
    vocoder: str
    lines: tuple[str, ...]  # description of what was loaded, for the user


@dataclass(frozen=True, slots=True)
class Voice:
    """The voice to generate."""

    audio: Audio
    text: str
    name: str
    speaker: str = ""
    notes: tuple[str, ...] = ()  # warnings about it, for the user


@dataclass(frozen=True, slots=True)
class Line:
    """One text of a batch, and the voice it asks for."""

    name: str
    text: str
    ref_audio: Path | None = None
    ref_text: str = ""
    notes: tuple[str, ...] = ()  # warnings about parts of the text that are not read as written


# ---------------------------------------------------------------- the speaker


def load_model(
    spec: str,
    overrides: Sequence[str],
    *,
    weights: WeightsChoice = "auto",
    recipe: str | None = None,
    blend: float | None = None,
    base: Sequence[str] = (),
) -> LoadedModel:
    """Load a run, a checkpoint of ttstrain, an exported folder or an upstream file, to generate speech.

    `overrides` are `model.*=...` and `train.device=...`. `blend` and `base` are those of `gather`, for a run or its
    checkpoint. Raises CheckpointError when an upstream file does not tell its architecture and no `recipe` is given.
    """
    changes = _changes(overrides)
    asked = _Asked(weights, recipe, blend, tuple(base))
    if spec.startswith(HUB):
        return _open(spec, changes, asked)
    place = base_path(spec)
    return retried(place, lambda: _open(spec, dict(changes), asked), prefer="best")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The user's choice of weights."""

    weights: WeightsChoice
    recipe: str | None
    blend: float | None
    base: tuple[str, ...]


def _open(spec: str, changes: dict[tuple[str, ...], Any], asked: _Asked) -> LoadedModel:
    path = resolve_base(spec)
    own = pointers.is_checkpoint(path)
    weights = asked.weights
    if own or asked.recipe is not None:
        source = gather(path, weights=weights, recipe=asked.recipe, training=False, blend=asked.blend, base=asked.base)
        task_name, section, tensors = source.task, source.config.model_dump(mode="json"), source.weights
        absent, versions, warnings = source.absent, source.versions, source.warnings
        told = f"{source.chosen} weights of {source.name}, step {source.step:,}: {source.reasons[0]}"
    else:
        opened = open_checkpoint(path)
        if open_keys := [key for key in opened.unknown if ("model", key) not in changes]:
            settings = " ".join(f"model.{key}=..." for key in open_keys)
            raise CheckpointError(
                f"`{path}` does not say which model it is: {opened.model}",
                hint=f"add `--recipe RECIPE` whose `model:` describes it, or give {settings}",
            )
        task_name, section, absent = opened.task, {**opened.config, **opened.section}, opened.absent
        versions, warnings = opened.front_end, ()
        if opened.vocab is not None:
            section["vocab"] = str(opened.vocab)
        if weights == "ema" and opened.ema is None:
            raise CheckpointError(f"`{path}` has no EMA weights", hint="use `--weights online`")
        if weights == "online" and opened.ema_only:
            raise CheckpointError(f"`{path}` holds EMA weights only", hint="use `--weights ema`")
        averaged = weights == "ema" and opened.ema is not None
        tensors = read_tree(opened.ema if averaged else opened.weights)
        kind = "EMA weights" if averaged or opened.ema_only else "raw weights"
        told = f"the {kind} of {path.name}: {opened.model} {opened.version}"
    device_name = changes.pop(DEVICE, "auto")
    checked = parse(_composed(task_name, section, changes))
    front_end = registry.planner_of(checked).front_end()
    check_vocab(versions, {} if front_end is None else front_end.versions, source=str(path))
    task = registry.find_task(task_name).build(checked.model)
    load_weights(task.exported(), {**_unneeded(task, absent), **tensors}, source=str(path))
    device = choose_device(str(device_name), tf32=TrainConfig().tf32)
    task.to(device).eval()
    run = path.parent.parent if own and (path.parent.parent / RUN_RECIPE).is_file() else None
    return LoadedModel(task=task, run=run, vocoder=task.prepare_sampling(), lines=(*warnings, told))


def _unneeded(task: Task, absent: Sequence[Absent]) -> dict[str, Tensor]:
    """Return the weights that inference does not need and that a file may lack, at their initial values."""
    patterns = [entry.pattern for entry in absent if entry.to_train_only]
    own: Mapping[str, Tensor] = task.exported().state_dict()
    return {name: tensor for name, tensor in own.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _changes(overrides: Sequence[str]) -> dict[tuple[str, ...], Any]:
    changes: dict[tuple[str, ...], Any] = {}
    for text in overrides:
        path, value = parse_override(text)
        if isinstance(value, Removed) or (path[0] != "model" and path != DEVICE) or len(path) < 2:
            raise RecipeError(
                f"`sample` does not use `{text}`", hint="`sample` takes `model.sampling.*=...` and `train.device=...`"
            )
        changes[path] = value
    return changes


def _composed(task: str, section: Mapping[str, Any], changes: Mapping[tuple[str, ...], Any]) -> Composed:
    """Apply the command line's values to a complete `model:` section."""
    values: dict[str, Any] = {"task": task, "model": json.loads(json.dumps(section))}
    for path, value in changes.items():
        at: Any = values
        for number, key in enumerate(path[:-1], start=1):
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                raise RecipeError(
                    f"`{'.'.join(path[:number])}` is not a section", hint="`ttstrain schema` lists the keys"
                )
        at[path[-1]] = value
    places = {".".join(path): COMMAND_LINE for path in changes}
    return Composed(values, dict.fromkeys(places, COMMAND_LINE), places, Path("sample"))


# ---------------------------------------------------------------- voices


def read_voice(path: Path, text: str) -> Voice:
    """Read a reference recording; clean its transcript as training does. Raises DataError if either is unusable."""
    if not path.is_file():
        raise DataError(f"the reference `{path}` does not exist")
    try:
        decoded = decode(path)
    except (OSError, soundfile.LibsndfileError) as error:
        kind = what_it_is(path) if os.access(path, os.R_OK) else None
        raise DataError(
            f"the reference `{path}` {f'is {kind}' if kind else f'cannot be read: {error}'}",
            hint="WAV, FLAC, OGG and MP3 files are read",
        ) from error
    if not text.strip():
        raise DataError(f"the reference `{path}` has no transcript", hint="give its exact words as `--ref-text`")
    cleaned = readable(text, what=f"the text of the reference `{path}`")
    notes = [f"the text of `{path.name}`: {why}" for why in _changes_of(cleaned)]
    if why := misfit(cleaned.text, len(decoded.samples) / decoded.sample_rate):
        notes.append(f"the text of `{path.name}` does not match the recording: {why}; pace and length depend on both")
    audio = Audio(torch.from_numpy(decoded.samples.mean(axis=1)), decoded.sample_rate)
    return Voice(audio, cleaned.text, path.name, notes=tuple(notes))


def voice_of_run(run: Path) -> Voice | None:
    """Choose a held-out clip of the run, or a training clip where none was held out; None without any."""
    for name in ("held_out", "train"):
        manifest = run / "data" / f"{name}.jsonl"
        clips = read_manifest(manifest) if manifest.is_file() else []
        clip = choose_reference(clips, apart_from=None)
        if clip is not None:
            try:
                wav = read_clip(clip, clip.sample_rate)
            except DataError as error:
                raise DataError(
                    f"the run's own {error.message}", hint="give a voice: `--ref-audio FILE --ref-text '...'`"
                ) from error
            said = f"{name.replace('_', '-')} clip {clip.id}"
            return Voice(Audio(wav, clip.sample_rate), clip.text, said, speaker=clip.speaker)
    return None


# ---------------------------------------------------------------- texts


_START = 100  # characters that tell a list of texts from a web page


def read_lines(path: Path) -> list[Line]:
    """Read what to say: JSON lines, a table with a header (`.tsv`), or else one text per line.

    The fields are `text`, `name`, `ref_audio` and `ref_text`; paths are relative to the file. Raises DataError that
    names the line.
    """
    content = documents.read_text(path, error=DataError, most_bytes=documents.MAX_TABLE)
    if (other := documents.never_fetched(content[:_START].encode())) is not None:
        raise DataError(f"`{path}` cannot be read: it is {other}")
    rows = _rows(path, content)
    lines = [_line(path, number, row) for number, row in rows]
    if not lines:
        raise DataError(f"`{path}` holds no text")
    names = Counter(line.name for line in lines)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"`{path}` has several texts with the name `{min(twice)}`")
    return lines


def _rows(path: Path, content: str) -> list[tuple[int, Mapping[str, Any]]]:
    numbered = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if path.suffix in (".jsonl", ".json"):
        rows: list[tuple[int, Mapping[str, Any]]] = []
        for number, line in numbered:
            try:
                row = documents.parse(line)
            except documents.DocumentError as error:
                raise DataError(f"{path}:{number} cannot be read: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number} is not a JSON object", hint='such as {"text": "Hello."}')
            rows.append((number, row))
        return rows
    if path.suffix == ".tsv":
        if not numbered:
            return []
        header = numbered[0][1].split("\t")
        if "text" not in header:
            raise DataError(
                f"{path}:1 has no column `text`", hint="the first line names the columns, with tabs between"
            )
        table = [(number, line.split("\t")) for number, line in numbered[1:]]
        if long := next((number for number, row in table if len(row) > len(header)), None):
            raise DataError(
                f"{path}:{long} has more cells than line 1 names columns", hint=f"the columns: {', '.join(header)}"
            )
        # A row may have fewer columns than the header; the missing fields are not given.
        return [(number, dict(zip(header, row, strict=False))) for number, row in table]
    return [(number, {"text": line.strip()}) for number, line in numbered]


_FIELDS = ("text", "name", "ref_audio", "ref_text")


def _line(path: Path, number: int, row: Mapping[str, Any]) -> Line:
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise DataError(f"{path}:{number} has an unknown field `{unknown[0]}`", hint=f"known: {', '.join(_FIELDS)}")
    if bad := next((key for key, value in row.items() if not isinstance(value, str)), None):
        raise DataError(f"{path}:{number}: `{bad}` is not a string")
    if not row.get("text", "").strip():
        raise DataError(f"{path}:{number} has no text")
    name = row.get("name") or f"{number:04d}"
    if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise DataError(f"{path}:{number}: `{name}` is not a valid file name")
    audio = row.get("ref_audio")
    line = line_of(name, row["text"], where=f"{path}:{number}")
    return replace(
        line,
        ref_audio=path.parent / expanded(audio) if audio else None,
        ref_text=row.get("ref_text", ""),
    )


def line_of(name: str, text: str, *, where: str) -> Line:
    """Clean a text as training does. Raises DataError if the cleaned text is empty."""
    cleaned = readable(text, what=where)
    return Line(name, cleaned.text, notes=_changes_of(cleaned))


def _changes_of(cleaned: CleanText) -> tuple[str, ...]:
    return tuple(repair.why for repair in cleaned.repairs if repair.action == "fix")
