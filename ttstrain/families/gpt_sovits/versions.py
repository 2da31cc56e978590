"""Which version a file of the VAE is: by its tensors, and by the marks that upstream's loaders go by. No torch here.

Upstream looks up a hash, then reads the first two bytes of the file, then goes by its size. Tensors are more reliable,
but v3 and v4 have the same keys and shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINED = ("v1", "v2", "v2Pro", "v2ProPlus")  # what ttstrain trains
PRO = ("v2Pro", "v2ProPlus")
EVERY = (*TRAINED, "v3", "v4")
PLAIN_HEAD = b"PK"  # of an ordinary zip

# What upstream writes over the first two bytes of a file, and reserves: its process_ckpt.
HEADS: Mapping[bytes, tuple[str, bool]] = {  # head -> version, adapters only
    b"00": ("v1", False),
    b"01": ("v2", False),
    b"02": ("v3", False),
    b"03": ("v3", True),
    b"04": ("v4", True),
    b"05": ("v2Pro", False),
    b"06": ("v2ProPlus", False),
}
WRITTEN_HEADS = {"v2Pro": b"05", "v2ProPlus": b"06"}
# md5 of the first 8192 bytes of the published files.
HASHES: Mapping[str, str] = {
    "dc3c97e17592963677a4a1681f30c653": "v1",  # s2G488k; upstream's table calls it v2
    "6642b37f3dbb1f76882b69937c95a5f3": "v2",
    "43797be674a37c1c83ee81081941ed0f": "v3",
    "4f26b9476d0c5033e04162c486074374": "v4",
    "c7e9fce2223f3db685cdfa1e6368728a": "v2Pro",
    "66b313e39455b57ab1b0bc0b239c9d0a": "v2ProPlus",
}
_HASHED_BYTES = 8192
V1_BELOW = 82_978 * 1024  # bytes
V2_BELOW = 700 * 1024 * 1024
V1_SYMBOLS = 322
V1_ROWS, LATER_ROWS = 512, 732  # of phonemes in a GPT
V1_REFERENCE_CHANNELS, LATER_REFERENCE_CHANNELS = 1025, 704  # of the spectrogram that gives the style
_PLUS_CHANNELS = {512: "v2Pro", 768: "v2ProPlus"}


@dataclass(frozen=True, slots=True)
class Told:
    """The version that upstream's loaders detect before they read a file."""

    version: str
    by: str
    adapters: bool = False


def as_upstream_tells(path: Path, *, head: bytes) -> Told:
    """Tell a file's version by hash, head or size, as upstream's inference does."""
    with path.open("rb") as file:
        digest = hashlib.md5(file.read(_HASHED_BYTES), usedforsecurity=False).hexdigest()
    if digest in HASHES:
        return Told(HASHES[digest], "its hash")
    if head != PLAIN_HEAD and head in HEADS:
        version, adapters = HEADS[head]
        return Told(version, f"its first bytes, `{head.decode()}`", adapters)
    size = path.stat().st_size
    version = "v1" if size < V1_BELOW else "v2" if size < V2_BELOW else "v3"
    return Told(version, f"its size, {size / 1024:,.0f} KiB")


@dataclass(frozen=True, slots=True)
class Version:
    """The version, and notes on contradicting evidence."""

    name: str
    notes: tuple[str, ...] = ()
    open: tuple[str, ...] = ()  # possible versions, if undecided: `name` is a guess
    guess: str = ""  # the note on that, for people who inspect the file: a recipe sets the version

    @property
    def title(self) -> str:
        """The version's name, or the names of all possible ones."""
        return " or ".join(self.open) or self.name


def tell(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], *, path: Path, head: bytes, exported: bool
) -> Version:
    """Tell the version of a VAE's file: by its tensors; by its marks where they leave several open.

    Upstream's rule for sizes is for files that were `exported`.
    """
    possible = by_tensors(shapes)
    stated = stated_version(config)
    told = as_upstream_tells(path, head=head)
    by_size = told.by.startswith("its size")
    ranked = [stated, *([told.version] if exported else [])] if by_size else [told.version, stated]
    name = next(version for version in (*ranked, *possible) if version in possible)
    guessed = len(possible) > 1 and stated != name and (by_size or told.version != name)
    notes = [f"its config states {stated}, which its tensors contradict: ignored"] if stated not in (None, name) else []
    title, guess = name, ""
    if guessed:
        rule = "its file's size" if by_size and exported and told.version == name else "what is usual"
        title = " or ".join(possible)
        guess = f"it is {title}, which have the same tensors; assumed {name}, by {rule}"
    if told.version != name and (exported or not by_size):
        notes.append(f"upstream's tools would load it as {told.version}, by {told.by}, but it is {title}")
    return Version(name, tuple(notes), possible if guessed else (), guess)


def by_tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the versions that tensors allow, the most likely first; keys as in upstream's files."""
    if any(key.startswith("cfm.") for key in shapes):
        return ("v3", "v4")
    if any(key.startswith("discriminators.") for key in shapes):
        folds = {key.split(".")[1] for key in shapes if key.startswith("discriminators.")}
        return ("v2", "v1") if len(folds) <= 6 else PRO
    if any(key.startswith(("sv_emb.", "ge_to512.")) for key in shapes):
        width = shapes.get("dec.conv_pre.weight", (0,))[0]
        return (_PLUS_CHANNELS[width],) if width in _PLUS_CHANNELS else PRO
    table = shapes.get("enc_p.text_embedding.weight")
    reference = shapes.get("ref_enc.spectral.0.fc.weight")
    if table is None and reference is None:
        return ("v2", *(version for version in EVERY if version != "v2"))
    symbols = None if table is None else table[0]
    channels = None if reference is None else reference[1]
    if symbols == V1_SYMBOLS or channels == V1_REFERENCE_CHANNELS:
        return ("v1",)
    published = symbols == LATER_ROWS or channels == LATER_REFERENCE_CHANNELS
    return ("v2",) if published else ("v2", "v1")


def with_symbols(rows: int) -> tuple[str, ...]:
    """Return the versions whose GPT has so many rows of phonemes; none where no published one has."""
    later = tuple(version for version in EVERY if version != "v1")
    return {V1_ROWS: ("v1",), LATER_ROWS: later}.get(rows, ())


def stated_version(config: Mapping[str, Any]) -> str | None:
    """Return the version that a file's own config names."""
    model = config.get("model")
    said = model.get("version") if isinstance(model, Mapping) else None
    said = said or config.get("version")
    return str(said) if said in EVERY else None
