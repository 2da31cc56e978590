"""How recordings and texts become rows of tokens: a part of a recipe's `model:` section. Imports no torch."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ttstrain.recipe.names import UserPath
from ttstrain.recipe.schema import Rows, Section, Share

TAGS = ("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp")  # of the published English models


class RatioPoint(Section):
    """One point of a schedule."""

    at: Annotated[float, Field(ge=0, le=1)]
    """Share of the run."""
    ratio: Annotated[float, Field(ge=0, le=1000)]
    """Micro-batches of text per micro-batch of speech; linear between two points."""


class TextMix(Section):
    """Text-only questions and answers, so that pre-training keeps the language model's abilities."""

    path: UserPath
    """JSON lines or parquet with `question` and `answer`, or with upstream's `input_ids`, used as they are."""
    schedule: list[RatioPoint] = Field(
        default=[RatioPoint(at=0, ratio=2), RatioPoint(at=0.5, ratio=1), RatioPoint(at=1, ratio=0)], min_length=1
    )
    """Ratio of text to speech over the run; the default is 2:1, then 1:1, then 0:1."""

    @model_validator(mode="after")
    def _ordered(self) -> TextMix:
        places = [point.at for point in self.schedule]
        if places != sorted(set(places)):
            raise ValueError("the points of `schedule` must be in ascending order")
        return self

    def ratio(self, progress: float) -> float:
        """Return the number of text micro-batches per micro-batch of speech, at a share of the run."""
        points = self.schedule
        if progress <= points[0].at:
            return points[0].ratio
        for before, after in itertools.pairwise(points):
            if progress <= after.at:
                share = (progress - before.at) / (after.at - before.at)
                return before.ratio + share * (after.ratio - before.ratio)
        return points[-1].ratio


class RowsConfig(Section):
    """Tokenizer, codec and layout of rows."""

    tokenizer: UserPath = "hf://canopylabs/orpheus-3b-0.1-ft"
    """Folder with a tokenizer.json, or `hf://owner/repo[/folder]`."""
    codec: UserPath = "hf://hubertsiuzdak/snac_24khz"
    """Folder with SNAC's config.json and weights, or `hf://owner/repo`."""
    dedup: Literal["slot0", "exact7", "none"] = "slot0"
    """Leave out frames that repeat the one before: `slot0` as upstream (only the coarse code is compared; pauses and
    held vowels shrink), `exact7` where all seven codes are equal, `none` never."""
    labels: Literal["speech", "all"] = "speech"
    """Targets of the loss: `speech` masks the prompt, `all` trains on every token as upstream does."""
    max_tokens: Rows = 2048
    """Longest row; 2048 tokens are about 24 s of speech."""
    too_long: Literal["skip", "split"] = "skip"
    """Longer rows are skipped, or divided at a pause at the end of a sentence; both are reported."""
    voice: str | None = "auto"
    """Name before the text (`tara: ...`): `auto`: the row's speaker, if any; null: none."""
    tags: tuple[str, ...] = TAGS
    """Emotion tags allowed in texts, without brackets; similar but unknown tags are reported."""
    upstream_decoder_safe: bool = False
    """Take the next-best code where the codec chose code 0, which upstream's player drops together with 0.4 s."""
    text_mix: TextMix | None = None
    """Mix text-only questions and answers into training, for pre-training."""
    loudest_pause: Share = 0.1
    """A row is divided only at a pause: sound below this share of its median loudness."""
