"""Hugging Face folders of Llamas with audio tokens, and contradictions in them.

A folder holds config.json, model.safetensors (or shards and their index) and a tokenizer. Three facts should be one:
the ids of the tokenizer, `vocab_size`, and the rows of the embedding. In released folders they differ by one or two;
the embedding's rows are used, and differences are noted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from ttstrain import documents
from ttstrain.contract.checkpoint import Label, OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus import peft_folder
from ttstrain.families.orpheus.config import PREFIX, OrpheusConfig, RopeScaling
from ttstrain.families.orpheus.export_texts import FACTS
from ttstrain.families.orpheus.ids import MOST_TOKENIZER_BYTES, NUM_CUSTOM, PUBLISHED, TokenIds
from ttstrain.families.orpheus.shapes import shapes
from ttstrain.families.orpheus.trainer_folder import read_trainer_state
from ttstrain.tensors.contents import Contents, read_contents
from ttstrain.tensors.tensorfile import StoredTensor

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
FIRST_LAYER: Final = "model.layers.0.self_attn.q_proj.weight"
SIZES: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_MOST: Final = 1 << 24  # of a size: no net comes near
_MOST_LAYERS: Final = 1 << 12
IDENTITY: Final = (*SIZES, "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "tie_word_embeddings")


class OrpheusFormat:
    """Reads what transformers writes of a Llama with audio tokens."""

    name = "orpheus"

    def sniff(self, contents: Contents) -> bool:
        """Tell by the keys of a Llama, or of an adapter to one."""
        tree = contents.tree
        return isinstance(tree, Mapping) and (
            {EMBEDDING, FIRST_LAYER} <= set(tree) or peft_folder.is_adapter_file(tree)
        )

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate to `net.*` keys. Raises CheckpointError for what is no Llama, or none with audio tokens."""
        tree = contents.tree
        assert isinstance(tree, Mapping)
        if FIRST_LAYER not in tree:
            return self._over_base(contents, tree)
        tensors = {str(key): value for key, value in tree.items() if isinstance(value, StoredTensor)}
        settings = _settings(contents.path)
        rows = tensors[EMBEDDING].shape[0]
        if rows < PUBLISHED.end_audio and not _counts_as_small(contents.path.parent):
            raise CheckpointError(
                f"`{contents.path}` is a Llama without audio tokens: it has {rows:,} tokens, audio tokens end at "
                f"{PUBLISHED.end_audio:,}",
                hint="start from an Orpheus model, such as hf://canopylabs/orpheus-3b-0.1-pretrained",
            )
        tied, tie_notes = _tied(tensors, settings, contents.path)
        config = _architecture(settings, contents.path) | {"tie_word_embeddings": tied}
        weights = {PREFIX + key: value for key, value in tensors.items() if not (tied and key == HEAD)}
        label = self.label(config | {"vocab_size": rows})
        order = [name for name in _registered(config, rows) if name in weights]
        training = read_trainer_state(contents.path.parent, weights, order)
        return OpenedCheckpoint(
            path=contents.path,
            family="orpheus",
            task="orpheus",
            kind="base" if training is None else "training",
            model=label.model,
            version=label.version,
            config=config,
            unknown=(),
            weights=weights,
            optimizer_state=None if training is None else training.optimizer_state,
            groups=() if training is None else training.groups,
            schedule=None if training is None else training.schedule,
            step=None if training is None else training.step,
            section=_section(contents.path.parent, config, rows),
            globals=contents.globals,
            notes=(
                *_vocabulary_notes(rows, settings, contents.path.parent),
                *tie_notes,
                *(() if training is None else training.notes),
            ),
        )

    def _over_base(self, contents: Contents, tree: Mapping[str, Any]) -> OpenedCheckpoint:
        """Read adapters as the model that they make of their base."""
        settings = peft_folder.read_settings(contents.path)
        base = self.read(read_contents(peft_folder.find_base(settings)))
        weights = peft_folder.lay_over(base.weights, tree, settings)
        tied = PREFIX + HEAD not in weights or _equal(weights[PREFIX + HEAD], weights[PREFIX + EMBEDDING])
        if tied:
            weights.pop(PREFIX + HEAD, None)
        config = {**base.config, "tie_word_embeddings": tied}
        section = {**base.section, **config}
        if (own := _token_ids(contents.path.parent)) is not None:
            section |= _section(contents.path.parent, config, weights[PREFIX + EMBEDDING].shape[0], ids=own)
        return replace(
            base,
            path=contents.path,
            kind="adapter",
            weights=weights,
            adapters=peft_folder.trained_apart(tree, tied=tied),
            optimizer_state=None,
            groups=(),
            schedule=None,
            step=None,
            config=config,
            section=section,
            notes=(*base.notes, settings.describe()),
        )

    def label(self, model: Mapping[str, Any]) -> Label:
        """Name the published net that a `model:` section describes, or describe it."""
        config = {key: model[key] for key in IDENTITY if key in model}
        published = OrpheusConfig()
        if all(model.get(key) == getattr(published, key) for key in SIZES):
            return Label("Orpheus 3B", "0.1", config)
        described = f"Llama, width {model.get('hidden_size')}, {model.get('num_hidden_layers')} layers"
        return Label(described, "own size", config)


