"""Which weights of a checkpoint are meant: those that were trained, or their exponential moving average (EMA)."""

from __future__ import annotations

from typing import Literal

Weights = Literal["online", "ema"]
WeightsChoice = Literal["auto", Weights]  # `auto`: those with the lower held-out loss
