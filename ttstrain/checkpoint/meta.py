"""The description of a checkpoint: `meta.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ttstrain import __version__, documents
from ttstrain.contract.checkpoint import SchedulePosition
from ttstrain.data.texts import VOCAB
from ttstrain.digest import sha256
from ttstrain.errors import CheckpointError

SCHEMA = 1
META_FILE = "meta.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FileMeta(_Record):
    """One file of the checkpoint's folder."""

    bytes: int
    sha256: str


class GroupMeta(_Record):
    """A named parameter group."""

    optimizer: str
    name: str
    lr: float  # LR of its next update
    weight_decay: float
    parameters: int  # number of scalars


class EmaMeta(_Record):
    """The exponential moving average (EMA) of the weights."""

    present: bool
    step: int | None = None  # number of EMA updates
    decay: float | None = None  # decay of the latest update


class LoraMeta(_Record):
    """The LoRA adapters that were trained on top of a base's weights."""

    rank: int
    alpha: float
    scaling: float  # factor of the adapters' product
    dora: bool
    layers: int

    def describe(self) -> str:
        return f"{'DoRA' if self.dora else 'LoRA'} of rank {self.rank}, alpha {self.alpha:g}, on {self.layers} layers"


class BaseMeta(_Record):
    """The base of a checkpoint of adapters: it holds the weights that the checkpoint leaves out."""

    files: tuple[str, ...]  # as the recipe names them
    directory: str  # that relative ones start from
    places: tuple[str, ...]  # where the files were found, absolute
    from_run: tuple[str, ...]  # the same, from the run's folder
    sha256: str  # of its tensors, as `base_record.checksum`
    tensors: Mapping[str, str]  # weight that is left out -> its type in the run

    def describe(self) -> str:
        return f"the base `{' + '.join(self.files)}` (sha256 {self.sha256[:12]}…)"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


class Meta(_Record):
    """Identity, position and content of one checkpoint. The store fills in `files`, `parts`, `ranks` and `order`."""

    family: str
    task: str
    model: Mapping[str, Any]  # the task's configuration, complete
    recipe: str
    step: int
    groups: tuple[GroupMeta, ...] = ()
    schedule: SchedulePosition | None = None
    ema: EmaMeta = EmaMeta(present=False)
    lora: LoraMeta | None = None
    base: BaseMeta | None = None  # of a checkpoint that leaves out what its run cannot change; None: it is whole
    metrics: Mapping[str, float] = {}  # the latest evaluation's
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = {}  # versions of the text front end, as `FrontEnd.versions`; empty if unknown
    time: str = Field(default_factory=_now)  # UTC, ISO 8601
    ttstrain: str = __version__
    torch: str = Field(default_factory=_torch_version)
    schema_version: int = Field(default=SCHEMA, alias="schema")
    parts: tuple[str, ...] = ()
    ranks: int = 0
    order: int = 0  # order of writing within its run: 1 is the first; 0 if unknown
    files: Mapping[str, FileMeta] = {}
    digest: str = ""  # sha256 of this file with nothing between these quotes; earlier checkpoints have none


def compare_front_ends(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Compare the text front end of the training with this machine's, except for the vocabulary; return warnings.

    Empty where either is unknown.
    """
    if not then or not now:
        return []
    changed = [
        f"{name} {now.get(name, 'none')}, trained with {then.get(name, 'none')}"
        for name in sorted({*then, *now} - {VOCAB})
        if then.get(name) != now.get(name)
    ]
    if not changed:
        return []
    return [f"WARNING: the text front end has changed: {'; '.join(changed)}. The same text may give other tokens"]


def check_vocab(then: Mapping[str, str], now: Mapping[str, str], *, source: str) -> None:
    """Raise CheckpointError when weights were trained with another vocabulary than this one."""
    if VOCAB in then and VOCAB in now and then[VOCAB] != now[VOCAB]:
        raise CheckpointError(
            f"`{source}` was trained with another vocabulary ({then[VOCAB][:15]}…, here {now[VOCAB][:15]}…): "
            "its embedding rows would belong to other symbols",
            hint="set `model.vocab` to the file it was trained with; for a new one, `finetune` with it as `--base`",
        )


def write_meta(folder: Path, meta: Meta) -> None:
    """Write `meta.json` and flush it to the disk."""
    with (folder / META_FILE).open("w", encoding="utf-8") as file:
        file.write(_with_digest(meta.model_copy(update={"digest": ""}).model_dump_json(indent=1, by_alias=True) + "\n"))
        file.flush()
        os.fsync(file.fileno())


def read_meta(folder: Path) -> Meta:
    """Read `meta.json`; where `model` names a file of which the checkpoint has a copy, the value is the copy's path.

    Raises CheckpointError when the folder is no checkpoint or comes from a newer ttstrain.
    """
    path = folder / META_FILE
    if not path.is_file():
        raise CheckpointError(f"`{folder}` is not a checkpoint: it has no {META_FILE}")
    values = documents.read_object(path, error=CheckpointError, keys={"schema": int}, numbers="any")
    schema = values["schema"]
    if schema != SCHEMA:
        raise CheckpointError(
            f"`{folder}` has checkpoint schema {schema}; this ttstrain ({__version__}) reads schema {SCHEMA}",
            hint=f"it was written by ttstrain {values.get('ttstrain', '?')}",
        )
    try:
        meta = Meta.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"`{path}` cannot be read: `{where}`: {first['msg']}") from error
    _check_digest(path, meta)
    for name in (*meta.files, *meta.parts):
        if Path(name).name != name:
            raise CheckpointError(f"`{path}` names `{name}`, which is not a file in its folder")
    kept = {key: str(copy) for key, copy in kept_files(folder, meta).items()}
    return meta.model_copy(update={"digest": "", "model": {**meta.model, **kept}})


def _with_digest(text: str) -> str:
    """Fill `digest`, the last key, with the sha256 of the text in which `digest` is empty."""
    before, after = text.rsplit(_NO_DIGEST, 1)
    return f'{before}"digest": "{sha256(text)}"{after}'


def _check_digest(path: Path, meta: Meta) -> None:
    """Raise CheckpointError when `meta.json` was altered; an older file without a digest is not checked."""
    if not meta.digest:
        return
    written = documents.read_bytes(path, error=CheckpointError)
    if sha256(written.replace(meta.digest.encode(), b"")) != meta.digest:
        raise CheckpointError(f"`{path}` is damaged: its sha256 differs from the recorded one")


_NO_DIGEST = '"digest": ""'


def kept_files(folder: Path, meta: Meta) -> dict[str, Path]:
    """Map each key of `model` that names a copied file to the checkpoint's copy."""
    return {key: folder / kept_name(key) for key in meta.model if kept_name(key) in meta.files}


def kept_name(key: str) -> str:
    """Name the copy of the file that a key of the `model:` section names."""
    return f"{key}.txt"
