"""Checkpoints on disk: a folder of safetensors and JSON, written whole or not at all.

    checkpoints/step-00000500/
        weights.safetensors                 part `task`: the module's own state-dict keys
        ema.safetensors + ema.json          part `ema`
        <part>.safetensors + <part>.json    every other part; the JSON holds its shape and what is not a tensor
        vocab.txt                           a copy of what `model.vocab` names, where the task reads such a file
        rank-0000.safetensors + .json       what differs between processes
        meta.json                           written last: identity, position, sha256 of each file
    checkpoints/last, checkpoints/best      text files that name one of these folders, never anything elsewhere

Nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ttstrain import documents
from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.damage import fault_of, naming_a_sound_one, open_meta, refuse_damaged
from ttstrain.checkpoint.meta import FileMeta, Meta, kept_name, read_meta, write_meta
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.digest import running, sha256
from ttstrain.errors import CheckpointError
from ttstrain.places import refused_as
from ttstrain.state import Tree, detach_copy
from ttstrain.tensors import tensorfile
from ttstrain.tensors.tensorfile import FileSum

_STEMS = {"task": "weights"}  # part -> file name without ending, where they differ
Reading = Literal["verified", "trusting", "lazy"]
WriteMoment = Literal["half", "whole"]  # its tensors are written and its meta is not; it has its own name
WriteHook = Callable[[WriteMoment, Path], None]  # called in the writing thread, with the folder as it is then
_PLAIN = {"ema": ("weights",)}  # part -> path of the tensors that keep their own names in the file


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint in memory, on the CPU."""

    state: dict[str, Tree]
    meta: Meta
    per_rank: list[Tree]  # one tree per process that wrote it
    base: OpenedCheckpoint | None = None  # over which a checkpoint of adapters was made whole


# ---------------------------------------------------------------- one folder


def save(
    folder: Path,
    state: Mapping[str, Tree],
    meta: Meta,
    *,
    per_rank: Sequence[Tree] = (),
    texts: Mapping[str, str] | None = None,
    durable: bool = True,
    hook: WriteHook | None = None,
) -> Meta:
    """Write a checkpoint folder atomically, replacing one of the same name; return the completed meta.

    Everything is written and flushed under a temporary name beside `folder`, which is then renamed: a folder with the
    right name is complete. Tensors that share memory are stored once; tuples come back as lists. `texts` maps
    keys of the `model:` section to the content of the files they name. What is not `durable` is not hashed, and may be
    lost with the machine. `hook` may bring faults in.
    Raises CheckpointError when writing fails; an earlier checkpoint of that name is left intact.
    """
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        folder.parent.mkdir(exist_ok=True)  # without `parents`: a run's folder that was removed is not created again
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files: dict[str, FileMeta] = {}
        for part, tree in state.items():
            files |= _write_part(temporary, _STEMS.get(part, part), tree, plain=_PLAIN.get(part), durable=durable)
        for rank, tree in enumerate(per_rank):
            files |= _write_part(temporary, f"rank-{rank:04d}", tree, plain=None, durable=durable)
        for key, text in (texts or {}).items():
            files[kept_name(key)] = _write_bytes(temporary / kept_name(key), text.encode())
        if hook is not None:
            hook("half", temporary)
        meta = meta.model_copy(update={"files": files, "parts": tuple(state), "ranks": len(per_rank)})
        write_meta(temporary, meta)
        pointers.sync_folder(temporary)
        _put_in_place(temporary, folder)
        if hook is not None:
            hook("whole", folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CheckpointError(
            f"the checkpoint `{folder}` could not be written: {error.strerror or error}",
            hint="free some disk space, or keep fewer checkpoints (`checkpoint.keep_last`)" if full else None,
        ) from error
    return meta


@refused_as(CheckpointError)
def load(folder: Path, *, parts: Collection[str] | None = None, verify: bool = True) -> Loaded:
    """Read a checkpoint folder, or some of its parts; `verify` compares each file with the sha256 in its meta.

    Weights that a checkpoint of adapters leaves out are not read: `upstream.load_own` reads those, too.
    Raises CheckpointError that names the file which is missing, cut short or altered.
    """
    return _load(folder, reading="verified" if verify else "trusting", parts=parts)


@refused_as(CheckpointError)
def load_lazily(folder: Path) -> Loaded:
    """Read a checkpoint's JSON and leave its tensors on the disk, as `StoredTensor`s; nothing is hashed."""
    return _load(folder, reading="lazy")


def _load(folder: Path, *, reading: Reading, parts: Collection[str] | None = None) -> Loaded:
    meta = open_meta(folder)
    wanted = [part for part in meta.parts if parts is None or part in parts]
    ranks = range(meta.ranks if parts is None else 0)
    with naming_a_sound_one(folder):
        state = {part: _read_part(folder, _STEMS.get(part, part), meta.files, reading=reading) for part in wanted}
        per_rank = [_read_part(folder, f"rank-{rank:04d}", meta.files, reading=reading) for rank in ranks]
    return Loaded(state=state, meta=meta, per_rank=per_rank)


@refused_as(CheckpointError)
def load_part(folder: Path, part: str, *, verify: bool = True) -> Tree:
    """Read one part of a checkpoint, such as `task` or `ema`."""
    meta = open_meta(folder)
    if part not in meta.parts:
        raise CheckpointError(f"`{folder}` holds no {part}", hint=f"it holds {', '.join(meta.parts)}")
    reading: Reading = "verified" if verify else "trusting"
    with naming_a_sound_one(folder):
        return _read_part(folder, _STEMS.get(part, part), meta.files, reading=reading)


def verified_text(folder: Path, meta: Meta, name: str) -> str:
    """Read a text file of a checkpoint. Raises CheckpointError when it is missing, altered or not UTF-8."""
    refuse_damaged(folder, meta, names=[name])
    try:
        return documents.read_bytes(folder / name, error=CheckpointError).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"`{folder / name}` is damaged: it is not UTF-8") from error


