"""What `ttstrain prove` compares of a VAE.

Legend: b clips, c latent channels, n frames, t samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import HOP_LENGTH
from ttstrain.families.gpt_sovits.vae.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    kl_per_frame,
    mel_distance,
    scores_of,
)
from ttstrain.families.gpt_sovits.vae.quantizer import NUM_CODES
from ttstrain.families.gpt_sovits.vae.synthesizer import Latents
from ttstrain.families.gpt_sovits.vae.training import Made, VaeParts, conditions, make, make_target

SHIFTS = range(-2, 3)
NOISE_SCALE = 0.5  # of the prior, as in upstream's inference
FOLLOWS = 0.7  # correlation in time above which a sound follows its clip


class VaeProof:
    """Compares `make`, the forward that is trained, with `Synthesizer.decode`, the one that speaks."""

    def __init__(self, parts: VaeParts) -> None:
        self._parts = parts

    # ---------------------------------------------------------------- losses

    def terms(self, batch: SovitsBatch) -> Mapping[str, Mapping[str, Tensor]]:
        """Compute the discriminator's loss and each term of the generator's, weighted as the recipe says."""
        parts, config = self._parts, self._parts.config
        assert batch.wav is not None
        pieces = [slice(start, start + config.segment_frames) for start in batch.segment_starts]
        spec = parts.spectrograms.linear(batch.wav, batch.wav_lengths, width=2 * batch.codes.shape[1])
        mels = torch.stack(
            [row[:, piece] for row, piece in zip(parts.spectrograms.mel_of_linear(spec), pieces, strict=True)]
        )
        given, quantized = conditions(parts, batch)
        latents: Latents = parts.vae(spec, given)
        latent = torch.stack([row[:, piece] for row, piece in zip(latents.z, pieces, strict=True)])
        made = parts.vae.dec(latent, latents.style)  # (b, 1, t)
        recorded = torch.stack(
            [
                row[None, piece.start * HOP_LENGTH : piece.stop * HOP_LENGTH]
                for row, piece in zip(batch.wav, pieces, strict=True)
            ]
        ).to(made.dtype)
        found: dict[str, Mapping[str, Tensor]] = {}
        terms: dict[str, Tensor] = {}
        if parts.discriminator is not None:
            real, fake = (parts.discriminator(wav) for wav in (recorded, made.detach()))
            found["discriminator"] = {"discriminator": discriminator_loss(scores_of(real), scores_of(fake))}
            with torch.no_grad():
                fixed = parts.discriminator.fixed()  # the generator's loss does not train the discriminator
            judged = fixed(made)
            terms["fm"] = feature_loss(real, judged)
            terms["adv"] = adversarial_loss(scores_of(judged))
        terms["mel"] = config.c_mel * mel_distance(mels, parts.spectrograms.mel(made[:, 0]))
        kl = kl_per_frame(latents.z_p, latents.logs_q, latents.m_p, latents.logs_p, latents.mask)
        terms["kl"] = config.c_kl * kl.sum() / latents.mask.float().sum()
        if quantized is not None:
            terms["commit"] = quantized.commit
        found["generator"] = terms
        return found

    def idle(self, batch: SovitsBatch) -> Mapping[str, str]:
        """Return nothing: every parameter takes part in every batch."""
        return {}

    # ---------------------------------------------------------------- limits

    def changes(self, batch: SovitsBatch) -> Iterator[Change | Omitted]:
        """Change one clip's recording, tokens and phonemes, and the padding after another."""
        made = self._make(batch)
        if len(batch.ids) < 2:
            yield Omitted("another clip of the batch", "there is only one")
            return
        assert batch.wav is not None
        last = torch.arange(len(batch.ids), device=batch.wav.device) == len(batch.ids) - 1
        wav = torch.where(last[:, None], -0.5 * batch.wav.flip(1), batch.wav)
        after = self._make(replace(batch, wav=wav)).wav
        yield Change("the recording of one clip", "the sound of another", made.wav, after, ~last, last)
        if self._parts.config.freeze_quantizer:
            codes = torch.where(last[:, None], (batch.codes + 1) % NUM_CODES, batch.codes)
            after = self._make(replace(batch, codes=codes)).latents.m_p
            yield Change("the tokens of one clip", "the prior of another", made.latents.m_p, after, ~last, last)
        rows = len(self._parts.vae.enc_p.text_embedding.weight)
        phones = torch.where(last[:, None], (batch.phones + 1) % rows, batch.phones)
        after = self._make(replace(batch, phones=phones)).latents.m_p
        yield Change("the phonemes of one clip", "the prior of another", made.latents.m_p, after, ~last, last)
        yield from self._padding(batch, made)

    def _padding(self, batch: SovitsBatch, made: Made) -> Iterator[Change | Omitted]:
        assert batch.wav is not None
        ends = torch.tensor(batch.wav_lengths, device=batch.wav.device)
        after_end = torch.arange(batch.wav.shape[1], device=batch.wav.device) >= ends[:, None]
        phone_ends = torch.tensor(batch.phone_lengths, device=batch.phones.device)
        unread = torch.arange(batch.phones.shape[1], device=batch.phones.device) >= phone_ends[:, None]
        if not bool(after_end.any()):
            yield Omitted("padding", "the clips are of one length")
            return
        changed = replace(batch, wav=batch.wav + 0.3 * after_end, phones=batch.phones + unread)
        made_again = self._make(changed)
        every = torch.ones(len(batch.ids), dtype=torch.bool, device=batch.wav.device)
        yield Change("padding", "the sounds of all clips", made.wav, made_again.wav, every)
        one, other = made.latents.m_p, made_again.latents.m_p
        yield Change("padding", "the priors of all clips", one, other, every)

    def _make(self, batch: SovitsBatch) -> Made:
        """Run the forward that is trained with fixed noise."""
        target = make_target(self._parts, batch)
        return make(self._parts, batch, target, noise=self._noise(batch))

    def _noise(self, batch: SovitsBatch) -> Tensor:
        """Return noise (b, c, n) for the batch's frames."""
        generator = torch.Generator().manual_seed(0)
        shape = (len(batch.ids), self._parts.config.inter_channels, 2 * batch.codes.shape[1])
        return torch.randn(shape, generator=generator).to(batch.codes.device)

    # ---------------------------------------------------------------- speaking

    def twins(self, batch: SovitsBatch) -> Iterator[Twin | Omitted]:
        """Compare the sound of the trained prior with that of inference, and the flow with its inverse."""
        parts = self._parts
        batch = _even(batch)
        target = make_target(parts, batch)
        given, _ = conditions(parts, batch)
        noise = self._noise(batch)
        latents: Latents = parts.vae(target.spec, given, noise=noise)
        back = parts.vae.flow.inverse(latents.z_p, latents.mask, latents.style) * latents.mask
        yield Twin("the latent, through the flow and back", latents.z, back)
        if not parts.config.freeze_quantizer:
            yield Omitted("the sound of tokens", "the quantizer is trained: its tokens change")
            return
        z_p = latents.m_p + NOISE_SCALE * noise * latents.logs_p.exp()
        z = parts.vae.flow.inverse(z_p, latents.mask, latents.style)
        trained = parts.vae.dec(z * latents.mask, latents.style)
        spoken = parts.vae.decode(
            batch.codes, batch.phones, target.spec, speaker=batch.speaker, noise_scale=NOISE_SCALE, noise=noise
        )
        yield Twin("the sound of the clip's tokens", trained, spoken)

    def alignments(self, batch: SovitsBatch) -> Iterator[Alignment | Omitted]:
        """Compare the sound that is made of a latent with the recording, moved by frames, once it follows the clip.

        A decoder of few steps is not centred: until then `terms` alone tells whether sound and target are cut alike.
        """
        parts, what = self._parts, "the sound of a latent against the recording"
        batch = _even(batch)
        assert batch.wav is not None
        num_frames = batch.frame_lengths[0]
        edge = max(map(abs, SHIFTS))
        if num_frames < 4 * edge:
            yield Omitted(what, "the clip is too short")
            return
        target = make_target(parts, batch)
        given, _ = conditions(parts, batch)
        latents: Latents = parts.vae(target.spec, given, noise=self._noise(batch))
        made = parts.spectrograms.mel(parts.vae.dec(latents.z, latents.style)[:, 0])[0]  # (m, n)
        recorded = parts.spectrograms.mel(batch.wav)[0]
        judged = made[:, edge : num_frames - edge]
        losses = {
            shift: 1 - _correlation(judged, recorded[:, edge + shift : num_frames - edge + shift]) for shift in SHIFTS
        }
        if (best := 1 - min(losses.values())) < FOLLOWS:
            yield Omitted(what, f"the decoder does not follow the clip yet (correlation {best:.2f})")
            return
        yield Alignment(what, "frames", losses)


def _correlation(one: Tensor, other: Tensor) -> float:
    """Return how alike two log-mels (m, n) rise and fall in time, in [-1, 1], whatever their levels."""
    one, other = (mel - mel.mean(dim=1, keepdim=True) for mel in (one, other))
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12))


def _even(batch: SovitsBatch) -> SovitsBatch:
    """Return a batch of one clip without the last frame of an odd number, for which inference has no half token."""
    assert batch.wav is not None
    num_frames = batch.frame_lengths[0] // 2 * 2
    samples = num_frames * HOP_LENGTH
    return replace(
        batch,
        codes=batch.codes[:, : num_frames // 2],
        code_lengths=(num_frames // 2,),
        wav=batch.wav[:, :samples],
        wav_lengths=(samples,),
        frame_lengths=(num_frames,),
        ssl=None if batch.ssl is None else batch.ssl[:, :, :num_frames],
        segment_starts=(0,),
        num_frames=num_frames,
    )
