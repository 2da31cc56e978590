"""What a file is that someone took for one of the nets: an encoder, or a vocoder. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from ttstrain.contract.checkpoint import UnknownFile

_ENCODERS = (
    (("encoder.layers.0.attention.", "feature_extractor.conv_layers."), "HuBERT", "hubert"),
    (("encoder.layer.0.attention.self.", "embeddings.word_embeddings."), "BERT", "bert"),
    (("layer3_ds.", "fuse34."), "ERes2NetV2", "speaker"),
)
_WRAPPERS = ("hubert.", "bert.", "roberta.", "module.")


def identify(keys: Iterable[str]) -> UnknownFile | None:
    """Recognise by its keys a model that GPT-SoVITS' features come from."""
    names = [_bare(key) for key in keys]
    for signs, name, setting in _ENCODERS:
        if all(any(key.startswith(sign) for key in names) for sign in signs):
            return UnknownFile(
                f"is a {name}, which GPT-SoVITS computes features with, and none of its nets",
                hint=f"give it as `model.features.{setting}`; a base is a file such as s1v3.ckpt or s2G2333k.pth",
            )
    return None


def _bare(key: str) -> str:
    while prefix := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key
