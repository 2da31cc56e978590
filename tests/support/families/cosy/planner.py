"""What a plan must know of both nets. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ttstrain.contract.data import Clip
from ttstrain.contract.model import Planner
from ttstrain.families.cosy.config import FRAMES_PER_TOKEN, HOP_LENGTH, NUM_BYTES, SAMPLE_RATE, CosyConfig

Shape = tuple[int, ...]


class CosyPlanner(Planner[CosyConfig]):
    """Parameters, lengths and the two optimizers."""

    def parameter_shapes(self) -> Mapping[str, Shape]:
        """Map the name of every parameter to its shape."""
        return dict(shapes(self.config))

    def length(self, clip: Clip) -> int:
        """Count the mel's frames."""
        return num_frames(clip)

    def optimizers(self) -> Mapping[str, Sequence[str]]:
        """Give each net an optimizer of its own."""
        return {"llm": ("llm.*",), "flow": ("flow.*",)}

    def lora_targets(self) -> Sequence[str]:
        """Return what attention reads and writes."""
        return ("*.query", "*.key", "*.value", "*.out")


def num_frames(clip: Clip) -> int:
    """Return the mel frames (50 a second) of a clip, without decoding."""
    return clip.samples_at(SAMPLE_RATE) // HOP_LENGTH + 1


def num_tokens(frames: int) -> int:
    """Return the speech tokens (25 a second) of so many mel frames; the last may stand for one frame alone."""
    return -(-frames // FRAMES_PER_TOKEN)


def shapes(config: CosyConfig) -> Iterator[tuple[str, Shape]]:
    """Yield every parameter's name and shape, in the order in which the nets hold them."""
    width, codes = config.llm.dim, config.num_codes
    yield "llm.text_embedding.weight", (NUM_BYTES, width)
    yield "llm.marks.weight", (2, width)
    yield "llm.speech_embedding.weight", (codes, width)
    yield from _blocks("llm", width, config.llm.depth)
    yield from _linear("llm.head", width, codes + 1)
    width = config.flow.dim
    yield "flow.code_embedding.weight", (codes, width)
    yield from _linear("flow.input", config.n_mels, width)
    yield from _linear("flow.time", width, width)
    yield from _blocks("flow", width, config.flow.depth)
    yield from _linear("flow.output", width, config.n_mels)


def _blocks(net: str, width: int, depth: int) -> Iterator[tuple[str, Shape]]:
    for layer in range(depth):
        block = f"{net}.blocks.{layer}"
        yield f"{block}.norm1.weight", (width,)
        yield f"{block}.norm1.bias", (width,)
        for part in ("query", "key", "value", "out"):
            yield from _linear(f"{block}.{part}", width, width)
        yield f"{block}.norm2.weight", (width,)
        yield f"{block}.norm2.bias", (width,)
        yield from _linear(f"{block}.widen", width, 4 * width)
        yield from _linear(f"{block}.narrow", 4 * width, width)
    yield f"{net}.norm.weight", (width,)
    yield f"{net}.norm.bias", (width,)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)
