"""From one vocab to another: the rows of a base's text table, found by token and not by number.

A token that both vocabs hold keeps its row, bit for bit. A new one starts from the rows of what is written or said
alike (`Ş` from `S`, `が` from `か`, `lue4` from `lue`), else from the mean of its script, else of all. Every new row
has the length of the rows it comes from, and a little noise of its own, so that no two are alike.

Legend: r rows, of which row 0 is the filler and row k + 1 token k; t width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttstrain.contract.checkpoint import AdaptedWeights, OpenedCheckpoint
from ttstrain.data.texts import VOCAB
from ttstrain.digest import sha256
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.interpretations import EMILIA, TABLE
from ttstrain.families.flow.nearest_tokens import OriginKind, Origins
from ttstrain.families.flow.vocab import PACKAGED, Vocab, load_vocab
from ttstrain.tensors.tensorfile import StoredTensor

# Length of a new row's own noise, as a share of the row's. A mean says little, and what tells rows apart is the noise.
_NOISE: Mapping[OriginKind, float] = {"similar": 0.05, "script": 0.3, "mean": 0.3}
_SHOWN = 6  # new tokens named in a note


@dataclass(frozen=True, slots=True)
class Transplant:
    """A table for another vocab, and where its rows come from."""

    table: Tensor  # (r, t)
    kept: int  # tokens that both vocabs hold
    dropped: int  # tokens of the old vocab only
    new: Mapping[str, OriginKind]  # new token -> what its row was made of
    sources: Mapping[str, tuple[str, ...]]  # new token -> the similar tokens it came from

    @property
    def rows(self) -> dict[str, int]:
        """Count the new rows of each kind."""
        return dict(Counter(self.new.values()))


def fit_vocab(base: OpenedCheckpoint, vocab: Vocab, *, named: str | None) -> AdaptedWeights:
    """Give a base the rows of another vocab; `named` is where its own is said to be.

    Raises CheckpointError when the base's vocab cannot be found.
    """
    stored = base.weights.get(TABLE)
    if stored is None:
        raise CheckpointError(f"`{base.path}` has no text table (`{TABLE}`): it is no whole net")
    found = _base_vocab(base, num_tokens=stored.shape[0] - 1, vocab=vocab, named=named)
    notes = () if found.note is None else (found.note,)
    if found.tokens == vocab.tokens:
        return AdaptedWeights(base.weights, notes=notes)
    made = transplant(stored.read(), old=found.tokens, new=vocab.tokens)
    weights: dict[str, Tensor | StoredTensor] = {**base.weights, TABLE: made.table}
    numbers = tuple(number for number, token in enumerate(vocab.tokens, start=1) if token in made.new)
    return AdaptedWeights(weights, notes=(*notes, *describe(made)), new_rows={TABLE: numbers} if numbers else {})


def transplant(table: Tensor, *, old: Sequence[str], new: Sequence[str]) -> Transplant:
    """Build the table of a new vocab from the rows (r, t) of an old one; row 0, the filler, stays."""
    index = {token: number for number, token in enumerate(old, start=1)}
    result = torch.empty(len(new) + 1, table.shape[1], dtype=table.dtype)
    result[0] = table[0]
    known = table[1:].float()
    length = known.norm(dim=1).median()
    origins = Origins(old)
    kinds: dict[str, OriginKind] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for number, token in enumerate(new, start=1):
        if token in index:
            result[number] = table[index[token]]
            continue
        origin = origins.of(token)
        kinds[token] = origin.kind
        if origin.kind == "similar":
            sources[token] = origin.tokens
        rows = known if origin.kind == "mean" else table[[index[source] for source in origin.tokens]].float()
        wanted = length if origin.kind == "mean" else rows.norm(dim=1).mean()
        result[number] = _row(rows, token, length=wanted, noise=_NOISE[origin.kind]).to(table.dtype)
    kept = sum(token in index for token in new)
    return Transplant(result, kept=kept, dropped=len(old) - kept, new=kinds, sources=sources)


def describe(made: Transplant) -> list[str]:
    """Say in a line or two what became of the rows."""
    counts = made.rows
    words = {
        "similar": "from similar tokens",
        "script": "from the mean of their script",
        "mean": "from the mean of all",
    }
    parts = [f"{counts[kind]:,} {word}" for kind, word in words.items() if kind in counts]
    line = f"another vocabulary than the base's: {made.kept:,} tokens keep their rows, {made.dropped:,} are left out"
    if not made.new:
        return [f"{line}, none is new"]
    shown = []
    for token in list(made.new)[:_SHOWN]:
        source = "+".join(made.sources.get(token, ())[:3])
        shown.append(f"{token!r} < {source!r}" if source else f"{token!r}")
    more = ", …" if len(made.new) > _SHOWN else ""
    return [f"{line}, {len(made.new):,} are new ({'; '.join(parts)}): {', '.join(shown)}{more}"]


# ---------------------------------------------------------------- one row


def _row(rows: Tensor, token: str, *, length: Tensor, noise: float) -> Tensor:
    """Average rows (k, t), give the result a length, and add noise that depends on nothing but the token."""
    mean = rows.mean(dim=0)
    if len(rows) > 1:
        size = mean.norm()
        mean = mean * (length / size) if size > 0 else mean
    seed = int.from_bytes(bytes.fromhex(sha256(token))[:8], "little") >> 1
    drawn = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    row: Tensor = mean + drawn * (noise * length / drawn.norm())
    return row


# ---------------------------------------------------------------- the base's vocab


@dataclass(frozen=True, slots=True)
class _Found:
    tokens: tuple[str, ...]
    note: str | None = None


def _base_vocab(base: OpenedCheckpoint, *, num_tokens: int, vocab: Vocab, named: str | None) -> _Found:
    """Find the base's vocab: where it is said to be, beside or in the base, by the size of the published one.

    Where the base has a hash of its vocab, no other is taken.
    """
    told = base.front_end.get(VOCAB)
    if named is not None:
        return _Found(_check_named(base, load_vocab(named, space_first=False), num_tokens=num_tokens, told=told))
    for source in _places(base):
        found = load_vocab(source, space_first=False)
        if len(found.tokens) == num_tokens and told in (None, f"sha256:{found.sha256}"):
            return _Found(found.tokens)
    published = load_vocab(EMILIA)
    if told is not None:
        for known in (published, vocab):
            if told == f"sha256:{known.sha256}":
                return _Found(known.tokens)
        raise CheckpointError(
            f"`{base.path}` was trained with another vocabulary than `model.vocab` ({told[:15]}…), and it lies neither "
            "beside the base nor in it: rows would be taken for other symbols",
            hint="give it as `model.base_vocab=vocab.txt`: rows are carried over by token",
        )
    if len(published.tokens) == num_tokens:
        note = "the base has the published vocabulary's size"
        return _Found(published.tokens, None if vocab.tokens == published.tokens else note)
    if len(vocab.tokens) == num_tokens:
        return _Found(vocab.tokens, "nothing says which vocabulary the base has; its size is that of `model.vocab`")
    raise CheckpointError(
        f"`{base.path}` has rows for {num_tokens:,} tokens, `model.vocab` has {len(vocab.tokens):,}, and the base's "
        "own vocabulary lies neither beside it nor in it",
        hint="give it as `model.base_vocab=vocab.txt`: rows are carried over by token",
    )


def _check_named(base: OpenedCheckpoint, named: Vocab, *, num_tokens: int, told: str | None) -> tuple[str, ...]:
    """Return the tokens of the vocab that the user gives for the base's own."""
    if len(named.tokens) != num_tokens:
        raise CheckpointError(
            f"`model.base_vocab` ({named.source}) has {len(named.tokens):,} tokens, `{base.path}` rows for "
            f"{num_tokens:,}",
            hint="name the vocab that this very file was trained with",
        )
    if told not in (None, f"sha256:{named.sha256}"):
        raise CheckpointError(
            f"`model.base_vocab` ({named.source}) is not the vocabulary that `{base.path}` was trained with: its hash "
            f"is {named.sha256[:8]}…, the base says {str(told).removeprefix('sha256:')[:8]}…",
            hint="name the vocab that this very file was trained with",
        )
    return named.tokens


def _places(base: OpenedCheckpoint) -> list[str]:
    places = [] if base.vocab is None else [str(base.vocab)]
    section = base.section.get("vocab")
    if isinstance(section, str) and (section in PACKAGED or Path(section).is_file()):
        places.append(section)
    return places