def weight_files(meta: Meta) -> list[str]:
    """Name the files that hold a checkpoint's raw weights and EMA weights."""
    stems = {_STEMS.get(part, part) for part in ("task", "ema")}
    return [name for name in meta.files if Path(name).stem in stems]


# ---------------------------------------------------------------- a run's checkpoints


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is complete on disk."""

    step: int
    folder: Path
    best: bool  # the best so far


@dataclass(frozen=True, slots=True)
class _Best:
    """The best step of a run or of a branch of it; None where there is none."""

    step: int | None


class CheckpointStore:
    """The checkpoints of one run: writes them, points to the last and the best, and removes old ones."""

    def __init__(
        self,
        run_dir: Path,
        *,
        keep_last: int,
        keep_every: int | None = None,
        background: bool = True,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.root = run_dir / pointers.CHECKPOINTS
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.background = background
        self.texts = texts
        self._writer: threading.Thread | None = None
        self._reads_held = False  # whether the writer reads what a caller holds
        self._error: BaseException | None = None
        self.failed = False  # since a caller last set it back: a write has failed, and the run went on
        self._news: deque[str] = deque()  # filled by the writer, emptied by `news`
        self._written: deque[Written] = deque()  # filled by the writer, emptied by `written`
        self._stays: set[str] = set()  # old checkpoints that could not be removed, and were reported
        self._best_of_course: _Best | None = None  # `best` from the next save on, after a resume at an earlier step
        run_dir.mkdir(parents=True, exist_ok=True)
        pointers.recover(self.root)

    def folder(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.root / f"step-{step:08d}"

    def save(
        self,
        step: int,
        state: Mapping[str, Tree],
        meta: Meta,
        *,
        best: bool = False,
        per_rank: Sequence[Tree] = (),
        held: Mapping[str, Tree] | None = None,
        hook: WriteHook | None = None,
    ) -> Path:
        """Write the checkpoint of `step`, point to it and prune; return its folder.

        In the background the state is copied to host memory first, so training may go on changing it; one checkpoint
        is written at a time. An error of a background write is raised by the next `save`, `wait` or `news`.
        `held` names parts of the state that the caller has copied already, and leaves as they are until
        `wait_for_held` returns.
        """
        self.wait()
        folder = self.folder(step)
        if self.background:
            own = held or {}
            copied = {name: own[name] if name in own else detach_copy(tree) for name, tree in state.items()}
            copied_ranks = detach_copy(list(per_rank))
            self._reads_held = bool(own)
            self._start(lambda: self._write(folder, copied, meta, best, copied_ranks, hook=hook))
        else:
            self._write(folder, state, meta, best, per_rank, hook=hook)
        return folder

    def point(self, name: str, step: int) -> None:
        """Make `last` or `best` point to the checkpoint of `step`, which must exist."""
        self.wait()
        if not pointers.is_checkpoint(self.folder(step)):
            raise ValueError(f"`{name}` cannot point to step {step}: it has no checkpoint")
        pointers.write_pointer(self.root / name, self.folder(step).name)

    def wait(self) -> None:
        """Return once nothing is being written. Raises the error of the latest background write."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def failure(self, *, wait: bool) -> CheckpointError | None:
        """Return the error of the latest background write, once, where it could not be written; set `failed` then.

        With `wait`, returns once nothing is being written. Raises any other error of the write.
        """
        if self._writer is not None and (wait or not self._writer.is_alive()):
            try:
                self.wait()
            except CheckpointError as error:
                self.failed = True
                return error
        return None

    def wait_for_held(self) -> None:
        """Return once nothing that a caller holds is being written; the writer's error is left to `wait`."""
        if self._reads_held and self._writer is not None:
            self._writer.join()
        self._reads_held = False

    def news(self) -> list[str]:
        """Return messages on checkpoints written, or not removable, since the last call; does not wait.

        Raises the error of a background write that has failed.
        """
        if self._writer is not None and not self._writer.is_alive():
            self.wait()
        return [self._news.popleft() for _ in range(len(self._news))]

    def written(self) -> list[Written]:
        """Return the checkpoints that were written since the last call; does not wait."""
        return [self._written.popleft() for _ in range(len(self._written))]

    def resume_from(self, step: int, *, best: int | None) -> None:
        """Make `last` point to the checkpoint of `step`, where the run resumes; `best` is the best step until there.

        Where later checkpoints exist, `best` does not change until the first save: then it names the best up to `step`,
        or none where that was removed.
        """
        last, named = pointers.pointed(self.root, pointers.LAST), pointers.pointed(self.root, pointers.BEST)
        if last != self.folder(step).name:
            self.point(pointers.LAST, step)
        elif named is None or named <= last:
            return
        self._best_of_course = _Best(best)

    def forget_best(self) -> None:
        """Make the next save, which replaces the checkpoint that `best` names, remove the pointer."""
        self.wait()
        self._best_of_course = _Best(None)

    def holds(self, step: int, metric: str, value: float) -> bool:
        """Tell whether `best` names the checkpoint of `step`, and its meta holds this value of the metric."""
        folder = self.folder(step)
        if pointers.pointed(self.root, pointers.BEST) != folder.name:
            return False
        try:
            return read_meta(folder).metrics.get(metric) == value
        except CheckpointError:
            return False

    def last(self) -> Path | None:
        """Return the newest checkpoint's folder."""
        return pointers.read_pointer(self.root, pointers.LAST)

    def best(self) -> Path | None:
        """Return the best checkpoint's folder."""
        return pointers.read_pointer(self.root, pointers.BEST)

    def _start(self, write: Callable[[], None]) -> None:
        def run() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._writer = threading.Thread(target=run, name="checkpoint writer")
        self._writer.start()

    def _write(
        self,
        folder: Path,
        state: Mapping[str, Tree],
        meta: Meta,
        best: bool,
        per_rank: Sequence[Tree],
        *,
        hook: WriteHook | None,
    ) -> None:
        others = [pointers.order(other) for other in pointers.list_checkpoints(self.root)]
        meta = meta.model_copy(update={"order": 1 + max([0, *others])})
        save(folder, state, meta, per_rank=per_rank, texts=self.texts, hook=hook)
        pointers.write_pointer(self.root / pointers.LAST, folder.name)
        if best:
            pointers.write_pointer(self.root / pointers.BEST, folder.name)
        elif self._best_of_course is not None:
            self._point_best(self._best_of_course.step)
        self._best_of_course = None
        self._news.append(f"checkpoint {folder.name}{' (best so far)' if best else ''}")
        self._written.append(Written(meta.step, folder, best))
        self._prune()

    def _point_best(self, step: int | None) -> None:
        if step is not None and pointers.is_checkpoint(self.folder(step)):
            pointers.write_pointer(self.root / pointers.BEST, self.folder(step).name)
            return
        try:
            (self.root / pointers.BEST).unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            self._news.append(
                f"WARNING: `{self.root / pointers.BEST}` names no best checkpoint, and cannot be removed: {why}"
            )

    def _prune(self) -> None:
        """Remove checkpoints that no rule retains. Age is the order of writing: clocks jump, steps may go back."""
        needed = pointers.stepped_aside(self.root)
        for leftover in self.root.glob(".step-*"):
            if leftover not in needed:
                shutil.rmtree(leftover, ignore_errors=True)
        ordered = pointers.by_age(self.root)
        pointed = [pointers.pointed(self.root, name) for name in (pointers.LAST, pointers.BEST)]
        kept = {*pointed, *(folder.name for folder in ordered[-self.keep_last :])}
        for folder in ordered:
            if folder.name in kept or (self.keep_every and pointers.step_of(folder) % self.keep_every == 0):
                continue
            try:
                _remove(folder)
            except OSError as error:  # a network drive raises it while another process reads there
                if folder.name not in self._stays:
                    self._news.append(f"WARNING: the old {folder.name} could not be removed: {error.strerror or error}")
                self._stays.add(folder.name)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a complete folder to its name. An older one is renamed first: two folders cannot be swapped."""
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if pointers.is_checkpoint(aside):
            with suppress(OSError):
                aside.rename(folder)
        raise
    pointers.sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a half-removed folder is never taken for a checkpoint."""
    doomed = folder.with_name(f".{folder.name}.doomed")
    folder.rename(doomed)
    shutil.rmtree(doomed)


