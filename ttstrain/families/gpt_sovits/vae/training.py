"""One VAE-GAN step and its evaluation, for the VAE alone and for both nets together.

Legend: b clips, c channels, n frames (50 a second), t samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.contract.task import Loss
from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import HOP_LENGTH
from ttstrain.families.gpt_sovits.vae.discriminator import Discriminator
from ttstrain.families.gpt_sovits.vae.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    kl_per_frame,
    mean_score,
    mel_distance,
    scores_of,
)
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.families.gpt_sovits.vae.quantizer import Met, Quantized
from ttstrain.families.gpt_sovits.vae.synthesizer import Conditions, Latents, Synthesizer, cut, cut_wav

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import VaeNetConfig

COLLAPSED_KL = 0.05  # nats a frame; a published net has about 1 to 3 on its voice
EXPLODED_KL = 300.0  # a fresh net begins near 50
TOO_STRONG = 0.9  # distance of the discriminator's mean scores; 1 separates all sounds, 0 none
TOO_WEAK = 0.02
EVALUATED_NOISE = 0.5  # of the prior, as in upstream's inference
CODES_MET, FEATURES_MET = (
    "codebook.counts",
    "codebook.sums",
)  # name of the statistics that a trained codebook is updated from


@dataclass(frozen=True, slots=True)
class VaeParts:
    """The nets of a VAE-GAN and their spectrograms, whichever task owns them."""

    config: VaeNetConfig
    vae: Synthesizer
    discriminator: Discriminator | None
    spectrograms: Spectrograms


@dataclass(frozen=True, slots=True)
class Target:
    """Targets of a batch."""

    spec: Tensor  # (b, 1025, n) linear magnitudes of whole clips, n = 2 s
    wav: Tensor  # (b, 1, segment) the piece of each clip that is generated
    mel: Tensor  # (b, 128, segment frames) of that piece


@dataclass(frozen=True, slots=True)
class Made:
    """The generator's outputs."""

    wav: Tensor  # (b, 1, segment)
    latents: Latents
    quantized: Quantized | None  # only where the quantizer is trained


# ---------------------------------------------------------------- one step


def draw_segments(batch: SovitsBatch, config: VaeNetConfig) -> SovitsBatch:
    """Choose the piece of each clip that is generated, on the host."""
    return replace(batch, segment_starts=starts_at(torch.rand(len(batch.ids)), batch, config))


def starts_at(positions: Tensor, batch: SovitsBatch, config: VaeNetConfig) -> tuple[int, ...]:
    """Turn positions (b,) in [0, 1) into the frames at which pieces start.

    Raises DataError when a clip is shorter than a piece.
    """
    length = config.segment_frames
    for clip, frames in zip(batch.ids, batch.frame_lengths, strict=True):
        if frames < length:
            raise DataError(
                f"clip `{clip}` has {frames} frames, fewer than the {length} of a training segment",
                hint=f"skip such clips: `data.min_s={length * HOP_LENGTH / 32_000:g}`",
            )
    starts = positions * torch.tensor([frames - length + 1 for frames in batch.frame_lengths])
    return tuple(int(start) for start in starts.tolist())


