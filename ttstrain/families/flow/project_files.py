"""The files of a project of F5-TTS's training tools. Imports no torch.

<root>/ckpts/<name>/   model_last.pt, model_<update>.pt, pretrained_*; setting.json of the web tool
<root>/data/<name>_<tokenizer>/   raw.arrow, duration.json, vocab.txt; metadata.csv and wavs/ of the web tool
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.project import Chosen
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.flow.prepared import DURATIONS
from ttstrain.families.flow.vocab import PUBLISHED, load_vocab
from ttstrain.shell import quoted

SETTINGS, VOCAB, LAST = "setting.json", "vocab.txt", "model_last.pt"
TOKENIZERS = ("pinyin", "char", "custom")
_NUMBERED = re.compile(r"model_(\d+)\.(?:pt|safetensors)")
_PRETRAINED = re.compile(r"pretrained_.+\.(?:pt|safetensors)")

# ---------------------------------------------------------------- checkpoints


def choose(folder: Path) -> Chosen | None:
    """Choose the training file with most updates, `model_last.pt` where two have as many, else the pretrained one.

    An unreadable file is skipped with a note, because upstream's writes are not atomic. Returns None without a
    checkpoint. Raises CheckpointError when none can be read, or when there are only pretrained files and several.
    """
    names = checkpoint_files(folder)
    pretrained = [name for name in names if _PRETRAINED.fullmatch(name)]
    training = [name for name in names if name not in pretrained]
    if not training and not pretrained:
        return None
    updates: dict[str, int] = {}
    unreadable: list[str] = []
    for name in training:
        try:
            updates[name] = _updates(folder / name)
        except CheckpointError as error:
            unreadable.append(f"`{name}` cannot be read ({error.message.removeprefix(f'`{folder / name}` ')})")
    remarks = [
        *unreadable,
        *([f"`{pretrained[0]}` is the pretrained file it started from"] if pretrained and updates else []),
    ]
    if updates:
        name = max(updates, key=lambda name: (updates[name], name == LAST))
        others = [f"`{other}` has {count:,}" for other, count in updates.items() if other != name]
        why = "; ".join([f"`{name}` has the most updates, {updates[name]:,}", *others, *remarks])
        return Chosen(folder / name, why if others or remarks else f"`{name}`, update {updates[name]:,}")
    if len(pretrained) == 1:
        return Chosen(
            folder / pretrained[0],
            "; ".join([f"`{pretrained[0]}`: the project has no training checkpoint yet", *unreadable]),
        )
    if pretrained:
        raise CheckpointError(
            f"`{folder}` has several pretrained files and no training checkpoint",
            hint=f"name one: {', '.join(pretrained)}",
        )
    raise CheckpointError(f"no checkpoint in `{folder}` can be read", hint="; ".join(unreadable))


def checkpoint_files(folder: Path) -> list[str]:
    """List what upstream's trainer would choose from."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return sorted(n for n in names if n == LAST or _NUMBERED.fullmatch(n) or _PRETRAINED.fullmatch(n))


def notes_on(path: Path) -> list[str]:
    """Return notes on a file's place among its project's checkpoints and on the web tool's settings."""
    notes: list[str] = []
    names = checkpoint_files(path.parent)
    if len(names) > 1 and path.name in names:
        chosen = choose(path.parent)
        assert chosen is not None
        notes.append(
            chosen.why if chosen.path == path else f"the folder's newest checkpoint is another file: {chosen.why}"
        )
    settings = read_settings(path.parent)
    if settings is not None:
        notes.append(
            f"{SETTINGS}: {settings.summary()}; `ttstrain recipes migrate {quoted(path.parent)}` makes it a recipe"
        )
    return notes


def _updates(path: Path) -> int:
    """Return a file's number of updates, without reading its tensors."""
    from ttstrain.tensors.contents import read_contents

    numbered = _NUMBERED.fullmatch(path.name)
    tree = read_contents(path).tree
    if isinstance(tree, Mapping):
        for key in ("update", "step"):
            if isinstance(tree.get(key), int):
                return int(tree[key])
    return int(numbered[1]) if numbered else 0


def project_data(checkpoints: Path) -> list[Path]:
    """List the prepared data that belong to a `ckpts/<name>` folder by name."""
    if checkpoints.parent.name != "ckpts":
        return []
    candidates = [checkpoints.parent.parent / "data" / f"{checkpoints.name}_{kind}" for kind in TOKENIZERS]
    return [folder for folder in candidates if folder.is_dir()]


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class WebSettings:
    """`setting.json`; unknown entries are kept, and types are checked on access."""

    path: Path
    values: Mapping[str, Any]

    def number(self, key: str) -> float | None:
        """Return a number, also one written as text; None where there is none."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            return float(value)
        except ValueError:
            return None

    def word(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def summary(self) -> str:
        """Summarize the most important settings on one line."""
        shown = ("exp_name", "learning_rate", "num_warmup_updates", "epochs", "batch_size_per_gpu", "mixed_precision")
        return ", ".join(f"{key} {self.values[key]}" for key in shown if key in self.values)


def read_settings(folder: Path) -> WebSettings | None:
    """Read `setting.json` of a project's checkpoints. Raises RecipeError when it is damaged."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    return WebSettings(path, documents.read_object(path, error=RecipeError))


def tokenizer_of(data: Path) -> str | None:
    """Tell a project's tokenizer by its folder's name. `char` reads texts as `pinyin` does, with another vocab."""
    kind = next((kind for kind in TOKENIZERS if data.name.endswith(f"_{kind}")), None)
    return "pinyin" if kind == "char" else kind


def vocab_settings(data: Path) -> dict[str, Any]:
    """Return the recipe keys that a project's own vocab decides."""
    vocab = data / VOCAB
    if not vocab.is_file():
        return {}
    found: dict[str, Any] = {}
    if load_vocab(str(vocab), space_first=False).sha256 != load_vocab(PUBLISHED).sha256:
        found["model.vocab"] = str(vocab)
    kind = tokenizer_of(data)
    if kind is not None:
        found["model.tokenizer"] = kind
    return found


def read_durations(data: Path) -> list[float]:
    """Return the seconds of a project's clips; empty if `duration.json` is missing or damaged."""
    try:
        read = documents.read_object(
            data / DURATIONS, error=DataError, keys={"duration": list}, most_bytes=documents.MAX_TABLE
        )
        return [float(duration) for duration in read["duration"]]
    except (DataError, ValueError, TypeError):
        return []
