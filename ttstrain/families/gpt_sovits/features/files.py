"""Where the encoders' files lie, and a hash that says whether they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from ttstrain.digest import sha256, sha256_of_file
from ttstrain.errors import CheckpointError
from ttstrain.places import expanded
from ttstrain.tensors.hub import HUB, download

WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
TENSORS: Final = (".safetensors",)
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")


def find_folder(spec: str, *, what: str) -> Path:
    """Find the folder of a Hugging Face model: a path, or `hf://owner/repo[/folder]`, which is fetched once.

    Raises CheckpointError unless it holds a config.json and weights.
    """
    folder = download(spec, preferred=TENSORS, others=PICKLES) if spec.startswith(HUB) else expanded(spec)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"there is no {what} at `{spec}`", hint="a folder with config.json and weights, or hf://owner/repo/folder"
        )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise CheckpointError(f"the {what} `{spec}` has no weights", hint=f"looked for {' and '.join(WEIGHTS)}")
    return folder


def find_file(spec: str, *, what: str) -> Path:
    """Find one file, or a run's folder, by its path or `hf://owner/repo/file`. Raises CheckpointError without one."""
    path = download(spec, preferred=TENSORS, others=PICKLES) if spec.startswith(HUB) else expanded(spec)
    if not path.exists():
        raise CheckpointError(f"there is no {what} at `{spec}`", hint="a file, or hf://owner/repo/file")
    return path


def digest_of_folder(folder: Path) -> str:
    """Hash the settings, the weights and the tokenizer of a model's folder."""
    texts = sorted([*folder.glob("*.json"), *folder.glob("*.txt")])
    weights = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    return digest_of([*texts, weights])


def digest_of(paths: Sequence[Path]) -> str:
    """Hash files by name and content; what was hashed in this process and has not changed is remembered."""
    pieces: list[str | bytes] = []
    for path in paths:
        status = path.stat()
        pieces += [path.name, bytes.fromhex(_sum_of(path.resolve(), status.st_size, status.st_mtime_ns))]
    return sha256(*pieces)[:16]


@lru_cache(maxsize=64)
def _sum_of(path: Path, _size: int, _changed: int) -> str:
    return sha256_of_file(path)
