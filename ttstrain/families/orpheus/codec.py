"""The SNAC codec: recordings to frames of codes and back.

t samples at 24 kHz, n frames of 2048 samples. The library pads a recording to whole frames with zeros and knows no
mask, so that only recordings of equally many frames can share a batch. Codes are computed in fp32 and without TF32:
lower precision flips some of them.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain import documents
from ttstrain.digest import sha256, sha256_of_files
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.orpheus.codes import LEVEL_RATES, deinterleave, interleave
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, SAMPLE_RATE, SAMPLES_PER_FRAME
from ttstrain.families.orpheus.tokenizer import TOY
from ttstrain.families.orpheus.toy import CODEC, CODEC_SEED
from ttstrain.modules.full_precision import full_precision
from ttstrain.places import expanded
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.hub import HUB, fetch_repository
from ttstrain.tensors.loading import build_to_fit, load_weights
from ttstrain.tensors.tensorfile import StoredTensor

WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
# A batch's products are summed in another order than one clip's. Measured on a CPU with 1 and 2 threads, the likeness
# to a codeword then differs by up to 1.5e-5 for clips of one frame, by 2e-6 for longer ones. So short clips are encoded
# alone, and a clip of which any code was chosen by less than SAFE_GAP is encoded again, alone.
ALONE_BELOW: Final = 8  # frames
SAFE_GAP: Final = 2e-5  # cosine
# On a CPU a batch takes as long as its clips one by one (measured: 0.9 to 2 times as long).
BATCH_FRAMES: Final = {"cpu": 1, "cuda": 8192}
CONTEXT: Final = 3  # frames on either side that a frame's sound depends on; the decoder sees 2.5
WINDOW: Final = 512  # frames decoded at a time, 44 s


class Codec:
    """SNAC with its weights, in evaluation mode."""

    def __init__(self, net: nn.Module, *, digest: str) -> None:
        self.net = net.eval().requires_grad_(False)
        self.digest = digest  # of all that decides on codes
        self._noises = [_take_over_noise(block) for block in _blocks_with_noise(net)]

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def num_codes(self) -> int:
        """How many codes each slot of a frame may have."""
        return int(self.net.codebook_size)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Codec:
        self.net.to(device)
        return self

    # ------------------------------------------------------------ sound to codes

    def encode(
        self, wavs: Sequence[Tensor], *, avoid_zero: bool = False, batch_frames: int | None = None
    ) -> list[Tensor]:
        """Return the frames (n, 7) int16 of each waveform (t,), the same as if it were encoded alone.

        `batch_frames` limits the frames of a batch; None suits the device. `avoid_zero` takes the next-best code
        wherever the nearest is code 0. Raises DataError for a waveform without samples or of several channels.
        """
        limit = BATCH_FRAMES[self.device.type] if batch_frames is None else batch_frames
        frames: list[Tensor | None] = [None] * len(wavs)
        for bucket in _buckets([_checked(wav) for wav in wavs], limit=limit):
            batch = self._encode_batch([wavs[i] for i in bucket], avoid_zero=avoid_zero)
            for row, i in enumerate(bucket):
                sure = len(bucket) == 1 or float(batch.gaps[row]) >= SAFE_GAP
                chosen = batch if sure else self._encode_batch([wavs[i]], avoid_zero=avoid_zero)
                levels = [level[row if sure else 0] for level in chosen.levels]
                frames[i] = interleave(levels).to(torch.int16).cpu()
        return [one for one in frames if one is not None]

    def latents(self, wavs: Sequence[Tensor]) -> Tensor:
        """Return what is quantised (b, c, 4n) of waveforms with equally many frames."""
        length = max(num_frames(wav) for wav in wavs) * SAMPLES_PER_FRAME
        padded = torch.stack([F.pad(wav.float(), (0, length - len(wav))) for wav in wavs])
        with torch.inference_mode(), full_precision():
            latents: Tensor = self.net.encoder(padded[:, None].to(self.device))  # type: ignore[operator]
        return latents

    def _encode_batch(self, wavs: Sequence[Tensor], *, avoid_zero: bool) -> _Encoded:
        latents = self.latents(wavs)
        with torch.inference_mode(), full_precision():
            if avoid_zero:
                return _quantise(self.net.quantizer, latents, avoid_zero=True)
            levels: list[Tensor] = self.net.quantizer(latents)[1]  # type: ignore[operator]
            if len(wavs) == 1:
                return _Encoded(levels, gaps=torch.full((1,), torch.inf))
            return _Encoded(levels, gaps=_quantise(self.net.quantizer, latents, chosen=levels).gaps)

    # ------------------------------------------------------------ codes to sound

    def decode(
        self,
        frames: Tensor,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        window: int = WINDOW,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the waveform (t,) of frames (n, 7), whole from the first frame to the last, cropped to `num_samples`.

        Long ones are decoded in windows with enough context on both sides to equal the whole. The decoder adds noise:
        `seed` makes it repeatable, `noise` states it, one tensor (1, 1, length) for each block of the decoder.
        """
        n = len(frames)
        if not n:
            return torch.zeros(0)
        if noise is None:
            generator = torch.Generator().manual_seed(seed)
            noise = [torch.randn(1, 1, n * rate, generator=generator) for rate in self._noise_rates()]
        pieces = []
        for start in range(0, n, window):
            end = min(start + window, n)
            first, last = max(0, start - CONTEXT), min(n, end + CONTEXT)
            wav = self._decode_piece(frames[first:last], [
                one[..., first * rate : last * rate] for one, rate in zip(noise, self._noise_rates(), strict=True)
            ])  # fmt: skip
            pieces.append(wav[(start - first) * SAMPLES_PER_FRAME : (end - first) * SAMPLES_PER_FRAME])
        wav = torch.cat(pieces)
        if num_samples is None:
            return wav
        if num_samples > len(wav):
            raise ValueError(f"{n} frames are {len(wav)} samples, fewer than the requested {num_samples}")
        return wav[:num_samples]

    def _decode_piece(self, frames: Tensor, noise: Sequence[Tensor]) -> Tensor:
        levels = [level.long()[None].to(self.device) for level in deinterleave(frames)]
        for level in levels:
            if int(level.min()) < 0 or int(level.max()) >= self.net.codebook_size:  # type: ignore[operator]
                raise ValueError(f"codes {int(level.min())} to {int(level.max())} of {self.net.codebook_size}")
        for module, one in zip(self._noises, noise, strict=True):
            module.noise = one.to(self.device)
        with torch.inference_mode(), full_precision():
            wav: Tensor = self.net.decode(levels)  # type: ignore[operator]
        for module in self._noises:
            module.noise = None
        return wav[0, 0].float().cpu()

    def _noise_rates(self) -> list[int]:
        """Return how many samples each block's noise has in a frame."""
        if not self._noises:
            return []
        rates, rate = [], LEVEL_RATES[-1]
        for stride in self.net.decoder_rates:  # type: ignore[union-attr]
            rate *= int(stride)
            rates.append(rate)
        return rates


