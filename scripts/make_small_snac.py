"""Train a small SNAC codec of 24 kHz on recordings, as a folder that `model.rows.codec` can name.

    python scripts/make_small_snac.py RECORDINGS OUT --minutes 20

RECORDINGS holds `metadata.jsonl` and the files that it names, as `make_base_speech.py` writes them. The net is the
library's own class in a small size, with three codebooks of `--codes` entries at 11.7, 23.4 and 46.9 codes a second, as
Orpheus reads and writes them. It is trained on mel distances at four resolutions and on the distance between latents
and codes, without a discriminator: its speech is understood, but not natural. `--minutes` limits the time, and the
learning rate follows it. The last `--held-out` recordings are not trained on; their mel distance is printed.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from time import monotonic
from typing import Any

import snac
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

SAMPLE_RATE, FRAME, HOP = 24_000, 2048, 512
CROP_FRAMES, BATCH = 8, 4
FLOOR = 1e-4  # of a mel bin, before the logarithm
RESOLUTIONS = ((128, 10), (512, 40), (1024, 80), (2048, 80))  # samples of the window, mel bins
TO_CODES, TO_LATENTS = 1.0, 0.25  # weights of the codebooks' distance to latents, and of the latents' to codebooks
PEAK_LR, WARMUP_S, LONGEST_NORM = 1e-3, 20.0, 1.0
UNQUANTISED = 0.25  # of the time, at the beginning: codebooks that start at random collapse to one code
FIRST_LATENTS, UNUSED_AFTER = (
    24,
    50,
)  # batches whose latents become the first codes; steps after which a code is replaced
KEPT_LEVEL_DB = 24.0  # a quieter crop than this below the recording's loudest is drawn again


def config(*, encoder_dim: int, decoder_dim: int, codes: int) -> dict[str, Any]:
    """Return the library's settings, with frames of seven codes as Orpheus'; few layers run at the full rate."""
    return {
        "sampling_rate": SAMPLE_RATE,
        "encoder_dim": encoder_dim,
        "encoder_rates": [8, 8, 4, 2],
        "decoder_dim": decoder_dim,
        "decoder_rates": [2, 4, 8, 8],
        "attn_window_size": None,
        "codebook_size": codes,
        "codebook_dim": 8,
        "vq_strides": [4, 2, 1],
        "noise": False,
        "depthwise": False,
    }


def read(folder: Path) -> list[Tensor]:
    """Read all recordings (t,), in the table's order."""
    rows = map(json.loads, (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    wavs = []
    for row in rows:
        wav, rate = soundfile.read(folder / row["audio"], dtype="float32")
        if rate != SAMPLE_RATE:
            raise SystemExit(f"{row['audio']} has {rate} Hz, but {SAMPLE_RATE} are needed")
        wavs.append(torch.from_numpy(wav))
    return wavs


class MelDistance(nn.Module):
    """Mean absolute difference of log mels (base 10) at several resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.mels = nn.ModuleList(
            MelSpectrogram(SAMPLE_RATE, n_fft=size, hop_length=size // 4, n_mels=bins, power=1.0)
            for size, bins in RESOLUTIONS
        )

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Compare two batches of waveforms (b, t)."""
        distances = [
            F.l1_loss(mel(made).clamp(min=FLOOR).log10(), mel(wanted).clamp(min=FLOOR).log10()) for mel in self.mels
        ]
        return torch.stack(distances).mean()


class Hearing(nn.Module):
    """Predict log mels from coded latents, so that encoder and codebooks learn before the decoder can speak.

    It is not part of the codec.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.mel = MelSpectrogram(SAMPLE_RATE, n_fft=2048, hop_length=HOP, n_mels=80, power=1.0)
        self.net = nn.Sequential(
            nn.Conv1d(latent_dim, 256, 5, padding=2), nn.GELU(), nn.Conv1d(256, 256, 5, padding=2), nn.GELU(),
            nn.Conv1d(256, 80, 1),
        )  # fmt: skip

    def forward(self, coded: Tensor, wavs: Tensor) -> Tensor:
        """Return the mean absolute error (base 10) for coded latents (b, c, n) of waveforms (b, t)."""
        wanted = self.mel(wavs).clamp(min=FLOOR).log10()[..., : coded.shape[-1]]
        return F.l1_loss(self.net(coded), wanted)


class Codebooks:
    """The codebooks of a net in training: their first codes, how often each is used, and what replaces unused ones."""

    def __init__(self, net: nn.Module) -> None:
        self.levels = list(net.quantizer.quantizers)
        self.on = False
        self.used = [torch.zeros(level.codebook_size) for level in self.levels]
        self.latents: list[Tensor] = []  # (b n, c) of each level, of the last batch

    def __call__(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise latents (b, c, n) level by level; return them and the loss of the codebooks.

        The library's own forward pass gives no such loss. Gradients pass the codes straight through.
        """
        residual, total, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        self.latents = []
        for number, level in enumerate(self.levels):
            pooled = F.avg_pool1d(residual, level.stride, level.stride) if level.stride > 1 else residual
            wanted = level.in_proj(pooled)
            self.latents.append(wanted.detach().transpose(1, 2).flatten(0, 1))
            if self.on:
                coded, codes = level.decode_latents(wanted)
                self.used[number] += torch.bincount(codes.flatten(), minlength=level.codebook_size)
                loss = loss + TO_CODES * F.mse_loss(coded, wanted.detach())
                loss = loss + TO_LATENTS * F.mse_loss(wanted, coded.detach())
                wanted = wanted + (coded - wanted).detach()
            taken = level.out_proj(wanted).repeat_interleave(level.stride, dim=-1)
            total, residual = total + taken, residual - taken
        return total, loss

    @torch.no_grad()
    def begin(self, batches: list[Tensor]) -> None:
        """Take latents of these batches (b, c, n) as the first codes, level by level."""
        found: list[list[Tensor]] = [[] for _ in self.levels]
        for batch in batches:
            self(batch)
            for level, latents in zip(found, self.latents, strict=True):
                level.append(latents)
        for level, latents in zip(self.levels, found, strict=True):
            level.codebook.weight.copy_(_some(torch.cat(latents), level.codebook_size))
        self.on = True

    @torch.no_grad()
    def replace_unused(self) -> int:
        """Replace codes that no latent took since the last time by latents of the last batch; return how many."""
        replaced = 0
        for level, used, latents in zip(self.levels, self.used, self.latents, strict=True):
            unused = (used == 0).nonzero()[:, 0][: len(latents)]
            level.codebook.weight[unused] = _some(latents, len(unused))
            replaced += len(unused)
            used.zero_()
        return replaced


def _some(latents: Tensor, number: int) -> Tensor:
    """Draw rows, each once where there are enough."""
    drawn = torch.randperm(len(latents)) if len(latents) >= number else torch.randint(len(latents), (number,))
    return latents[drawn[:number]]


@torch.no_grad()
def even_out(net: nn.Module, codebooks: Codebooks, wavs: Tensor) -> None:
    """Scale the weights of encoder and codebooks' projections until each layer's output has a deviation of 1.

    As the library begins, latents hardly depend on the sound, and hundreds of steps pass before they do.
    """
    hooks = [
        module.register_forward_hook(_divide_by_deviation)
        for part in (net.encoder, net.quantizer)
        for module in part.modules()
        if isinstance(module, nn.Conv1d)
    ]
    codebooks(net.encoder(wavs[:, None]))
    for hook in hooks:
        hook.remove()


def _divide_by_deviation(layer: nn.Conv1d, given: tuple[Tensor], out: Tensor) -> Tensor:
    layer.parametrizations.weight.original0.div_(out.std())
    layer.bias.zero_()
    return F.conv1d(given[0], layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def losses(
    net: nn.Module, codebooks: Codebooks, hearing: Hearing, distance: MelDistance, wavs: Tensor
) -> dict[str, Tensor]:
    """Return the losses of waveforms (b, t) of whole frames: of what is decoded, of mels that are heard, of codes."""
    coded, of_codes = codebooks(net.encoder(wavs[:, None]))
    made = net.decoder(coded)[:, 0]
    return {"mels": distance(made, wavs), "heard": hearing(coded, wavs), "codes": of_codes}


def crops(wavs: list[Tensor], generator: torch.Generator) -> Tensor:
    """Draw a batch of pieces (b, t) that are not silent."""
    size, drawn = CROP_FRAMES * FRAME, []
    while len(drawn) < BATCH:
        wav = wavs[int(torch.randint(len(wavs), (), generator=generator))]
        start = int(torch.randint(max(1, len(wav) - size), (), generator=generator))
        piece = wav[start : start + size]
        if 20 * math.log10(float(piece.abs().max()) / float(wav.abs().max()) + 1e-9) > -KEPT_LEVEL_DB:
            drawn.append(F.pad(piece, (0, size - len(piece))))
    return torch.stack(drawn)


def learning_rate(passed_s: float, total_s: float) -> float:
    """Rise for `WARMUP_S`, then fall to nothing as a cosine."""
    return PEAK_LR * min(1.0, passed_s / WARMUP_S) * 0.5 * (1 + math.cos(math.pi * min(1.0, passed_s / total_s)))


@torch.no_grad()
def held_out_distance(net: nn.Module, wavs: list[Tensor], distance: MelDistance) -> float:
    """Return the mean mel distance of whole recordings after their way through the codec."""
    wholes = [wav[None, : len(wav) // FRAME * FRAME] for wav in wavs]
    return sum(float(distance(net(whole[:, None])[0][:, 0], whole)) for whole in wholes) / len(wholes)


def used_codes(net: nn.Module, wavs: list[Tensor]) -> list[float]:
    """Return for each codebook the perplexity of its codes: how many are in use, as it were."""
    levels: list[list[Tensor]] = [[] for _ in net.quantizer.quantizers]
    with torch.no_grad():
        for wav in wavs:
            for level, codes in zip(levels, net.encode(wav[None, None]), strict=True):
                level.append(codes.flatten())
    shares = [torch.bincount(torch.cat(level), minlength=net.codebook_size).double() for level in levels]
    return [float(torch.special.entr(share / share.sum()).sum().exp()) for share in shares]


def train(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    settings = config(encoder_dim=given.encoder_dim, decoder_dim=given.decoder_dim, codes=given.codes)
    net, distance = snac.SNAC(**settings), MelDistance()
    wavs = read(given.recordings)
    wavs, held_out = wavs[: -given.held_out], wavs[-given.held_out :]
    print(
        f"{sum(p.numel() for p in net.parameters()):,} parameters; {sum(map(len, wavs)) / SAMPLE_RATE / 60:.0f} minutes"
    )
    hearing = Hearing(net.latent_dim)
    optimizer = torch.optim.AdamW([*net.parameters(), *hearing.parameters()], betas=(0.8, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    codebooks, step, told = Codebooks(net), 0, 0.0
    even_out(net, codebooks, crops(wavs, generator))
    began, total_s = monotonic(), 60 * given.minutes
    while (passed := monotonic() - began) < total_s:
        if not codebooks.on and passed > UNQUANTISED * total_s:
            with torch.no_grad():
                codebooks.begin([net.encoder(crops(wavs, generator)[:, None]) for _ in range(FIRST_LATENTS)])
        optimizer.param_groups[0]["lr"] = learning_rate(passed, total_s)
        wanted = crops(wavs, generator)
        found = losses(net, codebooks, hearing, distance, wanted)
        optimizer.zero_grad()
        sum(found.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(net.parameters(), LONGEST_NORM)
        optimizer.step()
        step += 1
        if codebooks.on and step % UNUSED_AFTER == 0 and passed < (1 + UNQUANTISED) / 2 * total_s:
            print(f"  {codebooks.replace_unused()} unused codes replaced", flush=True)
        if passed - told > 60:
            told = passed
            told_losses = "  ".join(f"{name} {loss.item():.4f}" for name, loss in found.items())
            print(f"{passed / 60:5.1f} min  step {step}  {told_losses}", flush=True)
            save(net, settings, given.out)
    save(net, settings, given.out)
    net.eval()
    print(f"held out: mels {held_out_distance(net, held_out, distance):.4f}")
    print("codes in use (perplexity): " + ", ".join(f"{level:.0f}" for level in used_codes(net, held_out)))


def save(net: nn.Module, settings: dict[str, Any], out: Path) -> None:
    """Write the folder as the library reads it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.save(net.state_dict(), out / "pytorch_model.bin")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--encoder-dim", type=int, default=16)
    parser.add_argument("--decoder-dim", type=int, default=256)
    parser.add_argument("--codes", type=int, default=512, help="entries of each codebook")
    parser.add_argument("--held-out", type=int, default=24, help="recordings")
    train(parser.parse_args())
