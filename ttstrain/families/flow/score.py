"""How well a clip's text explains its recording: how much it helps a trained net predict the audio.

A trained net predicts the velocity better with the right text than with none; with a wrong text it does not. No speech
recognition is needed. How time and draws were chosen: docs/suspicious_transcripts.md.

Legend: b clips, n frames, m mel bins.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.model import FlowNet
from ttstrain.families.flow.model.cfm import frames_between, noised, squared_error

TIMES = (0.0, 0.05, 0.15)  # near pure noise: at later times the noised recording itself reveals the words
NOISE_DRAWS = 2


@torch.no_grad()
def text_gain(net: FlowNet, batch: FlowBatch, *, generator: torch.Generator) -> Tensor:
    """Return the relative drop (b,) of each clip's loss when the net gets its text.

    The whole recording is hidden, or its own sound would tell what is said. With the text and without, the net meets
    the same noise at the same times.
    """
    num_clips, num_frames, n_mels = batch.mel.shape
    device = batch.mel.device
    spoken = frames_between(0, batch.lengths, num_frames=num_frames)
    times = [torch.full((num_clips,), time, device=device) for time in TIMES]
    with_text, without = (
        net.text_embed(
            batch.text,
            num_frames=num_frames,
            lengths=batch.lengths,
            drop=torch.full((num_clips,), dropped, device=device),
        )
        for dropped in (False, True)
    )
    losses = torch.zeros(2, num_clips, device=device)
    for _ in range(NOISE_DRAWS):
        clips = [torch.randn(int(length), n_mels, generator=generator) for length in batch.mel_lengths]
        noise = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(device)
        for time, (i, text) in product(times, enumerate((with_text, without))):
            given = noised(batch.mel, noise=noise, time=time, hidden=spoken)
            answer = net(given.x, given.cond, text, time, mask=spoken)
            losses[i] += squared_error(answer, given.velocity, within=spoken)
    gain: Tensor = 1 - losses[0] / losses[1]
    return gain
