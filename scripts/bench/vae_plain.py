"""The other side of the VAE's benchmark: a step written after upstream's trainer. Started by vae.py.

What upstream does and ours does not: HuBERT's features are quantized in every step; real and made sound go through the
discriminator in calls of their own, and twice, with gradients for its weights both times; periods are folded into
pictures for two-dimensional convolutions; every scalar of the discriminator's loss and every parameter's gradient norm
is fetched from the device; AdamW is torch's default. The rest of the generator is our own net, with torch's weight norm
and dropout: what our layers gain is measured, what they do not change costs both sides the same.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
import torch.nn.functional as F
import vae_workload as workload
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.nn.utils.rnn import pad_sequence
from vae_ours import padded_ssl, recipe_of
from worker import Finished, TimedBatches, begin, device_name, versions

from ttstrain import registry
from ttstrain.families.gpt_sovits.vae.encoders import TextEncoder, WaveNet
from ttstrain.families.gpt_sovits.vae.layers import NormedConv1d, NormedUpsampling
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.families.gpt_sovits.vae.synthesizer import Conditions, Synthesizer, cut
from ttstrain.modules.dropout import Dropout
from ttstrain.train.device import choose_device

C_MEL = 45.0
LEAK = 0.1

warnings.filterwarnings("ignore", message=".*weight_norm.*")


# ---------------------------------------------------------------- nets


def normed(conv: nn.Module, like: nn.Module) -> nn.Module:
    """Put torch's weight norm on a convolution, with the weights of one of ours."""
    wrapped: nn.Module = weight_norm(conv)
    wrapped.load_state_dict(like.state_dict())
    return wrapped


def plain(module: nn.Module) -> nn.Module:
    """Replace, all the way down, our layers by torch's."""
    for name, child in module.named_children():
        if isinstance(child, NormedConv1d):
            outputs, inputs, kernel = child.weight_v.shape
            conv = nn.Conv1d(inputs, outputs, kernel, padding=child.padding, dilation=child.dilation)
            setattr(module, name, normed(conv, child))
        elif isinstance(child, NormedUpsampling):
            inputs, outputs, kernel = child.weight_v.shape
            up = nn.ConvTranspose1d(inputs, outputs, kernel, child.rate, padding=child.padding)
            setattr(module, name, normed(up, child))
        elif isinstance(child, Dropout):
            setattr(module, name, nn.Dropout(child.p))
        elif isinstance(child, WaveNet):
            setattr(module, name, PlainWaveNet(child))
        else:
            plain(child)
    return module


class PlainWaveNet(nn.Module):
    def __init__(self, ours: WaveNet) -> None:
        super().__init__()
        self.hidden = ours.hidden
        for name, child in plain(ours).named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        conditions = self.cond_layer(style)
        for i, (inner, outer) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            offset = 2 * self.hidden * i
            total = inner(x) + conditions[:, offset : offset + 2 * self.hidden]
            acts = torch.tanh(total[:, : self.hidden]) * torch.sigmoid(total[:, self.hidden :])
            result = outer(acts)
            if i < len(self.in_layers) - 1:
                x = (x + result[:, : self.hidden]) * mask
                output = output + result[:, self.hidden :]
            else:
                output = output + result
        return output * mask


class PlainScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv1d(1, 16, 15, 1, padding=7)),
                weight_norm(nn.Conv1d(16, 64, 41, 4, groups=4, padding=20)),
                weight_norm(nn.Conv1d(64, 256, 41, 4, groups=16, padding=20)),
                weight_norm(nn.Conv1d(256, 1024, 41, 4, groups=64, padding=20)),
                weight_norm(nn.Conv1d(1024, 1024, 41, 4, groups=256, padding=20)),
                weight_norm(nn.Conv1d(1024, 1024, 5, 1, padding=2)),
            ]
        )
        self.conv_post = weight_norm(nn.Conv1d(1024, 1, 3, 1, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAK)
            maps.append(x)
        x = self.conv_post(x)
        return x.flatten(1), [*maps, x]


class PlainPeriod(nn.Module):
    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        channels = [1, 32, 128, 512, 1024, 1024]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (1 if i == 4 else 3, 1), padding=(2, 0)))
            for i, (a, b) in enumerate(itertools.pairwise(channels))
        )
        self.conv_post = weight_norm(nn.Conv2d(1024, 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -x.shape[2] % self.period
        if missing:
            x = F.pad(x, (0, missing), "reflect")
        x = x.view(x.shape[0], 1, -1, self.period)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAK)
            maps.append(x)
        x = self.conv_post(x)
        return x.flatten(1), [*maps, x]


class PlainDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([PlainScale(), *(PlainPeriod(p) for p in (2, 3, 5, 7, 11))])

    def forward(self, real: Tensor, fake: Tensor) -> tuple[list[Any], list[Any]]:
        pairs = [(part(real), part(fake)) for part in self.discriminators]
        return [r for r, _ in pairs], [f for _, f in pairs]


class PlainTextEncoder(nn.Module):
    """Ours, but each token's projection is computed for both of its frames."""

    def __init__(self, ours: TextEncoder) -> None:
        super().__init__()
        for name, child in ours.named_children():
            self.add_module(name, child)

    def forward(
        self, tokens: Tensor, mask: Tensor, phones: Tensor, phone_mask: Tensor, style: Tensor, *, speed: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.ssl_proj(F.interpolate(tokens, scale_factor=2, mode="nearest") * mask) * mask
        x = self.encoder_ssl(x, mask)
        text = self.encoder_text(self.text_embedding(phones).mT, phone_mask)
        x = self.encoder2(self.mrte(x, mask, text, phone_mask, style) * mask, mask)
        mean, log_std = (self.proj(x) * mask).chunk(2, dim=1)
        return mean, log_std, mask


# ---------------------------------------------------------------- a step


class Sample:
    """A batch as upstream's loader hands it out: spectrograms are computed there, for each clip by itself."""

    def __init__(self, clips: list[workload.Clip], device: torch.device) -> None:
        self.clips = clips
        self.wavs = [torch.from_numpy(clip.wav).to(device) for clip in clips]
        self.wav = pad_sequence(self.wavs, batch_first=True)[:, None]
        self.ssl = padded_ssl(clips).to(device)
        self.lengths = [clip.num_frames for clip in clips]
        self.width = workload.width(clips)
        self.phones = pad_sequence([torch.from_numpy(clip.phones) for clip in clips], batch_first=True).to(device)
        self.phone_lengths = [len(clip.phones) for clip in clips]

    def spec(self, spectrograms: Spectrograms) -> Tensor:
        found = [spectrograms.linear(w[None], [len(w)], width=len(w) // workload.HOP_LENGTH)[0] for w in self.wavs]
        return torch.stack([F.pad(spec, (0, self.width - spec.shape[1])) for spec in found])


class Trainer:
    def __init__(self, vae: Synthesizer, discriminator: PlainDiscriminator, size: workload.Size) -> None:
        self.vae, self.discriminator, self.size = vae, discriminator, size
        self.segment = size.segment_size // workload.HOP_LENGTH
        self.spectrograms = Spectrograms().to(next(vae.parameters()).device)
        enc_p = vae.enc_p
        text = [enc_p.text_embedding, enc_p.encoder_text, enc_p.mrte]
        apart = {id(p) for part in text for p in part.parameters()}
        groups: list[dict[str, Any]] = [{"params": [p for p in vae.parameters() if id(p) not in apart]}]
        groups += [{"params": list(p.parameters()), "lr": workload.LR * workload.TEXT_LR_SCALE} for p in text]
        options: dict[str, Any] = {"lr": workload.LR, "betas": workload.BETAS, "eps": workload.EPS}
        self.optim_g = torch.optim.AdamW(groups, **options)
        self.optim_d = torch.optim.AdamW(discriminator.parameters(), **options)

    def generate(self, sample: Sample, spec: Tensor, starts: list[int], noise: Tensor | None) -> tuple[Tensor, Any]:
        with torch.no_grad():  # frozen
            features = self.vae.ssl_proj(sample.ssl)
            codes = self.vae.quantizer.encode(features)
        given = Conditions(self.vae.quantizer.decode(codes), sample.phones, sample.phone_lengths, sample.lengths, None)
        latents = self.vae(spec, given, noise=noise)
        return self.vae.dec(cut(latents.z, starts, self.segment), latents.style), latents

    def losses(self, sample: Sample, starts: list[int], noise: Tensor | None = None) -> Any:
        """Yield the discriminator's loss, and the generator's after the discriminator has stepped."""
        spec = sample.spec(self.spectrograms)
        made, latents = self.generate(sample, spec, starts, noise)
        mel = cut(self.spectrograms.mel_of_linear(spec), starts, self.segment)
        made_mel = self.spectrograms.mel(made[:, 0])
        starts_wav = [start * workload.HOP_LENGTH for start in starts]
        real = cut(sample.wav, starts_wav, self.size.segment_size)

        real_out, fake_out = self.discriminator(real, made.detach())
        total: Any = 0
        logged = []
        for (r, _), (f, _) in zip(real_out, fake_out, strict=True):
            r_loss, f_loss = torch.mean((1 - r.float()) ** 2), torch.mean(f.float() ** 2)
            total = total + r_loss + f_loss
            logged += [r_loss.detach().item(), f_loss.detach().item()]
        yield total

        real_out, fake_out = self.discriminator(real, made)
        features: Any = 0
        for (_, real_maps), (_, fake_maps) in zip(real_out, fake_out, strict=True):
            for r, f in zip(real_maps, fake_maps, strict=True):
                features = features + torch.mean(torch.abs(r.float().detach() - f.float()))
        adversarial: Any = 0
        for f, _ in fake_out:
            adversarial = adversarial + torch.mean((1 - f.float()) ** 2)
        kl = latents.logs_p - latents.logs_q - 0.5
        kl = kl + 0.5 * (latents.z_p - latents.m_p) ** 2 * torch.exp(-2.0 * latents.logs_p)
        kl = torch.sum(kl * latents.mask) / torch.sum(latents.mask)
        yield adversarial + 2 * features + C_MEL * F.l1_loss(mel, made_mel) + kl

    def step(self, sample: Sample) -> None:
        lengths = torch.tensor(sample.lengths) - self.segment + 1
        losses = self.losses(sample, (torch.rand(len(sample.lengths)) * lengths).long().tolist())
        for optimizer, net in ((self.optim_d, self.discriminator), (self.optim_g, self.vae)):
            loss = next(losses)
            optimizer.zero_grad()
            loss.backward()
            measured = 0.0  # `clip_grad_value_(None)`, which clips nothing
            for parameter in net.parameters():
                if parameter.grad is not None:
                    measured += parameter.grad.detach().norm(2).item() ** 2
            optimizer.step()


def main() -> None:
    options, answers = begin(workload.SIZES, precisions=["fp32"])

    size = workload.SIZES[options.size]
    recipe = recipe_of(size, options.precision)
    device = choose_device("auto", tf32=True)
    spec = registry.find_task(recipe.task)
    ours: Any = spec.build(spec.read_model(recipe.model))
    discriminator = PlainDiscriminator()
    discriminator.load_state_dict(ours.discriminator.state_dict())
    vae: Any = plain(ours.vae)
    vae.enc_p = PlainTextEncoder(vae.enc_p)
    vae.to(device).train()
    trainer = Trainer(vae, discriminator.to(device).train(), size)
    samples = [Sample(clips, device) for clips in workload.make_batches(size)]

    def losses(command: dict[str, Any]) -> dict[str, Any]:
        """Save the weights and say both losses of a batch, its draws pinned and without dropout."""
        nets = {"vae": vae, "discriminator": discriminator}
        state = {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
        torch.save(state, command["weights"])
        for net in nets.values():
            net.eval()
        noise = torch.zeros(size.clips, size.inter_channels, samples[0].width, device=device)
        with torch.no_grad():
            values = [float(loss) for loss in trainer.losses(samples[0], [0] * size.clips, noise)]
        for net in nets.values():
            net.train()
        return {"losses": values}

    batches = TimedBatches(
        samples,
        frames=[sum(sample.lengths) for sample in samples],
        device=device,
        answers=answers,
        about={
            "device": device_name(device),
            "parameters": sum(p.numel() for net in (vae, discriminator) for p in net.parameters()),
            "versions": versions("torch"),
        },
        between=losses,
    )
    try:
        for sample in batches:
            trainer.step(sample)
    except Finished:
        pass


if __name__ == "__main__":
    main()
