"""From clips to batches: recordings, phonemes, BERT features, semantic tokens, speaker embeddings.

b clips, p phonemes, s semantic tokens, n spectrogram frames, t samples at 32 kHz.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ttstrain.contract.data import Remark, Review, TaskData
from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import (
    FRAMES_PER_S,
    HOP_LENGTH,
    SAMPLE_RATE,
    SovitsConfig,
    VaeNetConfig,
    is_packed,
)
from ttstrain.families.gpt_sovits.features import bert, hubert, speaker
from ttstrain.families.gpt_sovits.features.encoders import Encoders
from ttstrain.families.gpt_sovits.features.ready import is_prepared, is_whole, read_ready, ready_values
from ttstrain.families.gpt_sovits.features.sound import FULL_SCALE, mix_gain, training_wav
from ttstrain.families.gpt_sovits.features.tokens import load_quantizer, padded
from ttstrain.families.gpt_sovits.phonemes import WITH_BERT, Spoken, read_clip
from ttstrain.families.gpt_sovits.review import num_frames
from ttstrain.families.gpt_sovits.text.front_end import versions
from ttstrain.families.gpt_sovits.text.japanese_dictionary import digest
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip

RULES: Final = 1  # raise when what `features` returns changes
AGREEMENT: Final = 0.9  # share of a prepared clip's tokens that must be ours: half precision changes a few


@dataclass(frozen=True, slots=True)
class SovitsExample:
    """One clip, ready to be padded; features that its task does not use are None."""

    id: str
    num_frames: int
    phones: Tensor  # (p,) int64
    bert: Tensor | None  # (p, 1024)
    codes: Tensor  # (s,) int64
    wav: Tensor | None  # (t,) float32
    ssl: Tensor | None  # (2 s, 768)
    speaker: Tensor | None  # (20480,)


class SovitsData(TaskData):
    """Features of one version and one set of encoders."""

    sample_rate = SAMPLE_RATE
    frames_per_s = FRAMES_PER_S
    in_one_process = True

    def __init__(self, config: SovitsConfig) -> None:
        self.config = config
        self.packed = is_packed(config)
        vae = getattr(config, "vae", None)
        self.trains_quantizer = isinstance(vae, VaeNetConfig) and not vae.freeze_quantizer
        self.quantizer_digest = load_quantizer(config.features.quantizer).digest
        self.encoders = Encoders(config.features)
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Return a string of all settings that features depend on."""
        files = self.config.features
        parts = [
            f"gpt_sovits/{RULES} {self.config.version}",
            f"hubert {hubert.hubert_digest(files.hubert)}",
            f"quantizer {self.quantizer_digest}",
            *(f"{package} {version}" for package, version in sorted(versions().items())),
            f"language {self.config.text.language}",
        ]
        if not self.config.text.dictionary.is_own:
            parts.append(f"japanese dictionary {digest(self.config.text.dictionary)}")
        if self.config.reads_gpt:
            parts.append(f"bert {bert.bert_digest(files.bert)}")
        if self.config.is_pro:
            parts.append(f"speaker {speaker.speaker_digest(files.speaker)}")
        if self.trains_quantizer:
            parts.append("ssl")
        return ", ".join(parts)

    def length(self, clip: Clip) -> int:
        """Count the spectrogram's frames from the samples that are kept of the clip."""
        return num_frames(clip)

    # ------------------------------------------------------------ features

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        """Compute the nets' inputs from a waveform (t,) and its text, or reuse those of a prepared folder.

        `wav` (t,) int16, `phones` (p,) int32, `codes` (s,) int16; where they are read also `bert` (p, 1024) fp16 of
        Chinese, `speaker` (20480,) of Pro versions, `ssl` (2 s, 768) fp16. Raises DataError when parts of a clip do
        not match.
        """
        said = read_clip(
            clip,
            default_language=self.config.text.language,
            version=self.config.version,
            dictionary=self.config.text.dictionary,
        )
        whole = not clip.ready or is_whole(clip)
        if is_prepared(clip):
            gain, heard = 1.0, (wav * FULL_SCALE).round().clamp(1 - FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
        else:
            gain = mix_gain(wav)
            heard = training_wav(wav, gain)
        n = len(heard) // HOP_LENGTH
        ssl = self._ssl(wav, clip, gain=gain, num_frames=n, whole=whole)
        codes = self.encoders.tokens(ssl, n)
        if whole:
            _check_codes(codes, ready_values(clip, "codes"))
        features = {
            "wav": heard,
            "phones": torch.tensor(said.ids, dtype=torch.int32),
            "codes": codes.to(torch.int16),
        }
        if self.trains_quantizer:
            features["ssl"] = padded(ssl, n).half()
        if self.config.reads_gpt and (spelled := self._bert(said, clip)) is not None:
            features["bert"] = spelled.half()
        if self.config.is_pro:
            ready = read_ready(clip, "speaker") if whole else None
            features["speaker"] = self.encoders.speaker.encode(heard / FULL_SCALE) if ready is None else ready[0]
        return features

    def _ssl(self, wav: Tensor, clip: Clip, *, gain: float, num_frames: int, whole: bool) -> Tensor:
        ready = read_ready(clip, "ssl") if whole else None
        ssl = self.encoders.hear(wav, gain) if ready is None else ready[0].T  # (n, 768)
        if abs(len(ssl) - num_frames) > 1:
            raise DataError(
                f"HuBERT features ({len(ssl)} frames) and recording ({num_frames} frames) are not of the same clip",
                hint="delete its file in `4-cnhubert`; ttstrain then computes it",
            )
        return ssl

    def _bert(self, said: Spoken, clip: Clip) -> Tensor | None:
        """Return the features (p, 1024) of a Chinese text; None for other languages, which get zeros."""
        ready = read_ready(clip, "bert")
        if ready is not None:
            if ready.shape[1] != len(said.ids):
                raise DataError(
                    f"BERT features for {ready.shape[1]} phonemes, but the text has {len(said.ids)}",
                    hint="the text changed since: delete its file in `3-bert`; ttstrain then computes it",
                )
            return ready.T
        if said.language != WITH_BERT or said.word2ph is None:
            return None
        return self.encoders.read(said.normalized, said.word2ph)

    # ------------------------------------------------------------ batches

    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> SovitsExample:
        """Build the example of a clip from its features."""
        reads_gpt, reads_vae = self.config.reads_gpt, self.config.reads_vae
        return SovitsExample(
            id=clip.id,
            num_frames=len(features["wav"]) // HOP_LENGTH,
            phones=features["phones"].long(),
            bert=features["bert"].float() if reads_gpt and "bert" in features else None,
            codes=features["codes"].long(),
            wav=features["wav"].float() / FULL_SCALE if reads_vae else None,
            ssl=features["ssl"].float() if self.trains_quantizer else None,
            speaker=features["speaker"].float() if reads_vae and self.config.is_pro else None,
        )

    def collate(self, examples: Sequence[SovitsExample]) -> SovitsBatch:
        """Pad examples into one batch, with zeros at the right."""
        return pad(examples, packed=self.packed)

    def review_features(self, clips: Sequence[Clip], read: Callable[[Clip], Mapping[str, Tensor]]) -> Review:
        """Return notes on the semantic tokens and on reused features; frees the encoders."""
        self.encoders.free()
        if not clips:
            return Review()
        counts = torch.zeros(1024, dtype=torch.long)
        for clip in clips:
            codes = read(clip)["codes"].long().cpu()
            counts += torch.bincount(codes, minlength=len(counts))
        kinds, total = int((counts > 0).sum()), int(counts.sum())
        remarks = [Remark("tokens", f"{total:,} semantic tokens of {kinds} kinds, quantizer {self.quantizer_digest}")]
        lay = Counter(one.name for clip in clips for one in clip.ready if one.path)
        if lay:
            named = ", ".join(f"{name} of {count}" for name, count in sorted(lay.items()))
            remarks.append(Remark("ready", f"reused from the prepared folder: {named} of {len(clips)} clips"))
        return Review(remarks=tuple(remarks))

    def reference(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the recording's log-mel (n, 128), which a sample is compared with."""
        return Spectrograms().mel(features["wav"][None].float().cpu() / FULL_SCALE)[0].T


def pad(examples: Sequence[SovitsExample], *, packed: bool) -> SovitsBatch:
    """Pad examples into one batch, with zeros at the right; `packed` tells whether they cost their sum."""
    frames = tuple(example.num_frames for example in examples)
    ssl = [example.ssl for example in examples if example.ssl is not None]
    speakers = [example.speaker for example in examples if example.speaker is not None]
    wavs = [example.wav for example in examples if example.wav is not None]
    return SovitsBatch(
        ids=tuple(example.id for example in examples),
        weight=float(len(examples)),
        num_frames=sum(frames),
        num_padded=sum(frames) if packed else len(examples) * max(frames),
        phones=pad_sequence([example.phones for example in examples], batch_first=True),
        phone_lengths=tuple(len(example.phones) for example in examples),
        bert=_padded_bert(examples),
        codes=pad_sequence([example.codes for example in examples], batch_first=True),
        code_lengths=tuple(len(example.codes) for example in examples),
        wav=pad_sequence(wavs, batch_first=True) if wavs else None,
        frame_lengths=frames,
        ssl=pad_sequence(ssl, batch_first=True).mT.contiguous() if ssl else None,
        speaker=torch.stack(speakers) if speakers else None,
        wav_lengths=tuple(len(wav) for wav in wavs),
    )


def _check_codes(codes: Tensor, prepared: Sequence[int]) -> None:
    """Compare tokens with a prepared folder's, which may lack the last one and were computed in half precision.

    Raises DataError when they come from another quantizer, or of another recording.
    """
    if not prepared:
        return
    if abs(len(prepared) - len(codes)) > 1:
        raise DataError(
            f"{len(prepared)} prepared semantic tokens, but the recording has {len(codes)}",
            hint="prepare the folder again: recordings with the same name overwrite each other there",
        )
    common = min(len(prepared), len(codes))
    same = float((codes[:common] == torch.tensor(prepared[:common])).float().mean())
    if same < AGREEMENT:
        raise DataError(
            f"only {same:.0%} of its prepared semantic tokens match this quantizer's",
            hint="set `model.features.quantizer` to the s2G file that the folder was prepared with",
        )


def _padded_bert(examples: Sequence[SovitsExample]) -> Tensor | None:
    if all(example.bert is None for example in examples):
        return None
    rows = [
        torch.zeros(len(example.phones), bert.WIDTH) if example.bert is None else example.bert for example in examples
    ]
    return pad_sequence(rows, batch_first=True)
