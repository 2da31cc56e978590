"""From clips to batches: mels, token ids, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ttstrain.contract.data import TaskData
from ttstrain.families.flow.config import HOP_LENGTH, SAMPLE_RATE, FlowConfig
from ttstrain.families.flow.model.cfm import FlowDraws
from ttstrain.families.flow.planner import FlowPlanner
from ttstrain.families.flow.text import encode, front_end_versions
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.modules.mel import MelSpectrogram

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip


@dataclass(frozen=True, slots=True)
class FlowExample:
    """One clip, ready to be padded."""

    id: str
    mel: Tensor  # (n, m)
    text: Tensor  # (s,) vocab indices


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Clips padded to one length."""

    ids: Sequence[str]
    mel: Tensor  # (b, n, m), 0.0 after each clip, as upstream pads
    mel_lengths: Tensor  # (b,), always on the CPU
    lengths: Tensor  # (b,), the same on the mel's device
    text: Tensor  # (b, s), -1 after each text
    weight: float  # frames; the frames of the hidden spans once they are drawn
    num_frames: int
    num_padded: int
    draws: FlowDraws | None = None

    def to(self, device: torch.device) -> FlowBatch:
        return replace(
            self,
            mel=self.mel.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            text=self.text.to(device, non_blocking=True),
            draws=None if self.draws is None else self.draws.to(device),
        )


class FlowData(TaskData):
    """Mels and token ids of one front end."""

    sample_rate = SAMPLE_RATE
    frames_per_s = SAMPLE_RATE / HOP_LENGTH

    def __init__(self, config: FlowConfig) -> None:
        self.config = config
        self.vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
        if config.tokenizer != "char":
            front_end_versions()  # so that missing libraries are reported now, not by a worker
        # float32: half precision would save memory and cost about 1e-3 of a mel's log scale.
        self.fingerprint = f"mel/1 {config.mel} {config.n_mels} {SAMPLE_RATE} {HOP_LENGTH} float32"
        self._planner = FlowPlanner(config)
        self._mel = MelSpectrogram(config.mel, n_mels=config.n_mels)

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        """Compute the mel (n, m) of a waveform (t,) at `sample_rate`."""
        return {"mel": self._mel(wav[None])[0].T.contiguous()}

    def length(self, clip: Clip) -> int:
        """Count the mel's frames from the samples that are kept of the clip."""
        return self._planner.length(clip)

    def lengths(self, clips: Sequence[Clip]) -> Sequence[int]:
        """Count the frames of every clip's mel."""
        return self._planner.lengths(clips)

    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> FlowExample:
        """Tokenize the clip's text, or take the tokens that upstream made of it where only those are left."""
        if clip.tokens:
            text = self.vocab.encode(clip.tokens)
        else:
            text = encode(clip.text, self.vocab, kind=self.config.tokenizer)
        return FlowExample(id=clip.id, mel=features["mel"], text=torch.tensor(text, dtype=torch.long))

    def collate(self, examples: Sequence[FlowExample]) -> FlowBatch:
        """Pad mels with 0.0 and texts with -1."""
        lengths = torch.tensor([len(example.mel) for example in examples])
        mel = pad_sequence([example.mel.float() for example in examples], batch_first=True)
        text = pad_sequence([example.text for example in examples], batch_first=True, padding_value=-1)
        num_frames = int(lengths.sum())
        return FlowBatch(
            ids=[example.id for example in examples],
            mel=mel,
            mel_lengths=lengths,
            lengths=lengths,
            text=text,
            weight=float(num_frames),
            num_frames=num_frames,
            num_padded=mel.shape[0] * mel.shape[1],
        )

    def reference(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mel (n, m)."""
        return features["mel"]
