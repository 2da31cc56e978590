"""Files of the upstream trainer: both nets under `model`, and under `config` what their tensors do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from ttstrain.contract.checkpoint import Label, OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.cosy.config import CosyConfig
from ttstrain.families.cosy.planner import shapes
from ttstrain.tensors.contents import Contents
from ttstrain.tensors.tensorfile import StoredTensor

SIGN: Final = frozenset({"llm.speech_embedding.weight", "llm.llm_decoder.weight", "flow.input_embedding.weight"})
RENAMED: Final = {  # first parts of upstream's keys -> ours; what is not named here has one name in both
    "llm.llm_embedding.": "llm.marks.",
    "llm.llm_decoder.": "llm.head.",
    "flow.input_embedding.": "flow.code_embedding.",
}
NET = ("dim", "depth", "heads")


class CosyFormat:
    """Reads what the upstream trainer saves."""

    name = "cosy"

    def sniff(self, contents: Contents) -> bool:
        """Tell by the keys of both nets."""
        tree = contents.tree
        return isinstance(tree, Mapping) and isinstance(tree.get("model"), Mapping) and set(tree["model"]) >= SIGN

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate to the task's keys. Raises CheckpointError where a net is incomplete or not told in full."""
        tree = contents.tree
        assert isinstance(tree, Mapping)
        weights = {ours(key): value for key, value in tree["model"].items() if isinstance(value, StoredTensor)}
        config = _config(tree.get("config"), contents)
        if absent := [name for name, _ in shapes(config) if name not in weights]:
            raise CheckpointError(f"`{contents.path}` lacks {len(absent)} tensors, such as `{absent[0]}`")
        label = self.label(config.model_dump(mode="json"))
        step = tree.get("step")
        return OpenedCheckpoint(
            path=contents.path,
            family="cosy",
            task="cosy",
            kind="base",
            model=label.model,
            version=label.version,
            config=label.config,
            unknown=(),
            weights=weights,
            step=step if isinstance(step, int) else None,
            globals=contents.globals,
        )

    def label(self, model: Mapping[str, Any]) -> Label:
        """Describe both nets of a `model:` section."""
        identity = {name: {key: model[name][key] for key in NET} for name in ("llm", "flow")}
        described = ", ".join(f"{name} {net['depth']} x {net['dim']}" for name, net in identity.items())
        return Label(
            model=f"toy CosyVoice, {described}",
            version="own size",
            config={**identity, "n_mels": model["n_mels"], "levels": list(model["levels"])},
        )


def ours(key: str) -> str:
    """Return the task's name of an upstream tensor."""
    for theirs, own in RENAMED.items():
        if key.startswith(theirs):
            return own + key.removeprefix(theirs)
    return key


def _config(told: Any, contents: Contents) -> CosyConfig:
    try:
        return CosyConfig.model_validate(told)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise CheckpointError(f"`{contents.path}` does not tell what its nets are: {what}") from error