# ---------------------------------------------------------------- one part


def _write_part(
    folder: Path, stem: str, tree: Tree, *, plain: tuple[str, ...] | None, durable: bool
) -> dict[str, FileMeta]:
    binary = f"{stem}.safetensors"
    if _is_flat(tree):
        tensors, aliases = _deduplicate(tree)
        return {binary: _summed(tensorfile.write(folder / binary, tensors, metadata=aliases, durable=durable))}
    tensors = {}
    skeleton = _Packer(tensors, plain).pack(tree, ())
    files = {f"{stem}.json": _write_json(folder / f"{stem}.json", skeleton)}
    if tensors:
        files[binary] = _summed(tensorfile.write(folder / binary, tensors, durable=durable))
    return files


def _read_part(folder: Path, stem: str, files: Mapping[str, FileMeta], *, reading: Reading) -> Tree:
    binary, text = f"{stem}.safetensors", f"{stem}.json"
    tensors: dict[str, Any] = {}
    if binary in files:
        path = _present(folder / binary, files[binary])
        tensors = _read_tensors(path, files[binary], reading=reading)
    if text in files:
        path = _present(folder / text, files[text])
        data = path.read_bytes()
        if reading == "verified" and sha256(data) != files[text].sha256:
            raise _altered(path)
        try:
            return _unpack(documents.parse(data, numbers="any"), tensors)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"`{path}` is damaged: {error}") from error
    if binary not in files:
        raise CheckpointError(f"`{folder}` is damaged: it lists no file of its part {stem!r}")
    for dropped, kept in tensorfile.read_header(folder / binary).metadata.items():
        tensors[dropped] = tensors[kept]
    return tensors