def vae_losses(parts: VaeParts, batch: SovitsBatch, *, updates: str, noise: Tensor | None = None) -> Iterator[Loss]:
    """Yield the discriminator's loss and then the generator's, which updates `updates`.

    The generator is scored by the discriminator that has just stepped, as GPT-SoVITS s2. Its metrics are the terms
    before `c_mel` and `c_kl`, as an evaluation's. KL is a mean over the frames of the micro-batch, as upstream. `noise`
    is drawn when not given.
    """
    config, discriminator = parts.config, parts.discriminator
    target = make_target(parts, batch)
    made = make(parts, batch, target, noise=noise)
    terms: dict[str, Tensor] = {}
    if discriminator is not None:
        # One call over both: each weight is computed once.
        both = torch.cat([target.wav.to(made.wav.dtype), made.wav.detach()])
        scores = [judgement.score.chunk(2) for judgement in discriminator(both)]
        real_scores, fake_scores = zip(*scores, strict=True)
        yield Loss(
            discriminator_loss(real_scores, fake_scores),
            updates="discriminator",
            metrics={"d_real": mean_score(real_scores), "d_fake": mean_score(fake_scores)},
        )
        del scores, real_scores, fake_scores  # nor is their graph needed any more
        with torch.no_grad():
            fixed = discriminator.fixed()  # no gradients for the discriminator's weights
            real = fixed(target.wav.to(made.wav.dtype))
        fake = fixed(made.wav)
        terms["fm"] = feature_loss(real, fake)
        terms["adv"] = adversarial_loss(scores_of(fake))
    terms["mel"] = mel_distance(target.mel, parts.spectrograms.mel(made.wav[:, 0]))
    terms["kl"] = _mean_kl(made.latents)
    statistics: dict[str, Tensor] = {}
    if made.quantized is not None:
        terms["commit"] = made.quantized.commit
        statistics = met_of(made.quantized)
    weights = {"mel": config.c_mel, "kl": config.c_kl}
    total = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
    metrics = {name: term.detach() for name, term in terms.items()}
    yield Loss(total, updates=updates, name="generator", metrics=metrics, statistics=statistics)


def met_of(quantized: Quantized) -> dict[str, Tensor]:
    """Return the codebook's statistics, by name."""
    return {} if quantized.met is None else {CODES_MET: quantized.met.counts, FEATURES_MET: quantized.met.sums}


def learn_codes(vae: Synthesizer, statistics: Mapping[str, Tensor]) -> None:
    """Update the codebook from a whole step's statistics."""
    vae.quantizer.codebook.learn(Met(statistics[CODES_MET], statistics[FEATURES_MET]))


def make_target(parts: VaeParts, batch: SovitsBatch) -> Target:
    """Compute spectrograms of the batch's recordings and cut out the pieces."""
    if batch.wav is None or not batch.segment_starts:
        raise ValueError("the VAE needs recordings, and a batch that went through `draw`")
    lengths = batch.wav_lengths
    spec = parts.spectrograms.linear(batch.wav, lengths, width=2 * batch.codes.shape[1])
    frames = parts.config.segment_frames
    mel = parts.spectrograms.mel_of_linear(cut(spec, batch.segment_starts, frames))
    return Target(spec=spec, wav=cut_wav(batch.wav, batch.segment_starts, frames), mel=mel)


def make(parts: VaeParts, batch: SovitsBatch, target: Target, *, noise: Tensor | None = None) -> Made:
    """Encode a batch and generate its pieces."""
    given, quantized = conditions(parts, batch)
    latents: Latents = parts.vae(target.spec, given, noise=noise)
    piece = cut(latents.z, batch.segment_starts, parts.config.segment_frames)
    return Made(wav=parts.vae.dec(piece, latents.style), latents=latents, quantized=quantized)


def conditions(parts: VaeParts, batch: SovitsBatch) -> tuple[Conditions, Quantized | None]:
    """Return the VAE's conditioning, and the quantizer's output if it is trained."""
    quantized = None
    if parts.config.freeze_quantizer:
        tokens = parts.vae.quantizer.decode(batch.codes)
    else:
        if batch.ssl is None:
            raise ValueError("a quantizer that is trained needs HuBERT's features in the batch")
        quantized = parts.vae.quantize(batch.ssl)
        tokens = quantized.vectors
    given = Conditions(
        tokens=tokens,
        phones=batch.phones,
        phone_lengths=batch.phone_lengths,
        frame_lengths=batch.frame_lengths,
        speaker=batch.speaker,
    )
    return given, quantized


def _mean_kl(latents: Latents) -> Tensor:
    kl = kl_per_frame(latents.z_p, latents.logs_q, latents.m_p, latents.logs_p, latents.mask)
    return kl.sum() / latents.mask.float().sum()


