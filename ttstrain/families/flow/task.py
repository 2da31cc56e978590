"""Train, evaluate and sample a flow-matching net.

Legend: b clips, n frames, m mel bins, s text positions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.contract.task import Audio, EmbeddingsFirst, Loss, Prompt, Sample, Task
from ttstrain.errors import DataError
from ttstrain.families.flow.config import SAMPLE_RATE, FlowConfig
from ttstrain.families.flow.cost import forward_flops
from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.interpretations import TABLE
from ttstrain.families.flow.model import build_net
from ttstrain.families.flow.model.cfm import draw, frames_between, noised, squared_error
from ttstrain.families.flow.model.sampler import durations, generate, noise, time_grid
from ttstrain.families.flow.score import text_gain
from ttstrain.families.flow.speech import (
    NO_VOICE,
    WINDOW_S,
    PreparedVoice,
    chunks,
    cross_fade,
    join_mels,
    longest_s,
    max_bytes,
    num_frames,
    prepare,
    share_duration,
)
from ttstrain.families.flow.text import encode, tokenize
from ttstrain.families.flow.transplant import fit_vocab
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.modules.griffin_lim import griffin_lim
from ttstrain.modules.mel import FLOOR, MelSpectrogram
from ttstrain.modules.trained import trained_share
from ttstrain.modules.vocoder.load import Vocoder, load_vocoder, published

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint

EVALUATED_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # the middles of five bins, `t0` to `t4`
EVALUATED_PROMPT = 0.3  # share of a held-out clip that is the prompt; the loss is over the rest


@dataclass(frozen=True, slots=True)
class Posed:
    """One time of each clip's way, as the net is given it in training, and what it should answer."""

    x: Tensor  # (b, n, m)
    cond: Tensor  # (b, n, m)
    text: Tensor  # (b, n, d), embedded
    time: Tensor  # (b,)
    mask: Tensor  # (b, n) bool: frames that are no padding
    wanted: Tensor  # (b, n, m) the velocity
    hidden: Tensor  # (b, n) bool: the frames that count


