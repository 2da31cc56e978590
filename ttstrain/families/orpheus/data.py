"""From clips to packed rows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ttstrain.contract.data import Review, TaskData
from ttstrain.errors import DataError, RecipeError
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.codec import Codec, digest_of, load_codec
from ttstrain.families.orpheus.codes import deduplicate
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.divide import Piece, divide
from ttstrain.families.orpheus.ids import NUM_SLOTS, SAMPLE_RATE, SAMPLES_PER_FRAME, TOKENS_PER_S, TokenIds
from ttstrain.families.orpheus.layout import OVERHEAD, row_length, said
from ttstrain.families.orpheus.lint_codes import review_codes
from ttstrain.families.orpheus.questions import Questions
from ttstrain.families.orpheus.rows import TokenRow, pack, speech_row
from ttstrain.families.orpheus.tokenizer import RowTokenizer, load_tokenizer

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip


@dataclass(frozen=True, slots=True)
class OrpheusExample:
    """One clip as one row, or as several if it was divided."""

    id: str
    rows: Sequence[TokenRow]


class OrpheusData(TaskData):
    """Codes and token rows of one tokenizer and codec."""

    sample_rate = SAMPLE_RATE
    frames_per_s = TOKENS_PER_S
    packed = True

    def __init__(self, config: OrpheusConfig) -> None:
        self.config = config
        self.rows = config.rows
        self.ids = check_tokenizer(config)
        safe = " no zero" if self.rows.upstream_decoder_safe else ""
        self.fingerprint = f"snac/1 {digest_of(self.rows.codec)} fp32{safe}"
        self._codec: Codec | None = None

    @property
    def tokenizer(self) -> RowTokenizer:
        return load_tokenizer(self.rows.tokenizer)

    @property
    def codec(self) -> Codec:
        """The codec, loaded by each process when it first encodes."""
        if self._codec is None:
            self._codec = load_codec(self.rows.codec)
        return self._codec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codec": None}

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        """Encode a waveform (t,): `codes` (n, 7) int16 of every frame, `loudness` (n,) its root mean square."""
        codes = self.codec.encode([wav], avoid_zero=self.rows.upstream_decoder_safe)[0]
        return {"codes": codes, "loudness": loudness(wav)}

    def length(self, clip: Clip) -> int:
        """Count the tokens of a clip's row, before repeated frames are left out."""
        return row_length(clip, self.rows)

    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> OrpheusExample:
        """Build the clip's row, or rows. Raises DataError if its text spells a control token."""
        pieces = self._pieces(clip, features)
        if pieces is None:
            raise DataError(
                f"clip `{clip.id}` is too long for a row and has no pause at the end of a sentence to divide it"
            )
        rows = []
        for piece in pieces:
            frames = deduplicate(features["codes"][piece.start : piece.end], self.rows.dedup).frames
            text = self.tokenizer.encode(said(piece.text, clip.speaker, self.rows.voice))
            rows.append(speech_row(clip.id, text, frames, self.ids, labels=self.rows.labels))
        return OrpheusExample(id=clip.id, rows=rows)

    def _pieces(self, clip: Clip, features: Mapping[str, Tensor]) -> list[Piece] | None:
        """Return the pieces that become rows; None if a clip that is too long cannot be divided."""

        def fits(text: str, num_frames: int) -> bool:
            words = self.tokenizer.count(said(text, clip.speaker, self.rows.voice))
            return OVERHEAD + words + NUM_SLOTS * num_frames <= self.rows.max_tokens

        whole = Piece(clip.text, 0, len(features["codes"]))
        if self.rows.too_long == "skip" or fits(whole.text, whole.end):
            return [whole]
        return divide(clip.text, features["loudness"], fits=fits, loudest_pause=self.rows.loudest_pause)

    def review_features(self, clips: Sequence[Clip], read: Callable[[Clip], Mapping[str, Tensor]]) -> Review:
        """Skip clips that cannot be divided; note the share of repeated frames and the use of code 0."""
        return review_codes(clips, read, rows=self.rows, pieces=self._pieces)

    def collate(self, examples: Sequence[OrpheusExample]) -> OrpheusBatch:
        """Pack all rows end to end."""
        return pack([row for example in examples for row in example.rows])

    def auxiliary(self) -> Questions | None:
        """Read the auxiliary questions and answers."""
        return None if self.rows.text_mix is None else Questions(self.rows)


def check_tokenizer(config: OrpheusConfig) -> TokenIds:
    """Return the ids of the recipe's tokenizer. Raises RecipeError if they differ from the net's."""
    tokenizer = load_tokenizer(config.rows.tokenizer)
    if tokenizer.ids != config.ids:
        found, wanted = tokenizer.ids, config.ids
        raise RecipeError(
            f"the tokenizer `{config.rows.tokenizer}` and the `model:` section disagree:",
            details=[
                f"text_vocab_size {found.first_custom} and {wanted.first_custom}, bos_token_id {found.bos} and "
                f"{wanted.bos}, eot_token_id {found.eot} and {wanted.eot}"
            ],
            hint=f"set `model.text_vocab_size={found.first_custom}`, `model.bos_token_id={found.bos}` and "
            f"`model.eot_token_id={found.eot}`, or use the net's own tokenizer",
        )
    return tokenizer.ids


def loudness(wav: Tensor) -> Tensor:
    """Return the root mean square (n,) of each frame of a waveform (t,), the last one filled up with silence."""
    n = -(-len(wav) // SAMPLES_PER_FRAME)
    padded = torch.nn.functional.pad(wav, (0, n * SAMPLES_PER_FRAME - len(wav)))
    return padded.reshape(n, SAMPLES_PER_FRAME).square().mean(dim=1).sqrt()
