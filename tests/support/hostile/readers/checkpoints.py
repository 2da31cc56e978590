"""Readers of our own checkpoints and of cached features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hostile.catalogue import Reader, Sample, files_in
from hostile.mutation import Files
from hostile.pool import Seen
from hostile.readers.tensor_files import digest_of, small_net
from hostile.tables import edit_table
from hostile.tensors import edit_safetensors
from hostile.trees import edit_json
from ttstrain.checkpoint import base_record, store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.meta import META_FILE, BaseMeta, EmaMeta, GroupMeta, Meta
from ttstrain.checkpoint.upstream import load_own, open_checkpoint
from ttstrain.data.cache import _DamagedError, _read_features, _write_features
from ttstrain.errors import CheckpointError
from ttstrain.tensors import hub

CHECKPOINT = "step-00000007"


def _own(folder: Path) -> Sequence[Sample]:
    net = small_net().state_dict()
    state = {
        "task": net,
        "ema": {"weights": {name: value.clone() for name, value in net.items()}, "updates": 7},
        "optimizers": {"model": {"0.weight": {"step": torch.tensor(7.0), "exp_avg": torch.ones(4, 6)}}},
        "progress": {"step": 7, "clips": 56, "owes_evaluation": False},
        "best": {"step": 0, "metric": "eval/loss/total", "value": 0.5},
    }
    meta = Meta(
        family="flow",
        task="flow",
        model={"dim": 4, "vocab": "v.txt"},
        recipe="r",
        step=7,
        ema=EmaMeta(present=True, step=7, decay=0.9),
        groups=(GroupMeta(optimizer="model", name="all", lr=1e-3, weight_decay=0.0, parameters=9),),
        metrics={"eval/loss/total": 0.4},
    )
    place = folder / CHECKPOINT
    store.save(place, state, meta, per_rank=[{"rng": torch.arange(8)}], texts={"vocab": "a\nb\nc\n"})
    files = {f"{CHECKPOINT}/{name}": content for name, content in files_in(place).items()}

    def edit(name: str) -> Any:
        return edit_safetensors if name.endswith("safetensors") else edit_table if name.endswith("txt") else edit_json

    names = [*files, *[name for name in files if name.endswith(".json")], f"{CHECKPOINT}/{META_FILE}"]
    return [Sample(files, name, edit(name), signed=_signed) for name in names]


def _own_adapters(folder: Path) -> Sequence[Sample]:
    """A checkpoint that leaves out what its base, the checkpoint before it, holds."""
    net = small_net().state_dict()
    base, place = folder / "step-00000001", folder / CHECKPOINT
    store.save(base, {"task": net}, Meta(family="flow", task="flow", model={"dim": 4}, recipe="r", step=1))
    record = BaseMeta(
        files=("step-00000001",),
        directory="/",
        places=("/gone",),
        from_run=("checkpoints/step-00000001",),
        sha256=base_record.checksum(open_checkpoint(base).weights),
        tensors={name: str(own.dtype).removeprefix("torch.") for name, own in net.items() if name != "0.bias"},
    )
    meta = Meta(family="flow", task="flow", model={"dim": 4}, recipe="r", step=7, base=record)
    store.save(place, {"task": {"0.bias": net["0.bias"] + 1}, "ema": {"weights": {"0.bias": net["0.bias"]}}}, meta)
    files = {f"run/checkpoints/{name}": content for name, content in files_in(folder).items()}
    at = f"run/checkpoints/{CHECKPOINT}/{META_FILE}"
    return [Sample(files, at, edit_json, signed=lambda files: _signed(files, at=at))]


def _signed(files: Files, *, at: str = f"{CHECKPOINT}/{META_FILE}") -> Files:
    """Write the size and checksum of every file into `meta.json`, and its own, as far as it can be read."""
    content = files[at]
    assert isinstance(content, bytes)
    try:
        meta = json.loads(content)
        for name, own in files.items():
            short = name.rpartition("/")[2]
            if (
                name != at
                and name.rpartition("/")[0] == at.rpartition("/")[0]
                and isinstance(own, bytes)
                and short in meta["files"]
            ):
                meta["files"][short] = {"bytes": len(own), "sha256": hashlib.sha256(own).hexdigest()}
        if "digest" not in meta:
            return files
        meta["digest"] = ""
        text = json.dumps(meta)
        text = text.replace('"digest": ""', f'"digest": "{hashlib.sha256(text.encode()).hexdigest()}"')
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return files
    return {**files, at: text.encode()}


def _read_own(folder: Path) -> Seen:
    """Load a checkpoint as `resume` does, open it as a base, and inspect it."""
    place = folder / CHECKPOINT if (folder / CHECKPOINT).exists() else folder / "run" / "checkpoints" / CHECKPOINT
    with hub.nothing_fetched():
        loaded = load_own(place)
    for name in loaded.meta.files:
        if name.endswith(".txt"):
            store.verified_text(place, loaded.meta, name)
    open_checkpoint(place)
    inspection = inspect(place)
    meta = loaded.meta.model_dump(exclude={"files", "digest"})
    return Seen(digest_of(loaded.state) + digest_of(loaded.per_rank) + repr(meta), told=bool(inspection.damaged))


def _features(folder: Path) -> Sequence[Sample]:
    _write_features(folder / "f", {"mel": torch.ones(5, 3), "ids": torch.arange(4)})
    return [Sample({"f.safetensors": (folder / "f").read_bytes()}, "f.safetensors", edit_safetensors)]


def _read_features_file(folder: Path) -> Seen:
    try:
        features = _read_features(folder / "f.safetensors")
    except _DamagedError as error:  # they are computed again
        raise CheckpointError(str(error)) from error
    return Seen(digest_of(features))


READERS = (
    Reader("checkpoint folders", _own, _read_own, 300),
    Reader("checkpoints of adapters", _own_adapters, _read_own, 100),
    Reader("cached features", _features, _read_features_file, 300),
)
