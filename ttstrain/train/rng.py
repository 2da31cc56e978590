"""The random generators of this process as one state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Rng:
    """Python's, numpy's and torch's global generators, on the CPU and on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seed(self, seed: int, *, rank: int = 0) -> None:
        """Seed every generator; ranks draw different noise from one seed."""
        mixed = np.random.SeedSequence([seed, rank]).generate_state(3)
        random.seed(int(mixed[0]))
        np.random.seed(int(mixed[1]))
        torch.manual_seed(int(mixed[2]))

    def state_dict(self) -> dict[str, Any]:
        version, internal, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state()
        state: dict[str, Any] = {
            "python": {"version": version, "internal": list(internal), "gauss": gauss},
            "numpy": {
                "kind": str(kind),
                "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
                "position": int(position),
                "has_gauss": int(has_gauss),
                "cached": float(cached),
            },
            "torch": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        python, numpy = state_dict["python"], state_dict["numpy"]
        random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
        keys = numpy["keys"].numpy().astype(np.uint32)
        np.random.set_state((numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
        torch.set_rng_state(state_dict["torch"])
        if self._device.type == "cuda" and "cuda" in state_dict:
            torch.cuda.set_rng_state(state_dict["cuda"], self._device)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Leave the generators as they were found: evaluation and samples must not change the training that follows."""
        before = self.state_dict()
        try:
            yield
        finally:
            self.load_state_dict(before)