def _read_tensors(path: Path, expected: FileMeta, *, reading: Reading) -> dict[str, Any]:
    if reading == "lazy":
        return dict(tensorfile.read_header(path).tensors)
    hasher = running() if reading == "verified" else None
    tensors: dict[str, Any] = dict(tensorfile.read(path, hasher=hasher))
    if hasher is not None and hasher.hexdigest() != expected.sha256:
        raise _altered(path)
    return tensors


def _present(path: Path, expected: FileMeta) -> Path:
    if (fault := fault_of(path, expected, content=False)) is not None:
        raise CheckpointError(fault)
    return path


def _altered(path: Path) -> CheckpointError:
    return CheckpointError(f"`{path}` is damaged: its sha256 differs from the recorded one")


def _summed(total: FileSum) -> FileMeta:
    return FileMeta(bytes=total.bytes, sha256=total.sha256)


def _write_json(path: Path, value: Any) -> FileMeta:
    return _write_bytes(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _write_bytes(path: Path, data: bytes) -> FileMeta:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileMeta(bytes=len(data), sha256=sha256(data))


# ---------------------------------------------------------------- trees to tensors and JSON

# In the JSON a tensor is {"$tensor": name}. A dict that JSON cannot hold as it is, because a key is no string or looks
# like one of these marks, is {"$dict": [[key, value], ...]}.
_TENSOR, _DICT = "$tensor", "$dict"


class _Packer:
    """Takes the tensors out of a tree and puts `{"$tensor": name}` in their places."""

    def __init__(self, tensors: dict[str, Tensor], plain: tuple[str, ...] | None) -> None:
        self.tensors = tensors
        self.plain = plain
        self.seen: dict[Any, str] = {}

    def pack(self, tree: Tree, path: tuple[str, ...]) -> Any:
        if isinstance(tree, Tensor):
            return {_TENSOR: self._store(tree, path)}
        if isinstance(tree, Mapping):
            packed = [(key, self.pack(value, (*path, str(key)))) for key, value in tree.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key in tree):
                return dict(packed)
            return {_DICT: [[self._key(key, path), value] for key, value in packed]}
        if isinstance(tree, list | tuple):
            return [self.pack(value, (*path, str(index))) for index, value in enumerate(tree)]
        if tree is None or isinstance(tree, str | bool | int | float):
            return tree
        raise TypeError(f"state `{'/'.join(path)}`: a {type(tree).__name__} is neither a tensor nor JSON")

    def _store(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        identity = _identity(tensor)
        if identity is not None and identity in self.seen:
            return self.seen[identity]
        name = path[-1] if path[:-1] == self.plain else "/".join(path)
        while name in self.tensors:  # keys may contain slashes
            name += "'"
        self.tensors[name] = tensor
        if identity is not None:
            self.seen[identity] = name
        return name

    @staticmethod
    def _key(key: Any, path: tuple[str, ...]) -> Any:
        if isinstance(key, str | int) and not isinstance(key, bool):
            return key
        raise TypeError(f"state `{'/'.join(path)}`: a key of type {type(key).__name__} cannot be stored")


def _unpack(packed: Any, tensors: Mapping[str, Any]) -> Tree:
    if isinstance(packed, list):
        return [_unpack(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]]
    if _DICT in packed:
        return {key: _unpack(value, tensors) for key, value in packed[_DICT]}
    return {key: _unpack(value, tensors) for key, value in packed.items()}


def _is_flat(tree: Tree) -> bool:
    return (
        isinstance(tree, Mapping)
        and len(tree) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tree.items())
    )


def _deduplicate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split into tensors to store and {omitted name: stored name}, the convention of `safetensors.torch.save_model`."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in tensors.items():
        identity = _identity(tensor)
        if identity is not None and identity in seen:
            aliases[name] = seen[identity]
            continue
        kept[name] = tensor
        if identity is not None:
            seen[identity] = name
    return kept, aliases


def _identity(tensor: Tensor) -> Any:
    """Return a key that is equal for two tensors with the same memory and view; None for a tensor without memory."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return None
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
