"""The encoders of a recipe: each is loaded when it is first needed, once in a process, and freed after the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.families.gpt_sovits.features.bert import Bert, load_bert
from ttstrain.families.gpt_sovits.features.hubert import Hubert, load_hubert
from ttstrain.families.gpt_sovits.features.sound import hubert_wav
from ttstrain.families.gpt_sovits.features.speaker import SpeakerEncoder, load_speaker
from ttstrain.families.gpt_sovits.features.tokens import Quantizer, load_quantizer, padded

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import FeaturesConfig


class Encoders:
    """HuBERT, BERT, ERes2NetV2 and the quantizer."""

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self._device: torch.device | None = None
        self._hubert: Hubert | None = None
        self._bert: Bert | None = None
        self._speaker: SpeakerEncoder | None = None
        self._quantizer: Quantizer | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, FeaturesConfig]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        if self._device is None:
            self._device = choose_device(self.config.device)
        return self._device

    @property
    def hubert(self) -> Hubert:
        if self._hubert is None:
            self._hubert = load_hubert(self.config.hubert, self.device)
        return self._hubert

    @property
    def bert(self) -> Bert:
        if self._bert is None:
            self._bert = load_bert(self.config.bert, self.device)
        return self._bert

    @property
    def speaker(self) -> SpeakerEncoder:
        if self._speaker is None:
            self._speaker = load_speaker(self.config.speaker, self.device)
        return self._speaker

    @property
    def quantizer(self) -> Quantizer:
        if self._quantizer is None:
            self._quantizer = load_quantizer(self.config.quantizer).to(self.device)
        return self._quantizer

    def hear(self, wav: Tensor, gain: float = 1.0) -> Tensor:
        """Return HuBERT's features (n, 768) of a waveform (t,) at 32 kHz that is to be played at a gain."""
        return self.hubert.encode(hubert_wav(wav, gain))

    def tokens(self, ssl: Tensor, num_frames: int) -> Tensor:
        """Return the codes (s,) int64 of a recording from HuBERT's features (n, 768)."""
        return self.quantizer.encode(padded(ssl, num_frames).T[None])

    def read(self, text: str, word2ph: Sequence[int]) -> Tensor:
        """Return BERT's features (p, 1024) of the phonemes of a Chinese text."""
        return self.bert.encode(text, word2ph)

    def free(self) -> None:
        """Let go of what was loaded; it is loaded again when it is needed."""
        self._hubert = self._bert = self._speaker = self._quantizer = None
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.empty_cache()


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return where features are computed. Raises RecipeError when the recipe asks for a GPU that is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("`model.features.device` is cuda, but there is no CUDA device", hint="set it to `auto`")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
