"""Attention of a prefix language model: phonemes see all phonemes, tokens see all phonemes and the tokens before.

Whatever the layout, rows are flat: (n, h, c). No mask has a dimension of heads.
Legend: n rows, b clips, h heads, c channels of a head, l rows of a padded clip.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ttstrain.families.gpt_sovits.gpt.documents import Documents
from ttstrain.modules.cpu.attention import attend
from ttstrain.modules.cpu.switch import kernels_on


class Attend(Protocol):
    """Something that lets rows see others."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int, dropout: float) -> Tensor:
        """Attend from query (n, h, c) to key and value; return (n, h, c)."""
        ...


class Packed:
    """Attention within each of several documents that lie end to end."""

    def __init__(self, documents: Documents, *, padded: bool | None = None) -> None:
        """Attend document by document where the CPU's kernels are on; else padded inside each layer.

        On a GPU launches cost more than padding. `padded` chooses by hand.
        """
        self._documents = documents
        texts, audios = documents.text_lengths, documents.audio_lengths
        device = documents.slots.device
        self._padded = not kernels_on(device) if padded is None else padded
        if self._padded:
            visible = torch.zeros(len(texts) * documents.padded_width, dtype=torch.bool, device=device)
            visible = visible.index_fill(0, documents.slots, True).view(len(texts), -1)
            self._mask = prefix_mask(visible, num_text=max(texts))
            self._added: Tensor | None = None
        else:
            self._masks = {
                sizes: _causal_after(*sizes, device=device) for sizes in set(zip(texts, audios, strict=True))
            }

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int, dropout: float) -> Tensor:
        if self._padded:
            return self._all_at_once(query, key, value, dropout=dropout)
        return self._one_by_one(query, key, value, dropout=dropout)

    def _one_by_one(self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
        texts, audios = self._documents.text_lengths, self._documents.audio_lengths
        parts = [torch.split(_heads_first(tensor), [*texts, *audios], dim=1) for tensor in (query, key, value)]
        attended_texts, attended_audios = [], []
        for i, sizes in enumerate(zip(texts, audios, strict=True)):
            (text_q, text_k, text_v), (q, k, v) = (
                (part[i] for part in parts),
                (part[len(texts) + i] for part in parts),
            )
            attended_texts.append(attend(text_q, text_k, text_v, mask=None, dropout=dropout))
            keys, values = torch.cat([text_k, k], dim=1), torch.cat([text_v, v], dim=1)
            attended_audios.append(attend(q, keys, values, mask=self._masks[sizes], dropout=dropout))
        return torch.cat([*attended_texts, *attended_audios], dim=1).transpose(0, 1)

    def _all_at_once(self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
        slots, clips = self._documents.slots, len(self._documents.text_lengths)
        padded = [
            _spread(tensor, slots, clips=clips, width=self._documents.padded_width) for tensor in (query, key, value)
        ]
        if self._added is None or self._added.dtype != query.dtype:
            self._added = _additive(self._mask, query.dtype)
        attended = attend(*padded, mask=self._added, dropout=dropout)  # (b, h, l, c)
        return attended.transpose(1, 2).flatten(0, 1).index_select(0, slots)


class Masked:
    """Attention of padded clips under a mask (b, 1, l, l), True where a row may look."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int, dropout: float) -> Tensor:
        clips, width = len(self._mask), self._mask.shape[-1]
        padded = [tensor.view(clips, width, *tensor.shape[1:]).transpose(1, 2) for tensor in (query, key, value)]
        return attend(*padded, mask=self._mask, dropout=dropout).transpose(1, 2).flatten(0, 1)


class Cached:
    """Attention of one clip that grows: phonemes and first tokens at once, then a token at a time."""

    def __init__(self, documents: Documents) -> None:
        """Begin with the one clip of `documents`."""
        self._first = Packed(documents, padded=False)
        self._keys: dict[int, Tensor] = {}  # layer -> (room, h, c)
        self._values: dict[int, Tensor] = {}
        self._lengths: dict[int, int] = {}  # layer -> rows seen

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int, dropout: float) -> Tensor:
        new, seen = len(query), self._lengths.get(layer, 0)
        self._lengths[layer] = seen + new
        for table, rows in ((self._keys, key), (self._values, value)):
            table[layer] = _with_room(table.get(layer), rows, seen=seen)
        if not seen:
            return self._first(query, key, value, layer=layer, dropout=dropout)
        every = [table[layer][: seen + new] for table in (self._keys, self._values)]
        keys, values = (_heads_first(tensor) for tensor in every)
        return attend(_heads_first(query), keys, values, mask=None, dropout=dropout).transpose(0, 1)


def prefix_mask(visible: Tensor, *, num_text: int) -> Tensor:
    """Return (b, 1, l, l), True where a row may look: at texts, and from tokens at tokens up to themselves.

    `visible` (b, l) is False for columns that nobody may look at. A row of padding may look like any other; what it
    finds is not used.
    """
    width = visible.shape[1]
    places = torch.arange(width, device=visible.device)
    row, column = places[:, None], places[None]
    allowed = (column < num_text) | ((row >= num_text) & (column <= row))
    return (allowed & visible[:, None, :])[:, None]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a mask is True and -inf elsewhere, to be added to scores: made once for all layers.

    torch's memory-efficient kernel would make one for each layer and keep it for the backward pass. Its rows begin at
    multiples of eight numbers, as that kernel wants them.
    """
    rows, width = mask.shape[-2:]
    room = torch.zeros(len(mask), 1, rows, -(-width // 8) * 8, dtype=dtype, device=mask.device)
    return room[..., :width].masked_fill_(~mask, -torch.inf)


def _causal_after(num_text: int, num_audio: int, *, device: torch.device) -> Tensor:
    """Return (y, x + y), True where a token may look: at all phonemes and at tokens up to itself."""
    return torch.ones(num_audio, num_text + num_audio, dtype=torch.bool, device=device).tril(num_text)


def _heads_first(rows: Tensor) -> Tensor:
    return rows.transpose(0, 1)  # (h, n, c)


def _spread(rows: Tensor, slots: Tensor, *, clips: int, width: int) -> Tensor:
    """Put packed rows (n, h, c) where they are in padded clips: (b, h, l, c), 0 elsewhere."""
    padded = rows.new_zeros(clips * width, *rows.shape[1:]).index_copy(0, slots, rows)
    return padded.view(clips, width, *rows.shape[1:]).transpose(1, 2)


def _with_room(table: Tensor | None, rows: Tensor, *, seen: int) -> Tensor:
    """Append rows to a table that doubles when it is full."""
    end = seen + len(rows)
    if table is None or len(table) < end:
        grown = rows.new_empty(2 * end, *rows.shape[1:])
        if table is not None:
            grown[:seen] = table[:seen]
        table = grown
    table[seen:end] = rows
    return table
