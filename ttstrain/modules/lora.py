"""LoRA adapters over a module's linear layers: adding, loading base weights, merging, extracting.

The layers are peft's, whose parameters are called `<layer>.base_layer.weight` and `<layer>.lora_A.default.weight`.
Names shown to people or other programs are plain: `<layer>.weight`, `<layer>.lora_A.weight`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.modules.quiet import quiet_bitsandbytes
from ttstrain.recipe.schema import LoraConfig

ADAPTER = "default"  # peft's name of the one adapter
DOWN, UP, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_PLAIN = re.compile(
    rf"\.base_layer(?=\.)|(?<=\.{DOWN})\.{ADAPTER}|(?<=\.{UP})\.{ADAPTER}|(?<=\.{MAGNITUDE})\.{ADAPTER}"
)


def check_installed(config: LoraConfig | None) -> None:
    """Raise RecipeError when adapters are requested and peft, or what a base in 4 bits needs, is not installed."""
    if config is None:
        return
    if importlib.util.find_spec("peft") is None:
        raise RecipeError("`lora` needs peft", hint="pip install 'ttstrain[lora]'")
    if config.base == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError("`lora.base=nf4` needs bitsandbytes", hint="pip install 'ttstrain[nf4]'")


def add_lora(module: nn.Module, config: LoraConfig, *, default_targets: Sequence[str] = ()) -> list[str]:
    """Adapt linear layers in place, freeze all other parameters, and return the names of the layers.

    The adapters are in float32 and have no effect yet: their second matrix is zero. The first is drawn from torch's
    global generator.
    Raises RecipeError when peft is missing or a pattern matches no linear layer.
    """
    check_installed(config)
    quiet_bitsandbytes()
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    names = _linear_layers(module, _targets(config, default_targets))
    adapter = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="|".join(re.escape(name) for name in names),
        use_dora=config.dora,
        use_rslora=config.rslora,
    )
    inject_adapter_in_model(adapter, module, adapter_name=ADAPTER)
    for name, parameter in module.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()  # over a base in half precision, too, as peft's own models do
    _unfreeze(module, config.unfrozen)
    return names


def plain_name(name: str) -> str:
    """Return a parameter's name without peft's additions; a name without them as it is."""
    return _PLAIN.sub("", name)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Map the names of a module's adapted layers to the layers."""
    return {name: layer for name, layer in module.named_modules() if DOWN in dict(layer.named_children())}


def scaling_of(config: LoraConfig) -> float:
    """Return the scale of the adapters' product."""
    return float(config.alpha / (config.rank**0.5 if config.rslora else config.rank))


# ---------------------------------------------------------------- weights in


