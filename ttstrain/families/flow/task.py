"""Train, judge and hear a flow-matching net.

Legend: b clips, n frames, m mel bins, s text positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torchaudio
from torch import Tensor

from ttstrain.families.flow.config import SAMPLE_RATE, FlowConfig
from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.model import build_net
from ttstrain.families.flow.model.cfm import draw, frames_between, predict, squared_error
from ttstrain.families.flow.model.sampler import durations, generate, noise, time_grid
from ttstrain.families.flow.surgery import TABLE, fit_vocab
from ttstrain.families.flow.score import text_gain
from ttstrain.families.flow.speech import (
    NO_VOICE,
    Voice,
    chunks,
    cross_fade,
    join_mels,
    max_bytes,
    num_frames,
    prepare,
    share_duration,
)
from ttstrain.families.flow.text import encode
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.modules.griffin_lim import griffin_lim
from ttstrain.modules.mel import FLOOR, MelSpectrogram
from ttstrain.task import Audio, Fitted, Loss, Prompt, Sample, Task

if TYPE_CHECKING:
    from ttstrain.checkpoint.upstream import OpenedCheckpoint

EVALUATED_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # the middles of five bins, `t0` to `t4`
EVALUATED_PROMPT = 0.3  # share of a held-out clip that is shown; the rest is judged
PROMPT_RMS = 0.1  # upstream's inference raises quieter prompts to this level
PROMPT_SILENCE_S = 0.05  # and puts this much after them


class FlowTask(Task):
    """Learn to fill in the hidden span of a mel from its text and what is left of it."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
        # The name is the first part of every key of upstream's state dict.
        self.transformer = build_net(config, num_tokens=len(self.vocab.tokens))

    # ---------------------------------------------------------------- starting from a base

    def fitted(self, base: OpenedCheckpoint) -> Fitted:
        """Carry the base's text rows over by token, whatever vocab it had."""
        return fit_vocab(base, self.vocab, named=self.config.base_vocab)

    def rows_first(self) -> Mapping[str, int]:
        """Let the rows of new tokens train alone for as long as the recipe says."""
        return {TABLE: self.config.first_new_rows} if self.config.first_new_rows else {}

    # ---------------------------------------------------------------- training

    def draw(self, batch: FlowBatch) -> FlowBatch:
        """Choose spans and drops; the weight becomes the number of hidden frames."""
        draws = draw(batch.mel_lengths, self.config.cfm)
        return replace(batch, draws=draws, weight=float((draws.span_end - draws.span_start).sum()))

    def losses(self, batch: FlowBatch) -> Iterator[Loss]:
        """Yield the mean squared error of the velocity over hidden frames and mel bins."""
        draws = batch.draws
        if draws is None:
            raise ValueError("`losses` needs a batch that went through `draw`")
        num_clips, num_frames = batch.mel.shape[:2]
        noise = torch.randn_like(batch.mel) if draws.noise is None else draws.noise
        time = torch.rand(num_clips, device=batch.mel.device) if draws.time is None else draws.time
        span = frames_between(draws.span_start, draws.span_end, num_frames=num_frames)  # (b, n)
        text = self.transformer.text_embed(
            batch.text, num_frames=num_frames, lengths=batch.lengths, drop=draws.drop_text
        )
        prediction = predict(
            self.transformer,
            batch.mel,
            text,
            noise=noise,
            time=time,
            hidden=span | draws.drop_audio[:, None],
            mask=frames_between(0, batch.lengths, num_frames=num_frames),
        )
        yield Loss(squared_error(prediction, within=span).sum() / max(batch.weight, 1.0))

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: FlowBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Judge the last part of each clip, given its start and its text, at five fixed times.

        Each clip has its own noise, drawn in the order of the batch. A clip's loss is the mean over its judged
        frames; the batch's is their mean weighted by the clips' frames, so that it does not depend on the batching.
        """
        num_frames, n_mels = batch.mel.shape[1:]
        device = batch.mel.device
        clips = [torch.randn(int(length), n_mels, generator=generator) for length in batch.mel_lengths]
        noise = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(device)
        start = (EVALUATED_PROMPT * batch.lengths).long()
        judged = frames_between(start, batch.lengths, num_frames=num_frames)
        share = batch.lengths / batch.weight / (batch.lengths - start)
        text = self.transformer.text_embed(batch.text, num_frames=num_frames, lengths=batch.lengths)
        values: dict[str, Tensor] = {}
        for number, time in enumerate(EVALUATED_TIMES):
            prediction = predict(
                self.transformer,
                batch.mel,
                text,
                noise=noise,
                time=torch.full((len(batch.ids),), time, device=device),
                hidden=judged,
                mask=frames_between(0, batch.lengths, num_frames=num_frames),
            )
            values[f"t{number}"] = (squared_error(prediction, within=judged) * share).sum()
        return {"total": torch.stack(list(values.values())).mean(), **values}

    # ---------------------------------------------------------------- listening
    def score(self, batch: FlowBatch, generator: torch.Generator) -> Tensor:
        """Return the share (b,) of each clip's loss without text that its text takes away."""
        return text_gain(self.transformer, batch, generator=generator)


    @torch.no_grad()
    def sample(self, prompt: Prompt) -> Sample:
        """Speak with the reference's voice, or with none in particular, through Griffin-Lim."""
        settings = self.config.sampling
        device = self.transformer.proj_out.weight.device
        shown, level = self._prompt_mel(prompt.reference)
        shown = shown.to(device)
        num_shown = max(0, shown.shape[1] - 1) if self.config.mel == "vocos" else shown.shape[1]
        spoken = _reference_text(prompt.reference_text) if prompt.reference is not None else ""
        tokens = encode(spoken + prompt.text, self.vocab, kind=self.config.tokenizer)
        text = torch.tensor([tokens])
        num_new = self._new_frames(prompt, spoken=spoken, num_shown=num_shown)
        prompt_lengths = torch.tensor([shown.shape[1]])
        lengths = durations(torch.tensor([num_shown + num_new]), text=text, prompt_lengths=prompt_lengths)
        mels = generate(
            self.transformer,
            shown,
            text,
            lengths=lengths,
            prompt_lengths=prompt_lengths,
            noise=noise(lengths.tolist(), n_mels=self.config.n_mels, seed=prompt.seed),
            times=time_grid(settings.steps, sway=settings.sway, epss=settings.epss, device=device),
            cfg_strength=settings.cfg_strength,
            method=settings.method,
        )
        mel = (mels[0, num_shown:].float().cpu() + math.log(level)).clamp(min=math.log(FLOOR))
        wav = griffin_lim(mel, kind=self.config.mel)
        return Sample(audio=Audio(wav=wav.clamp(-1, 1), sample_rate=SAMPLE_RATE), mel=mel)

    def _prompt_mel(self, reference: Audio | None) -> tuple[Tensor, float]:
        """Return the reference's mel (1, p, m) and the factor that takes a result back to its level."""
        if reference is None:
            return torch.zeros(1, 0, self.config.n_mels), 1.0
        wav = torchaudio.functional.resample(reference.wav.float(), reference.sample_rate, SAMPLE_RATE)
        rms = float(wav.square().mean().sqrt())
        level = min(1.0, rms / PROMPT_RMS) if rms > 0 else 1.0
        wav = torch.cat([wav / level, wav.new_zeros(int(PROMPT_SILENCE_S * SAMPLE_RATE))])
        mel = MelSpectrogram(self.config.mel, n_mels=self.config.n_mels)(wav[None])
        return mel.transpose(1, 2), level

    def _new_frames(self, prompt: Prompt, *, spoken: str, num_shown: int) -> int:
        """Guess how many frames the new text takes: as told, else by its UTF-8 bytes at the reference's pace."""
        settings = self.config.sampling
        num_bytes = len(prompt.text.encode())
        if prompt.duration_s is not None:
            return round(prompt.duration_s * self.config.frames_per_s)
        if not num_shown:
            return round(num_bytes * settings.seconds_per_byte / settings.speed * self.config.frames_per_s)
        # Upstream's inference slows very short texts down, which would else be cut.
        speed = 0.3 if num_bytes < 10 else settings.speed
        return int(num_shown / len(spoken.encode()) * num_bytes / speed)


def _reference_text(text: str) -> str:
    """End the reference's text as upstream's inference does, so that it does not run into what follows."""
    if text.endswith((". ", "。")):
        return text
    return text + (" " if text.endswith(".") else ". ")
