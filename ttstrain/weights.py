"""Which weights of a checkpoint to use: the raw weights, or their exponential moving average (EMA)."""

from __future__ import annotations

from typing import Literal

Weights = Literal["online", "ema"]
WeightsChoice = Literal["auto", Weights]  # `auto`: those with the lower held-out loss
