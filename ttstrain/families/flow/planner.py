"""What a plan must know of a flow-matching model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ttstrain.contract.data import Clip, Remark, Review
from ttstrain.contract.model import PeakMoment, Planner
from ttstrain.data.in_columns import column
from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import HOP_LENGTH, SAMPLE_RATE, FlowConfig
from ttstrain.families.flow.cost import block_bytes, kept_bytes, weight_copies
from ttstrain.families.flow.shapes import LORA_TARGETS, parameter_shapes
from ttstrain.families.flow.text import FlowFrontEnd, other_readings
from ttstrain.families.flow.vocab import PACKAGED, load_vocab
from ttstrain.recipe.schema import RunSettings


class FlowPlanner(Planner[FlowConfig]):
    """Parameters, lengths, text front end and memory of F5-TTS and E2-TTS nets."""

    compiles = True

    def length(self, clip: Clip) -> int:
        """Count the mel's frames from the samples that are kept of the clip, without decoding."""
        return clip.samples_at(SAMPLE_RATE) // HOP_LENGTH + (1 if self.config.mel == "vocos" else 0)

    def lengths(self, clips: Sequence[Clip]) -> Sequence[int]:
        """Count the frames of every clip's mel."""
        import numpy as np

        samples = np.array(column(clips, "num_samples"), dtype=np.int64)
        rates = np.array(column(clips, "sample_rate"), dtype=np.int64)
        frames = -(-samples * SAMPLE_RATE // rates) // HOP_LENGTH + (1 if self.config.mel == "vocos" else 0)
        lengths: list[int] = frames.tolist()
        return lengths

    def blocks(self) -> Sequence[str]:
        """Return the blocks of a DiT, or attentions and feed-forwards of a UNetT."""
        if self.config.backbone == "dit":
            return ("transformer.transformer_blocks.*",)
        return ("transformer.layers.*.2", "transformer.layers.*.4")

    def check_run(self, recipe: RunSettings, *, steps: int) -> None:
        """Refuse `first_new_rows` without a base, or without steps after it."""
        if self.config.first_new_rows and recipe.base is None:
            raise RecipeError(
                "`model.first_new_rows` needs a base: without pretrained weights all token embeddings are new",
                hint="give a base (`--base`), or leave `model.first_new_rows` out",
            )
        alone = self.config.first_new_rows
        if alone >= steps:
            raise RecipeError(
                f"`model.first_new_rows` is {alone:,} steps, but the whole run has only {steps:,}",
                hint="lower `model.first_new_rows`, or raise `train.steps`",
            )

    def kept_files(self) -> dict[str, str]:
        """Return the vocab, unless it ships with the package."""
        if self.config.vocab in PACKAGED:
            return {}
        vocab = load_vocab(self.config.vocab, space_first=False)
        return {"vocab": "".join(f"{token}\n" for token in vocab.tokens)}

    def vocab_key(self) -> str:
        """Return the recipe key of the vocab."""
        return "model.vocab"

    def front_end(self) -> FlowFrontEnd:
        """Return what reads the texts. Raises RecipeError without the vocab's file or the tokenizer's libraries."""
        vocab = load_vocab(self.config.vocab, space_first=self.config.tokenizer != "custom")
        return FlowFrontEnd(vocab, kind=self.config.tokenizer, max_unknown=self.config.max_unknown)

    def review(self, clips: Sequence[Clip]) -> Review:
        """Report texts that upstream's inference tokenizes differently from training."""
        remark = None if self.config.tokenizer != "char" else other_readings(column(clips, "text"))
        return Review() if remark is None else Review(remarks=(Remark("reads", remark),))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return parameter_shapes(self.config, num_tokens=num_tokens(self.config))

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the end of the forward pass and, where blocks are computed again, the backward pass of the last."""
        config, lora, half = self.config, recipe.lora, recipe.train.precision != "fp32"
        frames = len(lengths) * max(lengths)
        kept = frames * kept_bytes(config, half=half, lora=lora)
        copies = weight_copies(config, num_parameters=self.num_parameters(), half=half, lora=lora)
        if not config.checkpoint_activations:
            return [PeakMoment(kept + copies)]
        again = frames * block_bytes(config, half=half, lora=lora)
        return [
            PeakMoment(kept + (copies if lora is None else 0)),
            PeakMoment(kept + again + copies // config.depth),
        ]

    def lora_targets(self) -> Sequence[str]:
        return LORA_TARGETS


def num_tokens(config: FlowConfig) -> int:
    """Return the size of the vocab; reads its file."""
    return len(load_vocab(config.vocab, space_first=config.tokenizer != "custom").tokens)
