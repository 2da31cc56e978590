"""From a text and a reference recording to sound: phonemes, tokens from the GPT, sound from the VAE.

Each step follows upstream's web tool, so that a preview sounds like the export in that tool.
Legend: p phonemes, s semantic tokens, n spectrogram frames, t samples at 32 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchaudio
from torch import Tensor, nn

from ttstrain.contract.task import Audio, Prompt, Sample
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SAMPLE_RATE, GptNetConfig, SovitsConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.features.encoders import Encoders
from ttstrain.families.gpt_sovits.features.sound import HUBERT_SCALE
from ttstrain.families.gpt_sovits.gpt.decode import generate
from ttstrain.families.gpt_sovits.gpt.net import BERT_CHANNELS, Text2SemanticDecoder, build_gpt
from ttstrain.families.gpt_sovits.phonemes import WITH_BERT
from ttstrain.families.gpt_sovits.sentences import ended, pieces
from ttstrain.families.gpt_sovits.text.front_end import detect_language, phonemize, spoken_language
from ttstrain.families.gpt_sovits.vae.base import check_tokens
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.families.gpt_sovits.vae.synthesizer import Synthesizer, build_vae
from ttstrain.tensors.loading import load_weights

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint

PROMPT_SILENCE_S = 0.6  # silence after the reference, for HuBERT: 9600 zeros at 16 kHz upstream
PAUSE_S = 0.3  # between pieces
SHORTEST_S = 0.1  # of a reference that has a spectrogram at all
REFERENCE_S = (3.0, 10.0)  # upstream refuses others
LOUDEST_HALVED = 2.0  # a reference above full scale is divided by its peak, at most by this
SHOWN_SYMBOLS = 8  # in a note


@dataclass(frozen=True, slots=True)
class Read:
    """A text as the nets read it."""

    phones: Tensor  # (p,) int64
    bert: Tensor | None  # (p, 1024) float32; None where the language has none
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreparedVoice:
    """The nets' inputs from a reference recording."""

    read: Read | None  # its text; None if unknown
    codes: Tensor  # (s,) int64; empty if the text is unknown
    spec: Tensor  # (1, 1025, n)
    speaker: Tensor | None  # (1, 20480), Pro versions
    notes: tuple[str, ...]


