"""The other side of the GPT's benchmark: a step as upstream's trainer computes it. Started by gpt.py.

Written from the facts alone: clips padded to the longest, zeros where there are no features of BERT, a dense float mask
of (clips * heads, rows, rows), the sum of the cross entropy over padding too, the accuracy read every step, ScaledAdam
that stacks all tensors of a shape in every update and reads its clipping factor, an update every fourth batch.
"""

from __future__ import annotations

import math
from typing import Any

import gpt_workload as workload
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from worker import Finished, TimedBatches, begin, device_name, versions

Batch = dict[str, Tensor]


class Position(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        rates = torch.exp(torch.arange(0, width, 2) * -(math.log(10_000.0) / width))
        angles = torch.arange(4000)[:, None] * rates
        self.register_buffer("table", torch.stack([angles.sin(), angles.cos()], -1).flatten(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x + self.alpha * self.table[: x.shape[1]], workload.DROPOUT, self.training)


class Embedding(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(rows, width)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        clips, rows, width = x.shape
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part.view(clips, rows, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        dropout = workload.DROPOUT if self.training else 0.0
        mask = mask.view(clips, self.heads, rows, rows)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(clips, rows, width))
        return out


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, workload.DROPOUT, self.training)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.self_attn(x, mask)))
        normed: Tensor = self.norm2(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))
        return normed


