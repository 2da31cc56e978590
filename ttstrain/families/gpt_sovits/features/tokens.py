"""Semantic tokens: HuBERT's features through the VAE's `ssl_proj` and its codebook of 1024 entries, 25 a second.

GPT and VAE must agree on what a token means, so the two parts stay as they are while nets train, and their digest goes
with the tokens and into every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.checkpoint.upstream import follow, open_own
from ttstrain.digest import sha256
from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.features.files import find_file
from ttstrain.families.gpt_sovits.features.toy import TOY, toy_quantizer
from ttstrain.modules.full_precision import full_precision
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.tensorfile import StoredTensor

CODEBOOK: Final = "quantizer.vq.layers.0._codebook.embed"
PARTS: Final[Mapping[str, tuple[int, ...]]] = {
    "ssl_proj.weight": (768, 768, 2),
    "ssl_proj.bias": (768,),
    CODEBOOK: (1024, 768),
}
PREFIX: Final = "vae."  # of the same keys in our own checkpoints
STATES: Final = ("weight", "model")  # where an `s2G` or an export, and a `G_*.pth`, keep their tensors


@dataclass(frozen=True, slots=True)
class Quantizer:
    """What decides on tokens."""

    weight: Tensor  # (768, 768, 2)
    bias: Tensor  # (768,)
    codebook: Tensor  # (1024, 768)
    digest: str

    def encode(self, ssl: Tensor) -> Tensor:
        """Return the codes (s,) int64 of HuBERT's features (1, 768, n): the nearest entry for every two frames.

        A last odd frame is left out, as the convolution leaves it: see `padded`.
        """
        with torch.inference_mode(), full_precision():
            x = F.conv1d(ssl.float().to(self.weight.device), self.weight, self.bias, stride=2)[0].T  # (s, 768)
            e = self.codebook
            # As upstream writes the distance; what rounds alike chooses alike where two entries are equally near.
            likeness = -(x.pow(2).sum(1, keepdim=True) - 2 * x @ e.T + e.T.pow(2).sum(0, keepdim=True))
            return likeness.argmax(dim=1).cpu().clone()

    def to(self, device: torch.device) -> Quantizer:
        return Quantizer(self.weight.to(device), self.bias.to(device), self.codebook.to(device), self.digest)


def padded(ssl: Tensor, num_frames: int) -> Tensor:
    """Fit HuBERT's features (n, 768) to a recording of `num_frames` spectrogram frames: (2 ceil(num_frames / 2), 768).

    HuBERT gives one frame less for most recordings: the last is repeated once, as upstream's data set does; then zeros
    make the number even, as its collate does. Raises ValueError when more than one frame is missing or too many.
    """
    if abs(len(ssl) - num_frames) > 1:
        raise ValueError(f"{len(ssl)} frames of HuBERT for {num_frames} frames of the recording")
    if len(ssl) < num_frames:
        ssl = torch.cat([ssl, ssl[-1:]])
    return F.pad(ssl[:num_frames], (0, 0, 0, num_frames % 2))


def load_quantizer(spec: str) -> Quantizer:
    """Read the quantizer out of a file of the VAE in any layout, or out of one of our runs.

    Published `s2G*.pth`, training files `G_*.pth`, exports with whatever first bytes. Nothing in it is executed.
    Raises CheckpointError when the parts are not there or not of their shapes.
    """
    if spec == TOY:
        return from_weights(toy_quantizer(), source=spec)
    path = follow(find_file(spec, what="file of the VAE"))
    if path.is_dir():
        return from_weights(open_own(path).weights, source=str(path))
    contents = read_contents(path)
    refuse_unsafe(contents)
    tree: Any = contents.tree
    for name in STATES:
        if isinstance(tree, Mapping) and isinstance(tree.get(name), Mapping):
            tree = tree[name]
            break
    return from_weights(tree if isinstance(tree, Mapping) else {}, source=str(path))


def from_weights(weights: Mapping[str, Tensor] | Mapping[str, Any], *, source: str) -> Quantizer:
    """Take the quantizer from a VAE's tensors, under upstream's keys or ours. Raises CheckpointError without them."""
    found = {}
    for key, shape in PARTS.items():
        stored = weights.get(key, weights.get(PREFIX + key))
        if stored is None:
            raise CheckpointError(
                f"`{source}` has no semantic quantizer: `{key}` is missing",
                hint="give the s2G file of your version; files of a GPT or a discriminator have none",
            )
        if tuple(stored.shape) != shape:
            raise CheckpointError(f"`{source}`: `{key}` has the shape {tuple(stored.shape)}, {shape} needed")
        tensor = stored.read() if isinstance(stored, StoredTensor) else stored.detach().cpu()
        found[key] = tensor.float().contiguous()
    weight, bias, codebook = found.values()
    return Quantizer(weight, bias, codebook, digest=digest_of_parts(found))


def digest_of_parts(parts: Mapping[str, Tensor]) -> str:
    """Hash `ssl_proj` and the codebook as fp16, which published files hold: an export in fp16 has its run's digest."""
    return sha256(*(parts[key].detach().cpu().half().contiguous().numpy().tobytes() for key in PARTS))[:16]
