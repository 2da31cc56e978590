"""Features that GPT-SoVITS' own steps have left in a prepared folder: read, checked, never executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from torch import Tensor

from ttstrain.data.shards import opened
from ttstrain.errors import CheckpointError, DataError
from ttstrain.tensors.contents import Contents, read_contents, refuse_unsafe
from ttstrain.tensors.tensorfile import StoredTensor

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip

SHAPES: Final = {"ssl": (1, 768, None), "bert": (1024, None), "speaker": (1, 20_480)}  # upstream's own, None: any


def is_prepared(clip: Clip) -> bool:
    """Tell whether a clip comes from a prepared folder: then its recording has upstream's loudness already."""
    return bool(clip.tokens)


def ready_values(clip: Clip, name: str) -> tuple[int, ...]:
    """Return what a prepared folder's table says of a clip; nothing where it says nothing."""
    return next((one.values for one in clip.ready if one.name == name), ())


def is_whole(clip: Clip) -> bool:
    """Tell whether all of the recording is used: what was computed of it does not fit a part."""
    import soundfile

    with opened(clip.path) as raw, soundfile.SoundFile(raw) as file:
        return clip.treatment.start == 0 and clip.num_samples == file.frames


def read_ready(clip: Clip, name: str) -> Tensor | None:
    """Return a feature from its file in fp32 and upstream's shape; None where there is none.

    Raises DataError when it is something else, or not finite.
    """
    path = next((Path(one.path) for one in clip.ready if one.name == name and one.path), None)
    if path is None:
        return None
    contents = _contents(path)
    refuse_unsafe(contents)
    stored = contents.tree
    if not isinstance(stored, StoredTensor):
        raise DataError(f"`{path}` holds no tensor", hint="prepare it again, or delete it; ttstrain then computes it")
    wanted = SHAPES[name]
    fits = len(stored.shape) == len(wanted) and all(
        size is None or size == found for size, found in zip(wanted, stored.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if size is None else str(size) for size in wanted)
        raise DataError(
            f"`{path}` has the shape {tuple(stored.shape)}, ({shape}) expected",
            hint="delete it; ttstrain then computes it",
        )
    try:
        tensor = stored.read().float()
    except CheckpointError as error:
        raise _damaged(error) from error
    if not bool(tensor.isfinite().all()):
        raise DataError(f"`{path}` is not finite", hint="delete it; ttstrain then computes it in fp32")
    return tensor


def _contents(path: Path) -> Contents:
    try:
        return read_contents(path)
    except CheckpointError as error:
        raise _damaged(error) from error


def _damaged(error: CheckpointError) -> DataError:
    """Blame one clip for its file: the others can be trained on."""
    return DataError(error.message, hint="delete it; ttstrain then computes it")