# ---------------------------------------------------------------- config.json


def _settings(path: Path) -> Mapping[str, Any]:
    file = path.parent / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"`{path}` has a Llama's weights, but its `config.json` is missing",
            hint="copy the whole folder: the number of heads and rotary settings are only in that file",
        )
    settings = _json(file)
    kind = settings.get("model_type")
    if kind != "llama":
        raise CheckpointError(f"`{path.parent}` is a `{kind}`, not a `llama`: Orpheus models are Llamas")
    for key in ("attention_bias", "mlp_bias"):
        if settings.get(key):
            raise CheckpointError(f"`{file}` states `{key}: true`, which no Orpheus model uses")
    return settings


def _json(file: Path) -> Mapping[str, Any]:
    return documents.read_object(file, error=CheckpointError)


def _architecture(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Read sizes and rotary positions, as transformers 4 writes them or as transformers 5 does."""
    file = path.parent / "config.json"
    missing = [key for key in SIZES if settings.get(key) is None and key != "num_key_value_heads"]
    if missing:
        raise CheckpointError(f"`{file}` lacks {', '.join(missing)}")
    rope = settings.get("rope_parameters") or {}
    scaling = rope or settings.get("rope_scaling") or {}
    _check_numbers(settings, rope, scaling, file)
    heads = settings["num_attention_heads"]
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError(f"`{file}` scales rotary positions by `{kind}`; only Llama 3's scaling is supported")
    stretch = {key: scaling[key] for key in RopeScaling.model_fields if key in scaling} if kind == "llama3" else None
    try:
        rope_scaling = None if stretch is None else RopeScaling.model_validate(stretch).model_dump()
    except ValidationError as error:
        raise CheckpointError(
            f"`{file}` does not have Llama 3's settings for scaled rotary positions: {error}"
        ) from error
    return {
        **{key: heads if settings.get(key) is None else settings[key] for key in SIZES},
        "head_dim": settings.get("head_dim") or settings["hidden_size"] // heads,
        "rms_norm_eps": float(settings.get("rms_norm_eps", 1e-6)),
        "rope_theta": float(rope.get("rope_theta", settings.get("rope_theta", 10_000.0))),
        "rope_scaling": rope_scaling,
    }


def _check_numbers(settings: Mapping[str, Any], rope: Any, scaling: Any, file: Path) -> None:
    """Raise CheckpointError where a setting of the net is no number of its kind."""
    if not isinstance(rope, Mapping) or not isinstance(scaling, Mapping):
        raise CheckpointError(f"`{file}` cannot be read: its rotary positions are no table of settings")
    whole = {key: settings[key] for key in (*SIZES, "head_dim", "vocab_size") if settings.get(key) is not None}
    wrong = [key for key, value in whole.items() if type(value) is not int or not 0 < value < _MOST]
    if not wrong and settings["num_hidden_layers"] > _MOST_LAYERS:
        wrong.append("num_hidden_layers")
    real = {"rms_norm_eps": settings.get("rms_norm_eps", 1e-6)}
    real["rope_theta"] = rope.get("rope_theta", settings.get("rope_theta", 1e4))
    wrong += [key for key, value in real.items() if type(value) not in (int, float) or not 0 < value < math.inf]
    if wrong:
        raise CheckpointError(f"`{file}` cannot be read: `{wrong[0]}` is not a number that it could be")


def _registered(config: Mapping[str, Any], rows: int) -> list[str]:
    """List the parameters in the order in which the model registers them; a file keeps them in another."""
    sizes = {key: config[key] for key in (*SIZES, "head_dim", "tie_word_embeddings")}
    return [name for name, _ in shapes(OrpheusConfig.model_construct(**sizes, vocab_size=rows))]


def _section(folder: Path, config: Mapping[str, Any], rows: int, *, ids: TokenIds | None = None) -> dict[str, Any]:
    """Return the `model:` section for inference, as far as the folder has it; empty without audio tokens."""
    ids = _token_ids(folder) if ids is None else ids
    if ids is None:
        return {}
    stated = _facts(folder)
    section = {
        **config,
        "vocab_size": rows,
        "text_vocab_size": ids.first_custom,
        "bos_token_id": ids.bos,
        "eot_token_id": ids.eot,
        "rows": {**stated.get("rows", {}), "tokenizer": str(folder)},
    }
    return section | ({"sampling": stated["sampling"]} if "sampling" in stated else {})


def _facts(folder: Path) -> Mapping[str, Any]:
    """Read what our own export says beside a model; empty in a folder of others."""
    file = folder / FACTS
    if not file.is_file():
        return {}
    stated = _json(file).get("ttstrain", {})
    if not isinstance(stated, Mapping) or not isinstance(stated.get("rows", {}), Mapping):
        raise CheckpointError(f"`{file}` cannot be read: it was changed after the export", hint="export the run again")
    return stated


# ---------------------------------------------------------------- what should agree


def _tied(tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any], path: Path) -> tuple[bool, list[str]]:
    """Decide by the tensors whether embedding and head are one matrix; the flag in config.json may be wrong."""
    claimed = bool(settings.get("tie_word_embeddings", False))
    if HEAD not in tensors:
        if not claimed:
            raise CheckpointError(
                f"`{path}` has no `{HEAD}`, but its config.json states untied embeddings",
                hint="the folder is incomplete, or `tie_word_embeddings` should be true",
            )
        return True, []
    same = _equal(tensors[HEAD], tensors[EMBEDDING])
    if same and not claimed:
        return False, ["head and embedding are equal but not tied: they will differ after training"]
    if not same and claimed:
        return False, ["config.json ties head and embedding, but the file has two different matrices: loaded untied"]
    return same, []


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(
        bool(torch.equal(a, b)) for a, b in zip(one.pieces(), other.pieces(), strict=True)
    )


def _vocabulary_notes(rows: int, settings: Mapping[str, Any], folder: Path) -> list[str]:
    notes = []
    claimed = settings.get("vocab_size")
    if claimed is not None and claimed != rows:
        notes.append(
            f"config.json states vocab_size {claimed:,}, but there are {rows:,} token embeddings: used {rows:,}"
        )
    size = _tokenizer_size(folder)
    if size is not None and size != rows:
        notes.append(f"the tokenizer beside it has {size:,} ids, but there are {rows:,} token embeddings")
    return notes


def _tokenizer_size(folder: Path) -> int | None:
    """Read how many ids a tokenizer.json has, without the library that uses it."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    content = _tokenizer(file)
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    ids: list[Any] = [*vocab.values()] if isinstance(vocab, dict) else []
    if isinstance(vocab, list):
        ids = [len(vocab) - 1]
    if not all(type(number) is int for number in ids):
        raise CheckpointError(f"`{file}` cannot be read: an id of its vocabulary is not an integer")
    return 1 + max([*ids, *_added(content, file).values()], default=-1)


def _tokenizer(file: Path) -> Mapping[str, Any]:
    return documents.read_object(file, error=CheckpointError, most_bytes=MOST_TOKENIZER_BYTES)


def _added(content: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Map the tokens that were added to a tokenizer to their ids."""
    tokens = content.get("added_tokens") or []
    keys: dict[str, type] = {"content": str, "id": int}
    try:
        return {token["content"]: token["id"] for token in (documents.check_object(one, keys) for one in tokens)}
    except (documents.DocumentError, TypeError) as error:
        raise CheckpointError(f"`{file}` cannot be read: an added token is invalid ({error})") from error


def _counts_as_small(folder: Path) -> bool:
    """Tell whether a small vocabulary is whole: its own tokenizer has audio tokens."""
    return _token_ids(folder) is not None


def _token_ids(folder: Path) -> TokenIds | None:
    """Find what ids mean in the tokenizer.json of a folder; None where it has no audio tokens, or there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    ids = _added(_tokenizer(file), file)
    first, last = ids.get("<custom_token_0>"), ids.get(f"<custom_token_{NUM_CUSTOM - 1}>")
    bos, eot = ids.get("<|begin_of_text|>"), ids.get("<|eot_id|>")
    if first is None or bos is None or eot is None or last != first + NUM_CUSTOM - 1:
        return None
    return TokenIds(first_custom=first, bos=bos, eot=eot)
