"""Which token id means what. Imports no torch.

Audio and control tokens are `<custom_token_N>`, appended to the text vocabulary in order; what N means is fixed, the id
of N = 0 is the size of the text vocabulary (128,256 for Llama 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NUM_SLOTS: Final = 7  # tokens in a frame
CODEBOOK_SIZE: Final = 4096  # ids each slot owns
SAMPLES_PER_FRAME: Final = 2048  # at SAMPLE_RATE: 85.3 ms
SAMPLE_RATE: Final = 24_000  # Hz
TOKENS_PER_S: Final = NUM_SLOTS * SAMPLE_RATE / SAMPLES_PER_FRAME  # 82.03
MOST_TOKENIZER_BYTES: Final = 128 << 20  # of a tokenizer.json; Llama 3's has 17 million
FIRST_AUDIO: Final = 10  # N of slot 0, code 0; the ten before it are control tokens
NUM_CUSTOM: Final = FIRST_AUDIO + NUM_SLOTS * CODEBOOK_SIZE  # 28,682; released tokenizers have one or two more


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The ids of one tokenizer; the defaults are those of the published models."""

    first_custom: int = 128_256  # of `<custom_token_0>`, and the size of the text vocabulary
    bos: int = 128_000  # <|begin_of_text|>
    eot: int = 128_009  # <|eot_id|>, the end of the text

    @property
    def sos(self) -> int:
        """Start of speech."""
        return self.first_custom + 1

    @property
    def eos(self) -> int:
        """End of speech: where generation stops."""
        return self.first_custom + 2

    @property
    def soh(self) -> int:
        """Start of what the human says."""
        return self.first_custom + 3

    @property
    def eoh(self) -> int:
        """End of what the human says."""
        return self.first_custom + 4

    @property
    def soa(self) -> int:
        """Start of what the model says."""
        return self.first_custom + 5

    @property
    def eoa(self) -> int:
        """End of what the model says."""
        return self.first_custom + 6

    @property
    def pad(self) -> int:
        return self.first_custom + 7

    @property
    def first_audio(self) -> int:
        return self.first_custom + FIRST_AUDIO

    @property
    def end_audio(self) -> int:
        """One past the last audio id."""
        return self.first_audio + NUM_SLOTS * CODEBOOK_SIZE

    def of(self, slot: int, code: int) -> int:
        """Return the id of a code in a slot. Raises ValueError if there is none; codes are never clamped."""
        if not 0 <= slot < NUM_SLOTS or not 0 <= code < CODEBOOK_SIZE:
            raise ValueError(f"there is no token for code {code} in slot {slot}")
        return self.first_audio + CODEBOOK_SIZE * slot + code

    def slot_ids(self, slot: int) -> range:
        """Return the ids that are legal in a slot."""
        if not 0 <= slot < NUM_SLOTS:
            raise ValueError(f"no slot {slot}: a frame has {NUM_SLOTS}")
        first = self.first_audio + CODEBOOK_SIZE * slot
        return range(first, first + CODEBOOK_SIZE)

    def is_audio(self, token: int) -> bool:
        return self.first_audio <= token < self.end_audio

    def describe(self, token: int) -> str:
        """Describe a token in an error: `slot 3 code 17`, `EOS`, `text`."""
        if self.is_audio(token):
            slot, code = divmod(token - self.first_audio, CODEBOOK_SIZE)
            return f"slot {slot} code {code}"
        names = {
            self.bos: "BOS", self.eot: "EOT", self.sos: "SOS", self.eos: "EOS", self.soh: "SOH", self.eoh: "EOH",
            self.soa: "SOA", self.eoa: "EOA", self.pad: "PAD",
        }  # fmt: skip
        if token in names:
            return names[token]
        if 0 <= token < self.first_custom:
            return f"text {token}"
        return f"spare token {token}" if token >= 0 else f"no token {token}"


PUBLISHED: Final = TokenIds()
