"""Folders of peft: adapters over a Llama, read as the model that they make of their base, and written.

A folder holds adapter_config.json, adapter_model.safetensors and, after upstream's scripts, whole matrices for head and
embedding among the adapters. What it is worth depends on its base, which only its name is kept of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttstrain import documents
from ttstrain.checkpoint.upstream import follow, resolve_base
from ttstrain.contract.export import Adapters, Source
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus.config import PREFIX
from ttstrain.modules import stored_lora as adapted
from ttstrain.modules.lora import DOWN, MAGNITUDE, UP
from ttstrain.modules.quiet import quiet_bitsandbytes
from ttstrain.places import expanded
from ttstrain.tensors import tensorfile
from ttstrain.tensors.hub import HUB, find_cached
from ttstrain.tensors.tensorfile import StoredTensor

SETTINGS: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
KEY: Final = "base_model.model."  # before every key
EMBEDDING, HEAD = f"{PREFIX}model.embed_tokens.weight", f"{PREFIX}lm_head.weight"
_MOST_RANK: Final = 1 << 20  # no layer is as wide
_MOST_ALPHA: Final = 1e6
_MERGE: Final = "merge it into its base with peft's `merge_and_unload` and give the merged folder"
_ADAPTER: Final = rf"\.({DOWN}|{UP}|{MAGNITUDE})\.weight$"
_LINEAR: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Settings that change what the tensors mean and are not read here, with the values under which they do not.
_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
}


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """What an adapter_config.json says."""

    path: Path
    base: str
    scaling: float
    dora: bool
    rank: int
    tied: bool  # a whole embedding or head stands for both

    def describe(self) -> str:
        """Name the adapter for people."""
        return f"{'DoRA' if self.dora else 'LoRA'} of rank {self.rank} over `{self.base}`, merged on loading"


def is_adapter_file(tree: Mapping[str, Any]) -> bool:
    """Tell adapters of a Llama by their keys."""
    return any(str(key).startswith(f"{KEY}model.layers.0.self_attn.") for key in tree)


def read_settings(weights: Path) -> AdapterSettings:
    """Read the settings beside a file of adapters. Raises CheckpointError where they are missing or not understood."""
    path = weights.parent / SETTINGS
    if not path.is_file():
        raise CheckpointError(
            f"`{weights}` is an adapter, but its `{SETTINGS}` is missing", hint="copy the whole folder"
        )
    stated = documents.read_object(path, error=CheckpointError, keys={"peft_type": str, "r": int, "lora_alpha": float})
    kind, rank, alpha = stated["peft_type"], stated["r"], float(stated["lora_alpha"])
    if kind != "LORA":
        raise CheckpointError(f"`{path.parent}` is an adapter of type {kind}; only LORA is supported", hint=_MERGE)
    if not 0 < rank < _MOST_RANK or not 0 < alpha < _MOST_ALPHA:
        raise CheckpointError(f"`{path}` cannot be read: `r` is {rank:,} and `lora_alpha` {alpha:g}")
    for key, plain in _PLAIN.items():
        if stated.get(key, plain[0]) not in plain:
            raise CheckpointError(f"`{path}` sets `{key}`, which is not supported", hint=_MERGE)
    base = stated.get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"`{path}` does not name the adapter's base model",
            hint=f"write its folder into `base_model_name_or_path`; or {_MERGE}",
        )
    return AdapterSettings(
        path=path,
        base=str(base),
        scaling=alpha / (rank**0.5 if stated.get("use_rslora") else rank),
        dora=bool(stated.get("use_dora")),
        rank=rank,
        tied=bool(stated.get("ensure_weight_tying")),
    )


def find_base(settings: AdapterSettings) -> Path:
    """Find the base's weights: a folder of this machine, or what was downloaded before.

    Raises CheckpointError with the way out when it is not here: looking at an adapter fetches nothing.
    """
    named = expanded(settings.base)
    for folder in (named, settings.path.parent / named):
        if folder.exists():
            return follow(folder)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", settings.base):
        found = find_cached(f"{HUB}{settings.base}")
        if found is not None:
            return follow(found)
    raise CheckpointError(
        f"`{settings.path.parent}` is an adapter over `{settings.base}`, which is not on this machine",
        hint=f"write the base's folder into `base_model_name_or_path` of `{settings.path}`; or {_MERGE}",
    )


def lay_over(
    base: Mapping[str, StoredTensor], tree: Mapping[str, Any], settings: AdapterSettings
) -> dict[str, StoredTensor]:
    """Return a base's tensors with adapters merged when read, and whole matrices in place of the base's.

    Raises CheckpointError for a key that fits nothing, which would otherwise be lost.
    """
    adapters: dict[str, StoredTensor] = {}
    whole: dict[str, StoredTensor] = {}
    for key, stored in tree.items():
        name = PREFIX + _plain(str(key))
        layer = re.sub(_ADAPTER, "", name)
        if layer != name and f"{layer}.weight" in base:
            adapters[name] = stored
        elif name in base or name == HEAD:
            whole[name] = stored
        else:
            raise CheckpointError(f"`{settings.path.parent}`: `{settings.base}` has no layer for `{key}`", hint=_MERGE)
    _check_shapes(base, adapters, whole, settings)
    if integers := [name for name, own in (adapters | whole).items() if not own.dtype.is_floating_point]:
        name = integers[0]
        raise CheckpointError(
            f"`{settings.path.parent}` holds whole numbers ({(adapters | whole)[name].dtype}) for "
            f"`{name.removeprefix(PREFIX)}`",
            hint="the file is damaged: copy or download it again",
        )
    tensors = {**base, **whole}
    if HEAD not in base and not settings.tied:  # peft unties what is saved apart
        if HEAD in whole and EMBEDDING not in whole:
            tensors[EMBEDDING] = base[EMBEDDING]
        elif EMBEDDING in whole and HEAD not in whole:
            tensors[HEAD] = base[EMBEDDING]
    return adapted.merged({**tensors, **adapters}, scaling=settings.scaling)


def _check_shapes(
    base: Mapping[str, StoredTensor],
    adapters: Mapping[str, StoredTensor],
    whole: Mapping[str, StoredTensor],
    settings: AdapterSettings,
) -> None:
    """Raise CheckpointError where adapters do not make a matrix of their layer's shape, or one of a pair is missing.

    A whole embedding or head may have more rows than the base's: those of tokens that its training added.
    """
    wanted = {name: _like(base[name if name in base else EMBEDDING], own, name) for name, own in whole.items()}
    for layer in {re.sub(_ADAPTER, "", name) for name in adapters}:
        rows, columns = (*base[f"{layer}.weight"].shape, 0, 0)[:2]
        wanted |= {f"{layer}.{DOWN}.weight": (settings.rank, columns), f"{layer}.{UP}.weight": (rows, settings.rank)}
        wanted |= {f"{layer}.{MAGNITUDE}.weight": (rows,)} if settings.dora else {}
    found = {name: stored.shape for name, stored in {**adapters, **whole}.items()}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            shapes = (
                " x ".join(map(str, shape)) if shape else "nothing" for shape in (found.get(name), wanted.get(name))
            )
            raise CheckpointError(
                f"`{settings.path.parent}` does not fit its base: `{name.removeprefix(PREFIX)}` is "
                f"{' where '.join(shapes)} is expected",
                hint=f"`r` and `use_dora` in `{SETTINGS}` must be those of the training; or {_MERGE}",
            )


def _like(base: StoredTensor, own: StoredTensor, name: str) -> tuple[int, ...]:
    return (*own.shape[:1], *base.shape[1:]) if name in (EMBEDDING, HEAD) else base.shape


def trained_apart(tree: Mapping[str, Any], *, tied: bool) -> dict[str, StoredTensor]:
    """Return a file's tensors under the task's names; a matrix that head and embedding share once."""
    named = {PREFIX + _plain(str(key)): stored for key, stored in tree.items()}
    return {name: stored for name, stored in named.items() if not (tied and name == HEAD)}


def _plain(key: str) -> str:
    """Return a key of peft's file as the base names it, adapters with `.weight` at their end."""
    plain = key.removeprefix(KEY).replace(".modules_to_save.default", "").replace(".base_layer", "")
    return f"{plain}.weight" if plain.endswith(MAGNITUDE) else plain


