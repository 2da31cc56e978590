"""How well a clip's text explains its recording, as a trained net hears it.

A net that has learnt to read predicts the velocity better with the right text than with none. With a wrong text it does
not, and no recogniser is needed to see it. How the draws were chosen: docs/suspicious_transcripts.md.

Legend: b clips, n frames, m mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.model import FlowNet
from ttstrain.families.flow.model.cfm import frames_between, predict, squared_error

TIMES = (0.15, 0.3, 0.45, 0.6)
NOISE_DRAWS = 2


@torch.no_grad()
def text_gain(net: FlowNet, batch: FlowBatch, *, generator: torch.Generator) -> Tensor:
    """Return the share (b,) of each clip's loss without text that its text takes away.

    The whole recording is hidden, or its own sound would tell what is said. With and without the text, the net meets
    the same noise at the same times.
    """
    num_clips, num_frames, n_mels = batch.mel.shape
    device = batch.mel.device
    spoken = frames_between(0, batch.lengths, num_frames=num_frames)
    texts = [
        net.text_embed(
            batch.text,
            num_frames=num_frames,
            lengths=batch.lengths,
            drop=torch.full((num_clips,), dropped, device=device),
        )
        for dropped in (False, True)
    ]
    with_text, without = torch.zeros(2, num_clips, device=device)
    for _ in range(NOISE_DRAWS):
        clips = [torch.randn(int(length), n_mels, generator=generator) for length in batch.mel_lengths]
        noise = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(device)
        for time in TIMES:
            errors = [
                squared_error(
                    predict(
                        net,
                        batch.mel,
                        text,
                        noise=noise,
                        time=torch.full((num_clips,), time, device=device),
                        hidden=spoken,
                        mask=spoken,
                    ),
                    within=spoken,
                )
                for text in texts
            ]
            with_text += errors[0]
            without += errors[1]
    return (without - with_text) / without