class Speech:
    """Generates speech with the trained nets; loads a missing net from its file, and caches nets and references."""

    def __init__(self, config: SovitsConfig) -> None:
        self._config = config
        self._encoders = Encoders(config.features)
        self._spectrograms = Spectrograms()
        self._reads: dict[tuple[str, str], Read] = {}
        self._voices: dict[tuple[str, str], tuple[Tensor, PreparedVoice]] = {}
        self._partners: dict[str, nn.Module] = {}

    # ------------------------------------------------------------ the other net

    def gpt(self, path: str, device: torch.device) -> Text2SemanticDecoder:
        """Return the GPT of a file or a run, loaded once."""
        if path not in self._partners:
            self._partners[path] = load_gpt(path)
        found = self._partners[path].to(device)
        assert isinstance(found, Text2SemanticDecoder)
        return found

    def vae(self, path: str, device: torch.device) -> Synthesizer:
        """Return the VAE of a file or a run, loaded once."""
        if path not in self._partners:
            self._partners[path] = load_vae(path, self._config)
        found = self._partners[path].to(device)
        assert isinstance(found, Synthesizer)
        return found

    # ------------------------------------------------------------ speaking

    @torch.no_grad()
    def speak(self, gpt: Text2SemanticDecoder, vae: Synthesizer, prompt: Prompt, *, sound: str) -> Sample:
        """Generate a prompt's text, piece by piece, in the voice of its reference.

        `sound` is what the task's `prepare_sampling` says: samples are compared only where it is the same.
        Raises DataError without a text or a reference.
        """
        if not prompt.text.strip():
            raise DataError("the text is empty")
        if prompt.reference is None:
            raise DataError("GPT-SoVITS needs a reference recording of the voice", hint="give one: `--ref-audio`")
        settings = self._config.sampling
        language = self._language(prompt.text, prompt.language)
        voice = self._voice(prompt.reference, prompt.reference_text, self._language_of_reference(prompt, language))
        parts = pieces(prompt.text, language)
        if not parts:
            raise DataError(f"the text has nothing to pronounce: `{prompt.text}`")
        reads = [self._read(part, language) for part in parts]
        if self._encoders.device.type == "cuda":
            self._encoders.free()  # the memory is the training's

        notes = [*voice.notes, *_unread([*([voice.read] if voice.read else []), *reads])]
        if prompt.duration_s is not None:
            notes.append("the requested duration is ignored: the GPT decides how long speech is")
        seed = settings.seed if prompt.seed is None else prompt.seed
        sounds: list[Tensor] = []
        for number, read in enumerate(reads):
            generator = torch.Generator().manual_seed(seed + number)
            phones, bert = _after(voice.read, read)
            device = gpt.ar_predict_layer.weight.device
            written = generate(
                gpt,
                phones.to(device),
                None if bert is None else bert.to(device),
                voice.codes.to(device),
                settings=settings,
                generator=generator,
            )
            if not written.stopped:
                notes.append(f"piece {number + 1} was cut off at the limit of {len(written.codes):,} tokens")
            sounds.append(self._sound(vae, written.codes, read, voice, generator))
        wav = _joined(sounds)
        return Sample(
            audio=Audio(wav, SAMPLE_RATE),
            mel=self._spectrograms.mel(wav[None])[0].T,
            vocoder=sound,
            num_chunks=len(parts),
            notes=tuple(dict.fromkeys(notes)),
        )

    def _sound(
        self, vae: Synthesizer, codes: Tensor, read: Read, voice: PreparedVoice, generator: torch.Generator
    ) -> Tensor:
        """Return the sound (t,) of tokens; louder than full scale it is scaled to fit."""
        device = next(vae.parameters()).device
        settings = self._config.sampling
        wav = vae.decode(
            codes[None].to(device),
            read.phones[None].to(device),
            voice.spec.to(device),
            speaker=None if voice.speaker is None else voice.speaker.to(device),
            noise_scale=settings.noise_scale,
            speed=settings.speed,
            generator=generator,
        )[0, 0]
        wav = wav.float().cpu()
        return wav / wav.abs().max().clamp(min=1.0)

    # ------------------------------------------------------------ reading and hearing

    def _language(self, text: str, given: str) -> str:
        return spoken_language(given or self._config.text.language, text)

    def _language_of_reference(self, prompt: Prompt, language: str) -> str:
        """Guess the reference's language: the text's if the scripts agree, else the one its script suggests."""
        detected = detect_language(prompt.reference_text)
        return language if detected == detect_language(prompt.text) else detected

    def _read(self, text: str, language: str) -> Read:
        key = (text, language)
        if key not in self._reads:
            said = phonemize(text, language, version=self._config.version, dictionary=self._config.text.dictionary)
            bert = None
            if language == WITH_BERT and said.word2ph is not None:
                bert = self._encoders.read(said.normalized, said.word2ph)
            self._reads[key] = Read(torch.tensor(said.ids), bert, said.unknown)
        return self._reads[key]

    def _voice(self, reference: Audio, text: str, language: str) -> PreparedVoice:
        key = (text, language)
        known = self._voices.get(key)
        if known is None or not torch.equal(known[0], reference.wav):
            known = (reference.wav, self._heard(reference, text, language))
            self._voices[key] = known
        return known[1]

    def _heard(self, reference: Audio, text: str, language: str) -> PreparedVoice:
        wav = reference.wav.float()
        if reference.sample_rate != SAMPLE_RATE:
            wav = torchaudio.functional.resample(wav, reference.sample_rate, SAMPLE_RATE)
        seconds = len(wav) / SAMPLE_RATE
        if seconds < SHORTEST_S or not bool(wav.any()):
            raise DataError(f"the reference is {'too short' if seconds < SHORTEST_S else 'silent'}")
        notes = []
        if not REFERENCE_S[0] <= seconds <= REFERENCE_S[1]:
            low, high = REFERENCE_S
            notes.append(
                f"the reference has {seconds:.1f} s; {low:g} to {high:g} s work best, upstream accepts no other"
            )
        read, codes = None, torch.zeros(0, dtype=torch.int64)
        if text.strip():
            read = self._read(ended(text, language), language)
            padded = torch.cat([wav, torch.zeros(round(PROMPT_SILENCE_S * SAMPLE_RATE))])
            ssl = self._encoders.hear(padded, 1 / HUBERT_SCALE)  # as loud as it is: upstream's way to speak
            codes = self._encoders.tokens(ssl, len(padded) // HOP_LENGTH)
        else:
            notes.append("the reference has no transcript: only its timbre is used, without a prompt for the GPT")
        peak = float(wav.abs().max())
        shown = wav / min(peak, LOUDEST_HALVED) if peak > 1 else wav
        spec = self._spectrograms.linear(shown[None], [len(shown)], width=len(shown) // HOP_LENGTH)
        speaker = self._encoders.speaker.encode(shown)[None] if self._config.is_pro else None
        return PreparedVoice(read, codes, spec, speaker, tuple(notes))


def _after(first: Read | None, then: Read) -> tuple[Tensor, Tensor | None]:
    """Return phonemes (p,) and BERT's features (p, 1024) of reference and text together."""
    reads = [read for read in (first, then) if read is not None]
    phones = torch.cat([read.phones for read in reads])
    if all(read.bert is None for read in reads):
        return phones, None
    rows = [torch.zeros(len(read.phones), BERT_CHANNELS) if read.bert is None else read.bert for read in reads]
    return phones, torch.cat(rows)


def _joined(sounds: list[Tensor]) -> Tensor:
    pause = torch.zeros(round(PAUSE_S * SAMPLE_RATE))
    return torch.cat([part for sound in sounds for part in (pause, sound)][1:])


def _unread(reads: list[Read]) -> list[str]:
    unknown = list(dict.fromkeys(symbol for read in reads for symbol in read.unknown))
    if not unknown:
        return []
    shown = ", ".join(f"`{symbol}`" for symbol in unknown[:SHOWN_SYMBOLS])
    return [f"skipped, because there is no phoneme for it: {shown}" + (" ..." if len(unknown) > SHOWN_SYMBOLS else "")]


# ---------------------------------------------------------------- nets from files


def load_gpt(path: str) -> Text2SemanticDecoder:
    """Load a GPT of any layout for inference. Raises CheckpointError if the file has none."""
    opened = _opened(path)
    section = _section(opened, "gpt")
    net = build_gpt(GptNetConfig.model_validate(section))
    load_weights(net, _under(opened, "gpt."), source=str(opened.path))
    return net.eval().requires_grad_(False)


def load_vae(path: str, config: SovitsConfig) -> Synthesizer:
    """Load a VAE of any layout for inference; the posterior encoder, which exports lack, is not needed.

    Raises CheckpointError if the file has none, or one of another version or quantizer.
    """
    opened = _opened(path)
    section = _section(opened, "vae")
    version = opened.config.get("version", config.version)
    if version != config.version:
        raise CheckpointError(
            f"`{opened.path}` is a VAE of {version}, but `model.version` is {config.version}",
            hint="give a file of the same version",
        )
    check_tokens(opened, quantizer=config.features.quantizer)
    net = build_vae(VaeNetConfig.model_validate(section), config.version)
    own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("enc_q.")}
    weights: dict[str, Any] = {**own, **_under(opened, "vae.")}
    load_weights(net, weights, source=str(opened.path))
    return net.eval().requires_grad_(False)


def _opened(path: str) -> OpenedCheckpoint:
    from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base

    return open_checkpoint(resolve_base(path))


def _section(opened: OpenedCheckpoint, name: str) -> dict[str, Any]:
    section = opened.config.get(name)
    if not isinstance(section, dict) or not section:
        raise CheckpointError(
            f"`{opened.path}` has no {'GPT' if name == 'gpt' else 'VAE'} for inference",
            hint=f"set `model.{name}` to {'an s1' if name == 'gpt' else 'an s2G'} file, an export or a run",
        )
    return section


def _under(opened: OpenedCheckpoint, prefix: str) -> dict[str, Any]:
    weights = opened.weights if opened.ema is None else {**opened.weights, **opened.ema}
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def no_partner(net: str) -> RecipeError:
    """Return the error about the net that is missing for samples."""
    files = {"vae": ("the sound needs a VAE", "s2G"), "gpt": ("the tokens need a GPT", "s1")}
    why, kind = files[net]
    return RecipeError(
        f"cannot generate samples: {why}, and `model.{net}` is not set",
        hint=f"set it to an {kind} file, an export or a run: `model.{net}=PATH`",
    )
