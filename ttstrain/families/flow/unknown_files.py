"""What a file is that someone took for a net: a part of one, or a vocoder. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ttstrain.contract.checkpoint import UnknownFile

_PREFIXES = ("ema_model.", "module.", "_orig_mod.", "transformer.")
_PARTS = {  # first part of a key -> what people call it
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
    """Recognise by its keys a file that is no whole net."""
    names = [_bare(key) for key in keys]
    for name, starts in _VOCODERS.items():
        if sum(any(key.startswith(start) for key in names) for start in starts) >= 2:
            return UnknownFile(
                f"is a {name} vocoder, which turns mels into sound, and no net to train",
                hint="give it as `model.sampling.vocoder`; a base is a file such as F5TTS_v1_Base",
            )
    found = Counter(part for key in names if (part := key.partition(".")[0]) in _PARTS)
    present = [_PARTS[part] for part in _PARTS if found[part]]
    missing = [_PARTS[part] for part in _WHOLE if not found[part]]
    if not found["transformer_blocks"] and not found["layers"]:
        missing.append(_PARTS["transformer_blocks"])
    if not any(found[part] for part in ("text_embed", "transformer_blocks", "layers")) or not missing:
        return None
    return UnknownFile(
        f"is a part of an F5 net: it holds {_listed(present)}, and lacks {_listed(missing)}",
        hint="a base is a whole net; train from the file that this one was cut out of",
    )


def _bare(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key.removeprefix("generator.")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