# ---------------------------------------------------------------- writing


def write(source: Source, folder: Path) -> Path:
    """Write a run's adapters as peft's `save_pretrained` does; return the file of weights.

    Raises CheckpointError where there are none apart from the weights, or where the base is no folder that peft loads.
    """
    adapters = source.adapters
    if adapters is None:
        raise CheckpointError(
            f"`{source.name}` has no separate adapters (weights `{source.chosen}`): all were trained, or blended",
            hint="export the whole model: `--format bf16`",
        )
    base = _base_folder(source)
    quiet_bitsandbytes()
    from peft import LoraConfig

    settings = adapters.settings
    whole = dict(adapters.whole)
    one_matrix = EMBEDDING in whole and HEAD not in source.weights
    if one_matrix:
        whole[HEAD] = whole[EMBEDDING]  # peft writes it under both names, and wants to read it so
    saved = sorted({key.removeprefix(PREFIX).removesuffix(".weight") for key in adapters.whole})
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(adapters, num_layers=_num_layers(source)),
        modules_to_save=saved or None,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        ensure_weight_tying=one_matrix,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    tensors = {_as_peft(key): tensor.cpu().contiguous() for key, tensor in adapters.tensors.items()}
    tensors |= {_as_peft(key): tensor.cpu().contiguous() for key, tensor in whole.items()}
    tensorfile.write(folder / WEIGHTS, tensors, metadata={"format": "pt"})
    return folder / WEIGHTS


def _base_folder(source: Source) -> str:
    """Return how peft is to find the base: a folder on this machine, or the Hub's name."""
    if source.base is None:
        raise CheckpointError(
            f"`{source.name}` trained adapters over randomly initialized weights, which are not published anywhere",
            hint="export the whole model: `--format bf16`",
        )
    found = resolve_base(source.base)
    if not found.is_file() or not (found.parent / "config.json").is_file():
        raise CheckpointError(
            f"the base of `{source.name}` is `{source.base}`, and peft can only load folders of transformers",
            hint="export the whole model (`--format bf16`), or export that base first and train over its folder",
        )
    return source.base.removeprefix(HUB) if source.base.startswith(HUB) else str(found.parent.resolve())


def _targets(adapters: Adapters, *, num_layers: int) -> list[str]:
    """Return the adapted layers as others expect them, by their last names, where that means the same."""
    names = [name.removeprefix(PREFIX) for name in adapters.targets]
    ends = {name.rpartition(".")[2] for name in names}
    complete = ends <= set(_LINEAR) and len(names) == len(ends) * num_layers
    return [name for name in _LINEAR if name in ends] if complete else names


def _num_layers(source: Source) -> int:
    return len({key.split(".")[3] for key in source.weights if key.startswith(f"{PREFIX}model.layers.")})


def _as_peft(key: str) -> str:
    plain = KEY + key.removeprefix(PREFIX)
    return plain.removesuffix(".weight") if plain.endswith(f".{MAGNITUDE}.weight") else plain
