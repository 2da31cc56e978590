"""From clips to batches: mels, speech tokens, bytes of the text.

Legend: b clips, n mel frames, m mel bins, c speech tokens, s bytes of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ttstrain.contract.data import Clip, TaskData
from ttstrain.families.cosy.config import FRAMES_PER_TOKEN, HOP_LENGTH, SAMPLE_RATE, CosyConfig
from ttstrain.families.cosy.planner import num_frames, num_tokens
from ttstrain.modules.mel import MelSpectrogram

QUIETEST, LOUDEST = -3.0, 5.0  # natural log of a mel bin of speech: what the levels divide


@dataclass(frozen=True, slots=True)
class CosyExample:
    """One clip, ready to be padded."""

    id: str
    text: Tensor  # (s,) int64
    codes: Tensor  # (c,) int64
    mel: Tensor  # (n, m)


@dataclass(frozen=True, slots=True)
class CosyBatch:
    """Clips padded to one length; lengths are kept on the CPU and on the device of the rest."""

    ids: Sequence[str]
    text: Tensor  # (b, s) int64, 0 after each text
    text_lengths: Tensor  # (b,)
    codes: Tensor  # (b, c) int64, 0 after each clip
    code_lengths: Tensor  # (b,)
    mel: Tensor  # (b, n, m), 0.0 after each clip
    mel_lengths: Tensor  # (b,)
    host_lengths: tuple[int, ...]  # `mel_lengths`, on the host
    weight: float  # clips
    num_frames: int  # of the mels
    num_padded: int

    def to(self, device: torch.device) -> CosyBatch:
        names = ("text", "text_lengths", "codes", "code_lengths", "mel", "mel_lengths")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


class CosyData(TaskData):
    """Mels, and speech tokens quantised from them."""

    sample_rate = SAMPLE_RATE
    frames_per_s = SAMPLE_RATE / HOP_LENGTH

    def __init__(self, config: CosyConfig) -> None:
        self.config = config
        self.fingerprint = f"cosy/1 {config.n_mels} {config.levels}"
        self._mel = MelSpectrogram("vocos", hop_length=HOP_LENGTH, n_mels=config.n_mels)

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        """Compute the mel (n, m) of a waveform (t,) and its speech tokens (c,) int16."""
        mel = self._mel(wav[None])[0].T.contiguous()
        return {"mel": mel, "codes": quantize(mel, self.config.levels).to(torch.int16)}

    def length(self, clip: Clip) -> int:
        """Count the mel's frames."""
        return num_frames(clip)

    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> CosyExample:
        """Add the bytes of the text."""
        text = torch.tensor(list(clip.text.encode()), dtype=torch.long)
        return CosyExample(clip.id, text, features["codes"].long(), features["mel"])

    def collate(self, examples: Sequence[CosyExample]) -> CosyBatch:
        """Pad texts and tokens with 0, mels with 0.0."""
        mels = [example.mel.float() for example in examples]
        lengths = tuple(len(mel) for mel in mels)
        mel = pad_sequence(mels, batch_first=True)
        return CosyBatch(
            ids=[example.id for example in examples],
            text=pad_sequence([example.text for example in examples], batch_first=True),
            text_lengths=torch.tensor([len(example.text) for example in examples]),
            codes=pad_sequence([example.codes for example in examples], batch_first=True),
            code_lengths=torch.tensor([len(example.codes) for example in examples]),
            mel=mel,
            mel_lengths=torch.tensor(lengths),
            host_lengths=lengths,
            weight=float(len(examples)),
            num_frames=sum(lengths),
            num_padded=mel.shape[0] * mel.shape[1],
        )

    def reference(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the mel (n, m)."""
        return features["mel"]


def quantize(mel: Tensor, levels: Sequence[int]) -> Tensor:
    """Return speech tokens (c,) of a mel (n, m): each band's mean over two frames, rounded to one of its levels.

    Finite scalar quantisation (Mentzer et al. 2023), as CosyVoice 2 does it, of loudness in place of learned features.
    """
    count = num_tokens(len(mel))
    missing = count * FRAMES_PER_TOKEN - len(mel)
    even = torch.cat([mel, mel[-1:].expand(missing, -1)])
    pairs = even.reshape(count, FRAMES_PER_TOKEN, -1).mean(1)  # (c, m)
    bands = [band.mean(1) for band in pairs.tensor_split(len(levels), dim=1)]
    codes = torch.zeros(count, dtype=torch.long)
    for band, number in zip(bands, levels, strict=True):
        share = ((band - QUIETEST) / (LOUDEST - QUIETEST)).clamp(0, 1)
        codes = codes * number + (share * (number - 1)).round().long()
    return codes