def num_frames(wav: Tensor) -> int:
    """Count the frames of a waveform (t,)."""
    return -(-len(wav) // SAMPLES_PER_FRAME)


def _checked(wav: Tensor) -> Tensor:
    if wav.ndim != 1:
        raise DataError(f"the codec needs one channel, got a waveform of shape {tuple(wav.shape)}")
    if not len(wav):
        raise DataError("the waveform has no samples")
    return wav


def _buckets(wavs: Sequence[Tensor], *, limit: int) -> Iterator[list[int]]:
    """Divide waveforms into batches of equally many frames."""
    by_frames: dict[int, list[int]] = defaultdict(list)
    for i, wav in enumerate(wavs):
        by_frames[num_frames(wav)].append(i)
    for n, members in sorted(by_frames.items()):
        size = 1 if n < ALONE_BELOW else max(1, limit // n)
        for start in range(0, len(members), size):
            yield members[start : start + size]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Codes of a batch, and by how much they were chosen."""

    levels: list[Tensor]  # (b, n), (b, 2n), (b, 4n)
    gaps: Tensor  # (b,) least difference in likeness between a chosen codeword and the next best


def _quantise(
    quantizer: Any, latents: Tensor, *, chosen: Sequence[Tensor] | None = None, avoid_zero: bool = False
) -> _Encoded:
    """Quantise as the codec does, level by level on what is left, or measure how clear the `chosen` codes are."""
    residual, levels, gaps = latents, [], []
    for number, level in enumerate(quantizer.quantizers):
        pooled = F.avg_pool1d(residual, level.stride, level.stride) if level.stride > 1 else residual
        wanted = F.normalize(level.in_proj(pooled), dim=1)  # (b, c, n)
        likeness = torch.einsum("bcn,kc->bnk", wanted, F.normalize(level.codebook.weight))
        if avoid_zero:
            likeness[..., 0] = -torch.inf
        codes = likeness.argmax(dim=-1) if chosen is None else chosen[number]
        levels.append(codes)
        of_chosen = likeness.gather(-1, codes[..., None])[..., 0]
        of_others = likeness.scatter(-1, codes[..., None], -torch.inf).amax(dim=-1)
        gaps.append((of_chosen - of_others).amin(dim=-1))
        taken = level.out_proj(level.decode_code(codes))
        residual = residual - taken.repeat_interleave(level.stride, dim=-1)
    return _Encoded(levels, gaps=torch.stack(gaps).amin(dim=0))


# ---------------------------------------------------------------- noise that can be stated


class _StatedNoise(nn.Module):
    """Adds the noise it is given, where the library draws its own."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.noise: Tensor | None = None  # (1, 1, t)

    def forward(self, x: Tensor) -> Tensor:
        assert self.noise is not None
        scaled: Tensor = self.linear(x)
        return x + self.noise * scaled


def _blocks_with_noise(net: nn.Module) -> list[tuple[nn.Sequential, int]]:
    from snac.layers import NoiseBlock

    return [
        (module, i)
        for module in net.modules()
        if isinstance(module, nn.Sequential)
        for i, part in enumerate(module)
        if isinstance(part, NoiseBlock)
    ]


def _take_over_noise(place: tuple[nn.Sequential, int]) -> _StatedNoise:
    block, i = place
    stated = _StatedNoise(block[i].linear)  # type: ignore[arg-type]
    block[i] = stated
    return stated


# ---------------------------------------------------------------- loading


def load_codec(spec: str) -> Codec:
    """Load the codec that `spec` names: a folder with config.json and weights, or `hf://owner/repo`.

    Raises CheckpointError unless it is a SNAC of 24 kHz whose frames make seven tokens, with every tensor in its place.
    """
    if spec == TOY:
        net = _toy()
        return Codec(net, digest=digest_of(spec))
    folder, weights = _files(spec)
    config = _read_config(folder / "config.json")
    contents = read_contents(weights)
    refuse_unsafe(contents)
    tree = contents.tree
    if not isinstance(tree, dict) or not all(isinstance(value, StoredTensor) for value in tree.values()):
        raise CheckpointError(f"`{weights}` is not a state dict")
    described = str(folder / "config.json")
    net = build_to_fit(lambda: _build_net(config, source=spec), tree, source=str(weights), config=described)
    load_weights(net, tree, source=str(weights))
    return Codec(net, digest=digest_of(spec))


def digest_of(spec: str) -> str:
    """Return a hash of the codec's files, which decides whether cached codes are still its own."""
    if spec == TOY:
        return sha256(f"{json.dumps(CODEC, sort_keys=True)} {CODEC_SEED}")[:16]
    folder, weights = _files(spec)
    return sha256_of_files([folder / "config.json", weights])[:16]


def _files(spec: str) -> tuple[Path, Path]:
    folder = fetch_repository(spec, ["config.json", *WEIGHTS]) if spec.startswith(HUB) else expanded(spec)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"there is no codec at `{spec}`", hint="a folder with SNAC's config.json, or hf://hubertsiuzdak/snac_24khz"
        )
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder, folder / name
    raise CheckpointError(f"the codec `{spec}` has no weights", hint=f"looked for {' and '.join(WEIGHTS)}")


def _read_config(path: Path) -> dict[str, Any]:
    return documents.read_object(path, error=CheckpointError)


def _build_net(config: dict[str, Any], *, source: str) -> nn.Module:
    wanted = {"sampling_rate": SAMPLE_RATE, "vq_strides": [4, 2, 1]}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise CheckpointError(
                f"the codec `{source}` has {key} {config.get(key)}, but {value} is needed",
                hint="the models were trained on the 24 kHz SNAC: hf://hubertsiuzdak/snac_24khz",
            )
    size = config.get("codebook_size", 0)
    if type(size) is not int or not 0 < size <= CODEBOOK_SIZE:
        raise CheckpointError(f"the codec `{source}` has {size} codes, the limit is {CODEBOOK_SIZE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which the library uses
            import snac

            net: nn.Module = snac.SNAC(**config)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the codec needs `{error.name}`, which is not installed", hint='pip install "ttstrain[orpheus]"'
        ) from error
    except TypeError as error:
        raise CheckpointError(f"the codec `{source}` is not a SNAC: {error}") from error
    frame = int(net.hop_length) * config["vq_strides"][0]  # type: ignore[arg-type]
    if frame != SAMPLES_PER_FRAME or config.get("attn_window_size") is not None:
        raise CheckpointError(f"the codec `{source}` has frames of {frame} samples, but {SAMPLES_PER_FRAME} are needed")
    return net


def _toy() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CODEC_SEED)
        net = _build_net(dict(CODEC), source=TOY)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # else the sound would hardly matter, and all codes be alike
    return net
