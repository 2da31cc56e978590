"""Identifies files that are given as a base but are only a part of a net, or a vocoder. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ttstrain.contract.checkpoint import UnknownFile

_PREFIXES = ("ema_model.", "module.", "_orig_mod.", "transformer.")
_PARTS = {  # first part of a key -> its name in messages
    "text_embed": "the text encoder",
    "input_embed": "the input embedding",
    "time_embed": "the time embedding",
    "transformer_blocks": "the transformer's blocks",
    "layers": "the transformer's layers",
    "proj_out": "the output layer",
}
_WHOLE = ("text_embed", "input_embed", "time_embed", "proj_out")  # and blocks or layers
_VOCODERS = {
    "Vocos": ("backbone.convnext.", "backbone.embed.", "head.istft.", "head.out."),
    "BigVGAN": ("conv_pre.", "ups.", "resblocks."),
}


def identify(keys: Iterable[str]) -> UnknownFile | None:
    """Identify, by its keys, a file that is not a complete net."""
    names = [_bare(key) for key in keys]
    for name, starts in _VOCODERS.items():
        if sum(any(key.startswith(start) for key in names) for start in starts) >= 2:
            return UnknownFile(
                f"is a {name} vocoder (mel to audio), not an F5 net",
                hint="set it as `model.sampling.vocoder`, and give a file such as F5TTS_v1_Base as the base",
            )
    found = Counter(part for key in names if (part := key.partition(".")[0]) in _PARTS)
    present = [_PARTS[part] for part in _PARTS if found[part]]
    missing = [_PARTS[part] for part in _WHOLE if not found[part]]
    if not found["transformer_blocks"] and not found["layers"]:
        missing.append(_PARTS["transformer_blocks"])
    if not any(found[part] for part in ("text_embed", "transformer_blocks", "layers")) or not missing:
        return None
    return UnknownFile(
        f"is only part of an F5 net: it has {_listed(present)}, but not {_listed(missing)}",
        hint="give the complete file that this one was extracted from",
    )


def _bare(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key.removeprefix("generator.")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
