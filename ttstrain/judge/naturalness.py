"""How natural speech sounds: a predicted mean opinion score, by DistillMOS (extra `judge`).

Stahl and Gamper 2025, "Distillation and pruning for scalable self-supervised representation-based speech quality
assessment". The weights are in its package. It hears pieces of 7.68 s and fills up shorter clips with silence, which
costs them up to 0.7 of the score; here the speech is repeated until it fills a piece, which costs some 0.1 at 3 s.
"""

from __future__ import annotations

import contextlib
import io
from typing import Protocol

import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.waveform import RATE, at_rate, without_edges

PIECE = 122_880  # samples at 16 kHz
SHORTEST_S = 0.5  # of speech
MISSING = "naturalness is not measured: install `ttstrain[judge]`, which brings distillmos"


class OpinionModel(Protocol):
    """What predicts an opinion score."""

    def score(self, wav: Tensor) -> float:
        """Return a mean opinion score, 1 (bad) to 5 (excellent), of a waveform (t,) at 16 kHz."""
        ...


class DistilledOpinion:
    """DistillMOS: convolutions and a small transformer, 4.1 M weights."""

    def __init__(self) -> None:
        from distillmos import ConvTransformerSQAModel

        with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
            self.net = ConvTransformerSQAModel().eval().requires_grad_(False)

    def score(self, wav: Tensor) -> float:
        with torch.no_grad():
            return float(self.net(wav[None]))


def open_naturalness() -> OpinionModel | None:
    """Return the model; None where distillmos is not installed."""
    try:
        return DistilledOpinion()
    except ImportError:
        return None


def naturalness(audio: Audio, model: OpinionModel) -> float | None:
    """Return the predicted opinion score of a clip's speech; None with less than 0.5 s of it."""
    speech = without_edges(at_rate(audio))
    if len(speech) < SHORTEST_S * RATE:
        return None
    return model.score(speech if len(speech) >= PIECE else speech.repeat(-(-PIECE // len(speech)))[:PIECE])
