"""What `ttstrain prove` compares of a flow-matching net.

Legend: b clips, n frames, m mel bins, p prompt frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.contract.task import DEFAULT_OPTIMIZER, Task
from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.model.cfm import FlowDraws, frames_between, noised
from ttstrain.families.flow.model.sampler import trajectory
from ttstrain.families.flow.task import FlowTask

SHIFTS = range(-2, 3)
TIMES = (0.5, 0.7, 0.9)  # where the solver is late enough for single frames to show
DRAWS = 4  # of noise, for each of them
PROMPT = 0.3  # share of a clip that is shown


class FlowProof:
    """Compares the forward of `FlowTask.losses`, which is trained, with `trajectory`, the one that speaks."""

    def __init__(self, task: Task) -> None:
        assert isinstance(task, FlowTask)
        self._task = task

    # ---------------------------------------------------------------- losses

    def terms(self, batch: FlowBatch) -> Mapping[str, Mapping[str, Tensor]]:
        """Compute the velocity's error over hidden frames: the one term of the loss."""
        draws, net = _draws(batch), self._task.transformer
        noise = torch.randn_like(batch.mel)
        time = torch.rand(len(batch.ids), device=batch.mel.device)
        hidden = torch.zeros(batch.mel.shape[:2], dtype=torch.bool, device=batch.mel.device)
        for row, start, end in zip(hidden, draws.span_start, draws.span_end, strict=True):
            row[int(start) : int(end)] = True
        shown = ~hidden & ~draws.drop_audio[:, None]
        at = time[:, None, None]
        text = net.text_embed(batch.text, num_frames=batch.mel.shape[1], lengths=batch.lengths, drop=draws.drop_text)
        mask = frames_between(0, batch.lengths, num_frames=batch.mel.shape[1])
        x = (1 - at) * noise + at * batch.mel
        answer: Tensor = net(x, batch.mel * shown[:, :, None], text, time, mask=mask)
        error = (answer.float() - (batch.mel - noise))[hidden].square().mean(1).sum()
        return {DEFAULT_OPTIMIZER: {"velocity": error / max(int(hidden.sum()), 1)}}

    def idle(self, batch: FlowBatch) -> Mapping[str, str]:
        """Return nothing: every parameter takes part in every batch."""
        return {}

    # ---------------------------------------------------------------- limits

    def changes(self, batch: FlowBatch) -> Iterator[Change | Omitted]:
        """Change the hidden frames, the shown ones, another clip and padding.

        At time 0 the net's input is noise alone, so the hidden mel may not show in the answer at all.
        """
        lengths, num_frames = batch.lengths, batch.mel.shape[1]
        hidden = frames_between(lengths // 3, 2 * lengths // 3, num_frames=num_frames)
        real = frames_between(0, lengths, num_frames=num_frames)
        fixed = _fixed(batch, start=lengths // 3, end=2 * lengths // 3, time=0.0)
        before = self._answers(fixed)
        still = real.flatten()
        after = self._answers(_other_mel(fixed, where=hidden))
        yield Change("hidden frames of the mel", "answers at all frames", before, after, still)
        after = self._answers(_other_mel(fixed, where=real & ~hidden))
        nowhere = torch.zeros_like(still)
        yield Change("shown frames of the mel", "", before, after, nowhere, moving=still)
        yield from self._between_clips(fixed, before, real)
        if self._task.config.backbone == "dit" and self._task.config.attn_mask_enabled:
            after = self._answers(_other_mel(fixed, where=~real))
            if bool((~real).any()):
                yield Change("padding", "answers at real frames", before, after, still)
        else:
            yield Omitted("padding", "published nets read it (`model.attn_mask_enabled: false`)")

    def _between_clips(self, fixed: FlowBatch, before: Tensor, real: Tensor) -> Iterator[Change | Omitted]:
        if len(fixed.ids) < 2:
            yield Omitted("another clip of the batch", "there is only one")
            return
        last = torch.zeros_like(real)
        last[-1] = real[-1]
        others = (real & ~last).flatten()
        text = fixed.text.clone()
        known = text[-1] >= 0
        text[-1, known] = (text[-1, known] + 1) % len(self._task.vocab.tokens)
        after = self._answers(replace(fixed, text=text))
        yield Change("the text of one clip", "answers for another", before, after, others, moving=last.flatten())
        after = self._answers(_other_mel(fixed, where=last))
        yield Change("the mel of one clip", "answers for another", before, after, others, moving=last.flatten())

    def _trained(self, batch: FlowBatch) -> Tensor:
        """Return the velocities (b, n, m) of the forward that is trained."""
        posed = self._task.pose(batch)
        velocity: Tensor = self._task.transformer(posed.x, posed.cond, posed.text, posed.time, mask=posed.mask)
        return velocity

    def _answers(self, batch: FlowBatch) -> Tensor:
        """Return the trained forward's velocities (b * n, m)."""
        return self._trained(batch).flatten(0, 1)

    # ---------------------------------------------------------------- speaking

    def twins(self, batch: FlowBatch) -> Iterator[Twin | Omitted]:
        """Compare the velocity at time 0 with the solver's first step, in which it is the same velocity."""
        shown = (PROMPT * batch.lengths).long()
        fixed = _fixed(batch, start=shown, end=batch.lengths, time=0.0)
        noise = _noise_of(fixed)
        trained = self._trained(fixed)
        reached = self._solve(fixed, noise, since=0.0)
        yield Twin("the velocity at the solver's first step", trained, reached - noise)

    def alignments(self, batch: FlowBatch) -> Iterator[Alignment | Omitted]:
        """Compare what the solver makes of noised frames with the mel, moved by frames."""
        shown = int(PROMPT * float(batch.lengths[0]))
        edge = max(map(abs, SHIFTS))
        judged = range(shown + edge, int(batch.lengths[0]) - edge)
        if len(judged) < 2:
            yield Omitted("frames against the mel", "the clip is too short")
            return
        sums = dict.fromkeys(SHIFTS, 0.0)
        generator = torch.Generator().manual_seed(0)
        hidden = frames_between(shown, batch.lengths, num_frames=batch.mel.shape[1])
        for time in (time for time in TIMES for _ in range(DRAWS)):
            noise = torch.randn(batch.mel.shape, generator=generator).to(batch.mel)
            at = torch.full((1,), time, device=batch.mel.device)
            start = noised(batch.mel, noise=noise, time=at, hidden=hidden).x
            fixed = _fixed(batch, start=batch.lengths * 0 + shown, end=batch.lengths, time=time)
            velocity = (self._solve(fixed, start, time) - start) / (1 - time)
            made = (velocity + noise)[0, judged.start : judged.stop]
            for shift in SHIFTS:
                moved = batch.mel[0, judged.start + shift : judged.stop + shift]
                sums[shift] += float((made - moved).square().mean()) / (len(TIMES) * DRAWS)
        yield Alignment("the mel that the velocity leads to", "frames", sums)

    def _solve(self, batch: FlowBatch, start: Tensor, since: float) -> Tensor:
        """Return the mel (1, n, m) at which one step from a time to the end arrives, as `sample` makes its steps."""
        draws = _draws(batch)
        shown = int(draws.span_start[0])
        *_, last = trajectory(
            self._task.transformer,
            batch.mel[:, :shown],
            batch.text,
            lengths=batch.mel_lengths,
            prompt_lengths=torch.tensor([shown]),
            noise=[start[0]],
            times=torch.tensor([since, 1.0], device=batch.mel.device),
            cfg_strength=0.0,
        )
        return last


def _draws(batch: FlowBatch) -> FlowDraws:
    assert batch.draws is not None
    return batch.draws


def _noise_of(batch: FlowBatch) -> Tensor:
    noise = _draws(batch).noise
    assert noise is not None
    return noise


def _fixed(batch: FlowBatch, *, start: Tensor, end: Tensor, time: float) -> FlowBatch:
    """Return the batch with every random choice made: spans of frames, one time, some noise; nothing is dropped."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.mel.shape, generator=generator).to(batch.mel)
    nothing = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.mel.device)
    return replace(
        batch,
        draws=FlowDraws(
            span_start=start,
            span_end=end,
            drop_audio=nothing,
            drop_text=nothing,
            noise=noise,
            time=torch.full((len(batch.ids),), time, device=batch.mel.device),
        ),
        weight=float((end - start).sum()),
    )


def _other_mel(batch: FlowBatch, *, where: Tensor) -> FlowBatch:
    """Return the batch with another mel at frames `where` (b, n) holds."""
    generator = torch.Generator().manual_seed(1)
    other = torch.randn(batch.mel.shape, generator=generator).to(batch.mel)
    return replace(batch, mel=torch.where(where[:, :, None], batch.mel + other, batch.mel))
