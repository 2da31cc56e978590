"""What a plan must know of an Orpheus model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ttstrain.contract.data import Clip, Review
from ttstrain.contract.model import MemoryScheme, ParameterCounts, PeakMoment, Planner
from ttstrain.families.orpheus.config import LORA_TARGETS, PREFIX, OrpheusConfig
from ttstrain.families.orpheus.layout import row_length
from ttstrain.families.orpheus.lint import review
from ttstrain.families.orpheus.memory import Trained, memory_schemes, peak_moments
from ttstrain.families.orpheus.shapes import shapes
from ttstrain.recipe.schema import RunSettings


class OrpheusPlanner(Planner[OrpheusConfig]):
    """Parameters, row lengths, memory schemes and the mixing of questions."""

    packed = True
    features_on_host = True
    fuses = True
    learns_in_fp8 = True

    def blocks(self) -> Sequence[str]:
        """Return the layers."""
        return (f"{PREFIX}model.layers.*",)

    def length(self, clip: Clip) -> int:
        """Count the tokens of a clip's row, before repeated frames are left out."""
        return row_length(clip, self.config.rows)

    def auxiliary_ratio(self, progress: float) -> float:
        """Return the questions for each micro-batch of speech."""
        return 0.0 if self.config.rows.text_mix is None else self.config.rows.text_mix.ratio(progress)

    def review(self, clips: Sequence[Clip]) -> Review:
        """Look at lengths, tags, voices and control tokens of the rows to be."""
        return review(clips, self.config.rows)

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map every parameter's name in the task to its shape; a tied matrix is one, under the embedding's name."""
        return dict(shapes(self.config))

    def speech_files(self) -> Mapping[str, str | None]:
        """Return the tokenizer of the text and the codec of the sound."""
        return {"rows.tokenizer": self.config.rows.tokenizer, "rows.codec": self.config.rows.codec}

    def weight_bytes(self) -> int:
        """Return the bytes of one trained weight."""
        return 2 if self.config.param_dtype == "bf16" else 4

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the head's loss and, where layers are computed again, the backward pass of the last one."""
        return peak_moments(self.config, Trained.of(self.config, recipe), tokens=sum(lengths))

    def memory_schemes(self, recipe: RunSettings, parameters: ParameterCounts) -> Sequence[MemoryScheme]:
        """Compare training all weights in two precisions, and adapters over them."""
        return memory_schemes(self.config, recipe, parameters)

    def lora_targets(self) -> Sequence[str]:
        """Return all seven matrices of every layer, as upstream's LoRA adapts them."""
        return LORA_TARGETS
