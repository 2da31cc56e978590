"""Train, judge and hear both nets.

Legend: b clips, c speech tokens, f mel frames, m mel bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.contract.task import Audio, Loss, Mean, Prompt, Sample, Task
from ttstrain.errors import DataError
from ttstrain.families.cosy.config import FRAMES_PER_TOKEN, HOP_LENGTH, SAMPLE_RATE, CosyConfig
from ttstrain.families.cosy.data import LOUDEST, QUIETEST, CosyBatch
from ttstrain.families.cosy.net import Flow, Llm, within
from ttstrain.modules.griffin_lim import griffin_lim

EVALUATED_TIMES = (0.25, 0.5, 0.75)
SOLVER_STEPS = 8
LONGEST_S = 10.0  # of a sample whose end the language model does not write


class _Written(NamedTuple):
    loss: Tensor  # ()
    accuracy: Mean  # over tokens


class CosyTask(Task):
    """Learn to write speech tokens and, in an optimizer of its own, to make their mel."""

    def __init__(self, config: CosyConfig) -> None:
        super().__init__()
        self.config = config
        self.llm = Llm(config)
        self.flow = Flow(config)

    def optimized(self) -> Mapping[str, nn.Module]:
        """Give each net an optimizer of its own."""
        return {"llm": self.llm, "flow": self.flow}

    # ---------------------------------------------------------------- training

    def losses(self, batch: CosyBatch) -> Iterator[Loss]:
        """Yield the language model's loss and then the flow's, both means over clips of each clip's mean."""
        written = self._written(batch)
        yield Loss(written.loss, updates="llm", metrics={"accuracy": written.accuracy})
        time = torch.rand(len(batch.ids), device=batch.mel.device)
        yield Loss(self._missed(batch, noise=torch.randn_like(batch.mel), time=time), updates="flow")

    def _written(self, batch: CosyBatch) -> _Written:
        """Judge what the language model expects at each speech token (b, c) and at the end after the last."""
        logits = self.llm(batch.text, batch.text_lengths, batch.codes, batch.code_lengths)
        lengths = batch.code_lengths
        targets = F.pad(batch.codes, (0, 1))  # (b, c + 1)
        targets = targets.scatter(1, lengths[:, None], self.config.num_codes)
        learned = within(lengths + 1, targets.shape[1])
        nll = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        right = (logits.argmax(2) == targets) & learned
        return _Written(
            loss=((nll * learned).sum(1) / (lengths + 1)).mean(),
            accuracy=Mean(right.sum().float(), learned.sum().float()),
        )

    def _missed(self, batch: CosyBatch, *, noise: Tensor, time: Tensor) -> Tensor:
        """Return the mean squared error () of the flow's velocity on the way from noise (b, f, m) to the mel."""
        mel = normalized(batch.mel)
        velocity = mel - noise
        answer = self.flow(noise + time[:, None, None] * velocity, batch.codes, time, batch.mel_lengths)
        error = (answer.float() - velocity).square().mean(2) * within(batch.mel_lengths, mel.shape[1])  # (b, f)
        per_clip: Tensor = error.sum(1) / batch.mel_lengths
        return per_clip.mean()

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: CosyBatch, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Judge both nets, the flow at fixed times from noise that is drawn clip by clip; `total` is their sum."""
        clips = [torch.randn(length, self.config.n_mels, generator=generator) for length in batch.host_lengths]
        noise = nn.utils.rnn.pad_sequence(clips, batch_first=True).to(batch.mel.device)
        written = self._written(batch)
        times = [torch.full((len(batch.ids),), time, device=noise.device) for time in EVALUATED_TIMES]
        flow = torch.stack([self._missed(batch, noise=noise, time=time) for time in times]).mean()
        return {"total": written.loss + flow, "llm": written.loss, "flow": flow, "accuracy": written.accuracy}

    # ---------------------------------------------------------------- listening

    @torch.no_grad()
    def sample(self, prompt: Prompt) -> Sample:
        """Speak a text in the one voice that was learned."""
        if not prompt.text.strip():
            raise DataError("the text is empty")
        generator = torch.Generator().manual_seed(prompt.seed or 0)
        codes = self._write(prompt.text, prompt.duration_s, generator)  # (1, c)
        mel = denormalized(self._solve(codes, generator))
        wav = griffin_lim(mel, kind="vocos", hop_length=HOP_LENGTH, iterations=8)
        return Sample(audio=Audio(wav.clamp(-1, 1), SAMPLE_RATE), mel=mel, vocoder="Griffin-Lim")

    def _write(self, text: str, duration_s: float | None, generator: torch.Generator) -> Tensor:
        """Write speech tokens (1, c) until they last as long as they should or the net ends them."""
        device = self.llm.head.weight.device
        letters = torch.tensor([list(text.encode())], device=device)
        codes = torch.zeros(1, 0, dtype=torch.long, device=device)
        tokens_per_s = SAMPLE_RATE / HOP_LENGTH / FRAMES_PER_TOKEN
        wanted = max(1, round((LONGEST_S if duration_s is None else duration_s) * tokens_per_s))
        end = self.config.num_codes
        while codes.shape[1] < wanted:
            lengths = [torch.tensor([part.shape[1]], device=device) for part in (letters, codes)]
            logits = self.llm(letters, lengths[0], codes, lengths[1])[0, -1].float().cpu()
            if duration_s is not None or not codes.shape[1]:
                logits[end] = -torch.inf
            code = torch.multinomial(logits.softmax(0), 1, generator=generator)
            if int(code) == end:
                break
            codes = torch.cat([codes, code[None].to(device)], dim=1)
        return codes

    def _solve(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Make the mel (f, m), normalized, of speech tokens (1, c) in Euler steps."""
        num_frames = codes.shape[1] * FRAMES_PER_TOKEN
        x = torch.randn(1, num_frames, self.config.n_mels, generator=generator).to(codes.device)
        lengths = torch.tensor([num_frames], device=codes.device)
        for step in range(SOLVER_STEPS):
            time = torch.full((1,), step / SOLVER_STEPS, device=codes.device)
            x = x + self.flow(x, codes, time, lengths).float() / SOLVER_STEPS
        return x[0].cpu()


def normalized(mel: Tensor) -> Tensor:
    """Move a log-mel of speech into [-1, 1], as wide as the noise; silence lies below."""
    return (mel - QUIETEST) / (LOUDEST - QUIETEST) * 2 - 1


def denormalized(mel: Tensor) -> Tensor:
    return (mel.clamp(-1, 1) + 1) / 2 * (LOUDEST - QUIETEST) + QUIETEST
