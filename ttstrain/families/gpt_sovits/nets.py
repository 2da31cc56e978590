"""Nets that belong together, under the names they have in a task."""

from __future__ import annotations

from torch import nn


class Nets(nn.Module):
    """Hold nets of a task without being its child, so that their keys are the task's: `gpt.*`, `vae.*`."""

    def __init__(self, **nets: nn.Module) -> None:
        super().__init__()
        for name, net in nets.items():
            self.add_module(name, net)
