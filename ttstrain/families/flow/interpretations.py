"""The settings that a checkpoint's tensors could belong to. Imports no torch.

v0 and v1 nets have the same names and shapes, and so have nets for the two mels: only their loss on speech tells them
apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ttstrain.contract.checkpoint import Interpretation
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.vocab import PUBLISHED, load_vocab

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint

TABLE = "transformer.text_embed.text_embed.weight"
VERSIONS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"text_mask_padding": True, "pe_attn_head": None},
    "v0": {"text_mask_padding": False, "pe_attn_head": 1},
}
_MELS = ("vocos", "bigvgan")


def list_interpretations(opened: OpenedCheckpoint, *, vocab: str | None) -> list[Interpretation]:
    """List v0 and v1 flags with either mel, and the checkpoint's own flags where they are none of these.

    Raises CheckpointError when the checkpoint's vocab cannot be found.
    """
    known = {**opened.config, **opened.section}
    if vocab is not None or "vocab" not in known:
        known |= _front_end(opened, vocab)
    flags = ("text_mask_padding", "pe_attn_head", "mel")
    stated = {key: known[key] for key in flags if key in known}
    found = [
        _interpretation(f"{version}, {mel}", {**settings, "mel": mel}, known=known, stated=stated)
        for version, settings in VERSIONS.items()
        if settings["text_mask_padding"] or not known.get("text_embedding_average_upsampling")
        for mel in _MELS
    ]
    if len(stated) == len(flags) and not any(interpretation.stated for interpretation in found):
        found.append(_interpretation("its own flags", stated, known=known, stated=stated))
    return found


def _interpretation(
    name: str, settings: Mapping[str, Any], *, known: Mapping[str, Any], stated: Mapping[str, Any]
) -> Interpretation:
    return Interpretation(name, model={**known, **settings}, settings=settings, stated=settings == stated)


def _front_end(opened: OpenedCheckpoint, named: str | None) -> dict[str, str]:
    """Find the vocab: the one named, the one beside the file, or the published one if its size fits."""
    num_tokens = opened.weights[TABLE].shape[0] - 1
    beside = None if opened.vocab is None else str(opened.vocab)
    for source in (named, beside, PUBLISHED):
        if source is None:
            continue
        tokens = load_vocab(source, space_first=False).tokens
        if len(tokens) == num_tokens:
            return {"vocab": source, "tokenizer": "pinyin" if tokens[0] == " " else "custom"}
        if source == named:
            raise CheckpointError(
                f"`{named}` has {len(tokens):,} tokens, but `{opened.path}` has embeddings for {num_tokens:,}"
            )
    raise CheckpointError(
        f"the vocab of `{opened.path}` ({num_tokens:,} tokens) is not beside it",
        hint="name it: `--vocab vocab.txt`",
    )