def with_adapters(module: nn.Module, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a base's tensors under an adapted module's own names, with its adapters as they are now.

    A module without adapters gets the tensors back untouched.
    """
    if not adapted_layers(module):
        return tensors
    own = {plain_name(name): name for name in module.state_dict()}
    adapters = {name: tensor for name, tensor in module.state_dict().items() if is_adapter(name)}
    current = {name: tensor for name, tensor in adapters.items() if name not in tensors}
    return {own.get(name, name): tensor for name, tensor in tensors.items()} | current


@torch.no_grad()
def set_magnitudes(module: nn.Module) -> None:
    """Set DoRA's magnitude vectors from the norms of the base weights that were loaded.

    Raises CheckpointError for a layer with an all-zero row, which would train to NaN.
    """
    for name, layer in adapted_layers(module).items():
        if MAGNITUDE not in dict(layer.named_children()) or not len(layer.lora_magnitude_vector):
            continue
        lengths = _lengths(_moved(layer))
        if bool((lengths == 0).any()):
            raise CheckpointError(
                f"`lora.dora` cannot adapt layer `{name}`: rows of its base weight are all zeros",
                hint="leave it out of `lora.targets`, or set `lora.dora=false`",
            )
        layer.lora_magnitude_vector[ADAPTER].weight.copy_(lengths)


# ---------------------------------------------------------------- weights out


@torch.no_grad()
def merged_state_dict(module: nn.Module, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the state dict with the adapters merged.

    Adapted weights are computed in float32 and returned in `dtype`, else in the base's; the module is not changed. A
    module without adapters gives its own state dict.
    """
    merged = {plain_name(key): tensor for key, tensor in module.state_dict().items() if not is_adapter(key)}
    for name, layer in adapted_layers(module).items():
        magnitudes = dict(layer.named_children()).get(MAGNITUDE)
        merged[f"{name}.weight"] = merge(
            layer.base_layer.weight,
            layer.lora_A[ADAPTER].weight,
            layer.lora_B[ADAPTER].weight,
            scaling=layer.scaling[ADAPTER],
            magnitude=magnitudes[ADAPTER].weight if magnitudes is not None and len(magnitudes) else None,
            dtype=dtype,
        )
    return merged


def adapter_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the adapters alone, under the names of peft's own adapter files."""
    return {plain_name(key): tensor for key, tensor in module.state_dict().items() if is_adapter(key)}


def merge(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    scaling: float,
    magnitude: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a layer's weight (o, i) with its adapter's effect: `down` is (r, i), `up` (o, r), `magnitude` (o,)."""
    moved = weight.float() + scaling * (up.float() @ down.float())
    if magnitude is not None:
        moved = (magnitude.float() / _lengths(moved))[:, None] * moved
    return moved.to(weight.dtype if dtype is None else dtype)


def is_adapter(name: str) -> bool:
    """Tell whether a parameter, by either of its names, belongs to an adapter."""
    return any(part in (DOWN, UP, MAGNITUDE) for part in name.split("."))


def is_up(name: str) -> bool:
    """Tell whether a parameter, by either of its names, is an adapter's second matrix, which starts at zero."""
    return UP in name.split(".")


def layer_of(name: str) -> str:
    """Return the layer that an adapter's parameter, by either of its names, belongs to."""
    parts = name.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part in (DOWN, UP, MAGNITUDE))])


def _moved(layer: Any) -> Tensor:
    """Return the weight with its adapter's product, of which DoRA keeps the direction."""
    product = layer.lora_B[ADAPTER].weight.float() @ layer.lora_A[ADAPTER].weight.float()
    moved: Tensor = layer.base_layer.weight.float() + layer.scaling[ADAPTER] * product
    return moved


def _lengths(weight: Tensor) -> Tensor:
    """Return the length of each output's row, as DoRA means it."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return lengths


# ---------------------------------------------------------------- which


def _targets(config: LoraConfig, default_targets: Sequence[str]) -> Sequence[str]:
    if config.targets != "auto":
        return config.targets
    if not default_targets:
        raise RecipeError("this task has no default layers for LoRA", hint="list them: `lora.targets=[...]`")
    return default_targets


def _linear_layers(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [name for name in linear if fnmatchcase(name, pattern)]
        if not fitting:
            raise _nothing("targets", pattern, "linear layer", linear)
        found |= dict.fromkeys(fitting)
    return [name for name in linear if name in found]


def _unfreeze(module: nn.Module, patterns: Sequence[str]) -> None:
    base = {plain_name(name): parameter for name, parameter in module.named_parameters() if not is_adapter(name)}
    for pattern in patterns:
        fitting = [parameter for name, parameter in base.items() if fnmatchcase(name, pattern)]
        if not fitting:
            raise _nothing("unfrozen", pattern, "parameter", list(base))
        for parameter in fitting:
            parameter.requires_grad_(True)


def _nothing(key: str, pattern: str, what: str, names: Sequence[str]) -> RecipeError:
    near = difflib.get_close_matches(pattern.strip("*."), names, n=2, cutoff=0.0)
    return RecipeError(
        f"`lora.{key}`: pattern `{pattern}` matches no {what}",
        hint=f"`*` also crosses dots; names look like {', '.join(f'`{name}`' for name in near)}",
    )