# ---------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate_vae(parts: VaeParts, batch: SovitsBatch, generator: torch.Generator) -> dict[str, Tensor]:
    """Evaluate held-out clips on fixed noise and fixed pieces; each value is a mean over clips.

    `total` = c_mel * mel + c_kl * kl; adversarial terms are excluded because they are not comparable across steps.
    `tokens_mel` is the mel distance without the posterior, as at inference; `d_real` and `d_fake` are the
    discriminator's mean scores.
    """
    drawn = [_draw_clip(parts, frames, generator) for frames in batch.frame_lengths]  # clip by clip, in any batching
    positions = torch.stack([position for position, _ in drawn])
    batch = replace(batch, segment_starts=starts_at(positions, batch, parts.config))
    target = make_target(parts, batch)
    noise = torch.stack([F.pad(clip, (0, target.spec.shape[2] - clip.shape[1])) for _, clip in drawn])
    noise = noise.to(target.spec.device)
    made = make(parts, batch, target, noise=noise)
    mel = mel_distance(target.mel, parts.spectrograms.mel(made.wav[:, 0]))
    latents = made.latents
    kl = kl_per_frame(latents.z_p, latents.logs_q, latents.m_p, latents.logs_p, latents.mask).sum(1)
    kl = (kl / latents.mask.float().sum(dim=(1, 2))).mean()
    spoken = parts.vae.dec(
        cut(_from_prior(parts, latents, noise), batch.segment_starts, parts.config.segment_frames), latents.style
    )
    values = {
        "total": parts.config.c_mel * mel + parts.config.c_kl * kl,
        "mel": mel,
        "kl": kl,
        "tokens_mel": mel_distance(target.mel, parts.spectrograms.mel(spoken[:, 0])),
    }
    if parts.discriminator is not None:
        fixed = parts.discriminator.fixed()
        values["d_real"] = mean_score(scores_of(fixed(target.wav.to(made.wav.dtype))))
        values["d_fake"] = mean_score(scores_of(fixed(made.wav)))
    return values


def _from_prior(parts: VaeParts, latents: Latents, noise: Tensor) -> Tensor:
    z_p = latents.m_p + EVALUATED_NOISE * noise * latents.logs_p.exp()
    return parts.vae.flow.inverse(z_p, latents.mask, latents.style) * latents.mask


def _draw_clip(parts: VaeParts, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw where a clip's piece lies () and the noise of its latent (c, frames)."""
    position = torch.rand((), generator=generator)
    return position, torch.randn(parts.config.inter_channels, frames, generator=generator)


def vae_remarks(values: Mapping[str, float], *, step: int) -> list[str]:
    """Warn if KL has collapsed or exploded, or the discriminator is too strong or too weak."""
    remarks = []
    kl = values.get("kl")
    if kl is not None and kl < COLLAPSED_KL:
        remarks.append(
            f"KL has collapsed ({kl:.3f} nats per frame): the latent adds nothing to the tokens, so samples will "
            "sound blurred; lower `model.vae.c_kl` or the LR"
        )
    if kl is not None and kl > EXPLODED_KL:
        remarks.append(
            f"KL has exploded ({kl:,.0f} nats per frame): prior and posterior have drifted apart; lower the LR of "
            "the VAE"
        )
    real, fake = values.get("d_real"), values.get("d_fake")
    if step == 0 or real is None or fake is None:
        return remarks
    if real - fake > TOO_STRONG:
        remarks.append(
            f"the discriminator is too strong (scores {fake:.2f} for generated, {real:.2f} for real): the decoder "
            "learns little from it; lower `optim.optimizers.discriminator.lr`"
        )
    elif real - fake < TOO_WEAK:
        remarks.append(
            f"the discriminator is too weak (scores {fake:.2f} for generated, {real:.2f} for real): check that its "
            "base is loaded and its LR is not too low"
        )
    return remarks