class FlowTask(Task):
    """Train a net to fill in the masked span of a mel, given its text and the rest of the mel."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
        # The name is the first part of every key of upstream's state dict.
        self.transformer = build_net(config, num_tokens=len(self.vocab.tokens))
        self._vocoder: Vocoder | None = None  # not part of the task's state

    # ---------------------------------------------------------------- starting from a base

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Adapt the base's token embeddings to this vocab, by token."""
        return fit_vocab(base, self.vocab, named=self.config.base_vocab)

    def embeddings_first(self) -> EmbeddingsFirst | None:
        """Return how long only the embeddings of new tokens train."""
        steps = self.config.first_new_rows
        return EmbeddingsFirst(tables=(TABLE,), steps=steps) if steps else None

    # ---------------------------------------------------------------- training

    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Return the net's blocks."""
        return self.transformer.blocks

    def draw(self, batch: FlowBatch) -> FlowBatch:
        """Choose spans and drops; the weight becomes the number of hidden frames."""
        draws = draw(batch.mel_lengths, self.config.cfm)
        return replace(batch, draws=draws, weight=float((draws.span_end - draws.span_start).sum()))

    def losses(self, batch: FlowBatch) -> Iterator[Loss]:
        """Yield the mean squared error of the velocity over hidden frames and mel bins."""
        posed = self.pose(batch)
        velocity = self.transformer(posed.x, posed.cond, posed.text, posed.time, mask=posed.mask)
        error = squared_error(velocity, posed.wanted, within=posed.hidden)
        yield Loss(error.sum() / max(batch.weight, 1.0))

    def pose(self, batch: FlowBatch) -> Posed:
        """Return what the net is given in training: each clip noised at one time, its text and what is shown of it."""
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
        given = noised(batch.mel, noise=noise, time=time, hidden=span | draws.drop_audio[:, None])
        mask = frames_between(0, batch.lengths, num_frames=num_frames)
        return Posed(given.x, given.cond, text, time, mask, wanted=given.velocity, hidden=span)

    def flops(self, batch: FlowBatch) -> float:
        """Count from the clips' lengths; the text's own blocks, under 1 % of a published net, are left out."""
        forward = forward_flops(self.config, batch.mel_lengths.tolist())
        return (2 + trained_share(self)) * forward.products + 3 * forward.attention

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: FlowBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the loss on the last part of each clip, given its start and its text, at five fixed times.

        Each clip has its own noise, drawn in the order of the batch. A clip's loss is the mean over these
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
        mask = frames_between(0, batch.lengths, num_frames=num_frames)
        values: dict[str, Tensor] = {}
        for number, fraction in enumerate(EVALUATED_TIMES):
            time = torch.full((len(batch.ids),), fraction, device=device)
            given = noised(batch.mel, noise=noise, time=time, hidden=judged)
            answer = self.transformer(given.x, given.cond, text, time, mask=mask)
            values[f"t{number}"] = (squared_error(answer, given.velocity, within=judged) * share).sum()
        return {"total": torch.stack(list(values.values())).mean(), **values}

    def score(self, batch: FlowBatch, generator: torch.Generator) -> Tensor:
        """Return the relative drop (b,) of each clip's loss when the net gets its text."""
        return text_gain(self.transformer, batch, generator=generator)

    # ---------------------------------------------------------------- generating

    def prepare_sampling(self) -> str:
        """Load the vocoder that the recipe names; return its name and source."""
        settings = self.config.sampling
        if settings.vocoder is None:
            return f"Griffin-Lim: rougher than {published(self.config.mel)[0]}"
        if self._vocoder is None:
            self._vocoder = load_vocoder(settings.vocoder, mel=self.config.mel, n_mels=self.config.n_mels)
        return f"{self._vocoder.name} ({self._vocoder.source})"

    @torch.no_grad()
    def sample(self, prompt: Prompt) -> Sample:
        """Generate a text of any length in the reference's voice, or in an arbitrary one without a reference."""
        sound = self.prepare_sampling()
        if not prompt.text.strip():
            raise DataError("the text is empty")
        settings = self.config.sampling
        pace = {"speed": settings.speed, "seconds_per_byte": settings.seconds_per_byte}
        seed = settings.seed if prompt.seed is None else prompt.seed
        voice = NO_VOICE if prompt.reference is None else prepare(prompt.reference, prompt.reference_text)
        pieces = chunks(prompt.text, max_bytes=max_bytes(voice, **pace))
        if prompt.duration_s is None:
            frames = [num_frames(piece, voice, **pace) for piece in pieces]
        else:
            frames = share_duration(prompt.duration_s, pieces)
        shown = self._shown(voice)
        mels = [
            self._fill_in(piece, voice, shown, num_new=num_new, seed=seed + number)
            for number, (piece, num_new) in enumerate(zip(pieces, frames, strict=True))
        ]
        wav = cross_fade([self._vocode(mel) * voice.level for mel in mels])
        levelled = (join_mels(mels).cpu() + math.log(voice.level)).clamp(min=math.log(FLOOR))
        return Sample(
            audio=Audio(wav=wav.clamp(-1, 1), sample_rate=SAMPLE_RATE),
            mel=levelled,
            vocoder=sound,
            num_chunks=len(pieces),
            notes=(*voice.notes, *_overlong(longest_s(frames, voice)), *self._unread(voice.text + prompt.text)),
        )

    def _shown(self, voice: PreparedVoice) -> Tensor:
        """Return the prompt's mel (1, p, m)."""
        device = self.transformer.proj_out.weight.device
        if not voice.num_frames:
            return torch.zeros(1, 0, self.config.n_mels, device=device)
        mel: Tensor = MelSpectrogram(self.config.mel, n_mels=self.config.n_mels)(voice.wav[None])
        return mel.transpose(1, 2).to(device)

    def _fill_in(self, piece: str, voice: PreparedVoice, shown: Tensor, *, num_new: int, seed: int) -> Tensor:
        """Return the mel (n, m) of a piece of text after the voice."""
        settings = self.config.sampling
        text = torch.tensor([encode(voice.prefix + piece, self.vocab, kind=self.config.tokenizer)])
        prompt_lengths = torch.tensor([shown.shape[1]])
        wanted = torch.tensor([voice.num_frames + num_new])
        lengths = durations(wanted, text=text, prompt_lengths=prompt_lengths)
        mels = generate(
            self.transformer,
            shown,
            text,
            lengths=lengths,
            prompt_lengths=prompt_lengths,
            noise=noise(lengths.tolist(), n_mels=self.config.n_mels, seed=seed),
            times=time_grid(settings.steps, sway=settings.sway, epss=settings.epss, device=shown.device),
            cfg_strength=settings.cfg_strength,
            method=settings.method,
        )
        return mels[0, voice.num_frames :].float()

    def _vocode(self, mel: Tensor) -> Tensor:
        return griffin_lim(mel, kind=self.config.mel) if self._vocoder is None else self._vocoder.vocode(mel)

    def _unread(self, text: str) -> list[str]:
        """Note which symbols are not in the vocab: they are replaced by spaces."""
        unknown = Counter(
            token
            for token in tokenize(self.vocab.spelling.of(text), kind=self.config.tokenizer)
            if token not in self.vocab.index
        )
        if not unknown:
            return []
        shown = ", ".join(f"`{token}`" for token in list(unknown)[:8]) + (" ..." if len(unknown) > 8 else "")
        return [f"not in the vocab and read as spaces: {shown}"]


def _overlong(seconds: float) -> list[str]:
    if seconds <= WINDOW_S + 1:  # a guess, rounded
        return []
    return [f"a piece lasts {seconds:.0f} s with its reference; quality drops above {WINDOW_S:.0f} s"]
