"""Embedding transplant: moves a base's token embeddings to another vocab, by token and not by index.

A token of both vocabs keeps its embedding, bit for bit. A new token starts from the embeddings of its nearest tokens
(`Ş` from `S`, `が` from `か`, `lue4` from `lue`), else from the mean of its script, else from the mean of all. A new
embedding has the norm of those it comes from, and a little noise of its own, so that no two are equal.

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
from ttstrain.families.flow.interpretations import TABLE
from ttstrain.families.flow.nearest_tokens import OriginKind, Origins
from ttstrain.families.flow.vocab import PACKAGED, PUBLISHED, Vocab, load_vocab
from ttstrain.tensors.tensorfile import StoredTensor

# Norm of a new embedding's noise, as a share of the embedding's norm; larger for means, which are all similar.
_NOISE: Mapping[OriginKind, float] = {"similar": 0.05, "script": 0.3, "mean": 0.3}
_SHOWN = 6  # new tokens named in a note


@dataclass(frozen=True, slots=True)
class Transplant:
    """Token embeddings for another vocab, and where they come from."""

    table: Tensor  # (r, t)
    kept: int  # tokens that both vocabs hold
    dropped: int  # tokens of the old vocab only
    new: Mapping[str, OriginKind]  # new token -> what its embedding was made from
    sources: Mapping[str, tuple[str, ...]]  # new token -> the similar tokens it came from

    @property
    def rows(self) -> dict[str, int]:
        """Count the new embeddings of each kind."""
        return dict(Counter(self.new.values()))


def fit_vocab(base: OpenedCheckpoint, vocab: Vocab, *, named: str | None) -> AdaptedWeights:
    """Adapt a base's token embeddings to another vocab; `named` is the user's path to the base's own vocab.

    Raises CheckpointError when the base's vocab cannot be found.
    """
    stored = base.weights.get(TABLE)
    if stored is None:
        raise CheckpointError(f"`{base.path}` has no token embeddings (`{TABLE}`): it is not a complete net")
    found = _base_vocab(base, num_tokens=stored.shape[0] - 1, vocab=vocab, named=named)
    notes = () if found.note is None else (found.note,)
    if found.tokens == vocab.tokens:
        return AdaptedWeights(base.weights, notes=notes)
    made = transplant(stored.read(), old=found.tokens, new=vocab.tokens)
    weights: dict[str, Tensor | StoredTensor] = {**base.weights, TABLE: made.table}
    numbers = tuple(number for number, token in enumerate(vocab.tokens, start=1) if token in made.new)
    return AdaptedWeights(weights, notes=(*notes, *describe(made)), new_embeddings={TABLE: numbers} if numbers else {})


def transplant(table: Tensor, *, old: Sequence[str], new: Sequence[str]) -> Transplant:
    """Build the table of a new vocab from that of an old one (r, t); row 0, the filler, stays."""
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
    """Summarize the transplant in a line or two."""
    counts = made.rows
    words = {
        "similar": "from similar tokens",
        "script": "from the mean of their script",
        "mean": "from the mean of all",
    }
    parts = [f"{counts[kind]:,} {word}" for kind, word in words.items() if kind in counts]
    line = (
        f"the vocab differs from the base's: {made.kept:,} tokens keep their embeddings, {made.dropped:,} are dropped"
    )
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
    """Find the base's vocab: the user's, the one beside or in the base, or the published one if its size fits.

    If the base states a hash of its vocab, the vocab must match it.
    """
    told = base.front_end.get(VOCAB)
    if named is not None:
        return _Found(_check_named(base, load_vocab(named, space_first=False), num_tokens=num_tokens, told=told))
    for source in _places(base):
        found = load_vocab(source, space_first=False)
        if len(found.tokens) == num_tokens and told in (None, f"sha256:{found.sha256}"):
            return _Found(found.tokens)
    published = load_vocab(PUBLISHED)
    if told is not None:
        for known in (published, vocab):
            if told == f"sha256:{known.sha256}":
                return _Found(known.tokens)
        raise CheckpointError(
            f"`{base.path}` was trained with another vocab than `model.vocab` ({told[:15]}…), and that vocab was not "
            "found: embeddings would be assigned to wrong tokens",
            hint="set `model.base_vocab=vocab.txt` to the base's vocab: embeddings are then matched by token",
        )
    if len(published.tokens) == num_tokens:
        note = "assumed the published vocab for the base, by its size"
        return _Found(published.tokens, None if vocab.tokens == published.tokens else note)
    if len(vocab.tokens) == num_tokens:
        return _Found(vocab.tokens, "the base does not state its vocab; assumed `model.vocab`, which has the same size")
    raise CheckpointError(
        f"`{base.path}` has embeddings for {num_tokens:,} tokens, `model.vocab` has {len(vocab.tokens):,}, and the "
        "base's own vocab was not found",
        hint="set `model.base_vocab=vocab.txt` to the base's vocab: embeddings are then matched by token",
    )


def _check_named(base: OpenedCheckpoint, named: Vocab, *, num_tokens: int, told: str | None) -> tuple[str, ...]:
    """Return the tokens of the vocab that the user gives for the base's own."""
    if len(named.tokens) != num_tokens:
        raise CheckpointError(
            f"`model.base_vocab` ({named.source}) has {len(named.tokens):,} tokens, but `{base.path}` has embeddings "
            f"for {num_tokens:,}",
            hint="give the vocab that this file was trained with",
        )
    if told not in (None, f"sha256:{named.sha256}"):
        raise CheckpointError(
            f"`model.base_vocab` ({named.source}) is not the vocab that `{base.path}` was trained with: its hash "
            f"is {named.sha256[:8]}…, the base states {str(told).removeprefix('sha256:')[:8]}…",
            hint="give the vocab that this file was trained with",
        )
    return named.tokens


def _places(base: OpenedCheckpoint) -> list[str]:
    places = [] if base.vocab is None else [str(base.vocab)]
    section = base.section.get("vocab")
    if isinstance(section, str) and (section in PACKAGED or Path(section).is_file()):
        places.append(section)
    return places
