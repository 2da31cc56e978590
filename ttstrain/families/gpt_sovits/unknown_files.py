"""Identifies files that are given as a base but are encoders of GPT-SoVITS' features. Imports no torch."""

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
    """Identify, by its keys, an encoder that GPT-SoVITS' features come from."""
    names = [_bare(key) for key in keys]
    for signs, name, setting in _ENCODERS:
        if all(any(key.startswith(sign) for key in names) for sign in signs):
            return UnknownFile(
                f"is {name}, an encoder for GPT-SoVITS' features, not a net that is trained",
                hint=f"set it as `model.features.{setting}`; give a base such as s1v3.ckpt or s2G2333k.pth",
            )
    return None


def _bare(key: str) -> str:
    while prefix := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None):
        key = key[len(prefix) :]
    return key