class Padded(nn.Module):
    def __init__(self, size: workload.Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.bert_proj = nn.Linear(workload.BERT_CHANNELS, size.width)
        self.ar_text_embedding = Embedding(workload.NUM_PHONES, size.width)
        self.ar_text_position = Position(size.width)
        self.ar_audio_embedding = Embedding(workload.VOCAB_SIZE, size.width)
        self.ar_audio_position = Position(size.width)
        self.h = nn.Module()
        self.h.layers = nn.ModuleList(Layer(size.width, size.heads) for _ in range(size.layers))
        self.ar_predict_layer = nn.Linear(size.width, workload.VOCAB_SIZE, bias=False)

    def forward(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum of the cross entropy and the accuracy."""
        phones, phone_lengths, codes, code_lengths = (
            batch[name] for name in ("phones", "phone_lengths", "codes", "code_lengths")
        )
        num_text, num_audio = int(phone_lengths.max()), int(code_lengths.max())
        text = self.ar_text_embedding.word_embeddings(phones) + self.bert_proj(batch["bert"].transpose(1, 2))
        text = self.ar_text_position(text)
        device = phones.device
        text_hidden = torch.arange(num_text, device=device) < (num_text - phone_lengths[:, None])
        audio_hidden = torch.arange(num_audio, device=device) >= code_lengths[:, None]
        filled = codes * ~audio_hidden
        targets = F.pad(filled, (0, 1)) + workload.EOS * F.pad(audio_hidden.long(), (0, 1), value=1)
        audio = self.ar_audio_position(self.ar_audio_embedding.word_embeddings(targets[:, :-1]))

        rows = num_text + num_audio
        hidden = torch.zeros(rows, rows, dtype=torch.bool, device=device)
        hidden[:num_text, num_text:] = True
        hidden[num_text:, num_text:] = torch.ones(num_audio, num_audio, dtype=torch.bool, device=device).triu(1)
        padding = torch.cat([text_hidden, audio_hidden], dim=1)[:, None, None]
        padding = padding.expand(-1, self.heads, -1, -1).reshape(-1, 1, rows)
        mask = torch.zeros(len(phones) * self.heads, rows, rows, device=device, dtype=text.dtype)
        mask.masked_fill_(hidden | padding, -torch.inf)

        x = torch.cat([text, audio], dim=1)
        for layer in self.h.layers:  # type: ignore[union-attr]
            x = layer(x, mask)
        logits = self.ar_predict_layer(x[:, num_text - 1 :]).permute(0, 2, 1)
        loss = F.cross_entropy(logits, targets, reduction="sum")
        best = logits.detach().topk(3, dim=1).indices
        counted = targets != workload.EOS
        accuracy = ((best == targets[:, None]).any(dim=1) & counted).sum() / counted.sum()
        return loss, accuracy.item()


class StackingScaledAdam:
    """ScaledAdam that stacks parameters, gradients and state by shape anew in each update, and reads its factor."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            self.stacks.setdefault(tuple(parameter.shape), []).append(parameter)
        self.state: dict[tuple[int, ...], dict[str, Tensor]] = {}
        self.steps = 0
        self.norms = torch.zeros(1000)

    @torch.no_grad()
    def step(self) -> None:
        lr, (beta1, beta2) = workload.LR, workload.BETAS
        stacked = {
            shape: (torch.stack(list(parts)), torch.stack([p.grad for p in parts if p.grad is not None]))
            for shape, parts in self.stacks.items()
        }
        if self.steps:
            squares = torch.zeros((), device=next(iter(stacked.values()))[0].device)
            for shape, (_, gradient) in stacked.items():
                scalar = math.prod(shape) == 1
                squares += (gradient if scalar else gradient * self.state[shape]["rms"]).pow(2).sum()
            norm = squares.sqrt()
            self.norms[self.steps % 1000] = norm
            min(1.0, (1e9 / (norm + 1e-20)).item())  # no clipping in the first thousand updates
        for shape, (weights, gradient) in stacked.items():
            dims = list(range(1, weights.ndim))
            if shape not in self.state:
                rms = weights.pow(2).mean(dim=dims, keepdim=True).sqrt()
                self.state[shape] = {
                    "delta": torch.zeros_like(weights),
                    "square": torch.zeros_like(weights),
                    "rms": rms,
                    "size": torch.zeros_like(rms),
                    "grads": torch.zeros(4, *rms.shape, device=rms.device),
                }
            state, k = self.state[shape], self.steps
            delta, square = state["delta"].mul_(beta1), state["square"]
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            correction = 1 - beta2 ** (k + 1)
            if math.prod(shape) == 1:
                delta.addcdiv_(gradient, (square / correction).sqrt() + 1e-8, value=-0.1 * lr * (1 - beta1))
                weights.clamp_(-10, 10)
            else:
                state["grads"][k % 4] = (weights * gradient).sum(dim=dims, keepdim=True)
                if k % 4 == 3:
                    state["rms"].copy_(weights.pow(2).mean(dim=dims, keepdim=True).sqrt())
                    state["size"].mul_(beta2**4).add_(state["grads"].pow(2).mean(dim=0), alpha=1 - beta2**4)
                    scale = -0.1 * lr * math.sqrt(1 - beta2 ** (4 * ((k + 1) // 4)))
                    change = scale * state["grads"].sum(dim=0) / (state["size"].sqrt() + 1e-8)
                    change.masked_fill_(state["rms"] < 1e-5, 0.0).masked_fill_(state["rms"] > 3.0, -0.4 * lr)
                    delta.add_(weights * change, alpha=1 - beta1)
                average = square * (1 / correction) if correction < 0.99 else square
                denominator = average.sqrt()
                denominator += 1e-8
                delta.add_(gradient / denominator * (-lr * (1 - beta1) * state["rms"].clamp(min=1e-5)))
            weights.add_(delta)
            for parameter, new in zip(self.stacks[shape], weights, strict=True):
                parameter.copy_(new)
        self.steps += 1


def collate(clips: list[workload.Clip], device: torch.device) -> Batch:
    phones = [torch.from_numpy(clip.phones) for clip in clips]
    codes = [torch.from_numpy(clip.codes) for clip in clips]
    batch = {
        "phones": pad_sequence(phones, batch_first=True),
        "phone_lengths": torch.tensor(list(map(len, phones))),
        "codes": pad_sequence(codes, batch_first=True, padding_value=workload.EOS),
        "code_lengths": torch.tensor(list(map(len, codes))),
        "bert": torch.zeros(len(clips), workload.BERT_CHANNELS, max(map(len, phones))),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def main() -> None:
    options, answers = begin(workload.SIZES)
    size = workload.SIZES[options.size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    net = Padded(size).to(device).train()
    optimizer = StackingScaledAdam(list(net.parameters()))
    drawn = workload.make_batches(size)

    def loss(command: dict[str, Any]) -> dict[str, Any]:
        """Save the weights and say the sum over one clip, which holds no padding."""
        torch.save(net.state_dict(), command["weights"])
        net.eval()
        with torch.no_grad():
            value, _ = net(collate(drawn[0][:1], device))
        net.train()
        return {"loss": float(value)}

    batches = TimedBatches(
        [collate(clips, device) for clips in drawn],
        frames=[workload.num_rows(clips) for clips in drawn],
        device=device,
        answers=answers,
        about={
            "device": device_name(device),
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "versions": versions("torch"),
        },
        between=loss,
    )
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16")
    try:
        for number, batch in enumerate(batches, 1):
            with autocast:
                total, _ = net(batch)
            total.backward()
            if number % workload.ACCUMULATE == 0:
                optimizer.step()
                net.zero_grad()
    except Finished:
        pass


if __name__ == "__main__":
    main()
