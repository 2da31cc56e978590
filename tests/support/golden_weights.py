"""Weights that a fixture states by a rule instead of shipping them: the rule lies beside the fixtures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor


def golden_weight(fixtures: Path, key: str, shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Return the tensor of a key, as `golden_recipe.py` makes it; skips where the fixtures are not at hand."""
    path = fixtures / "golden_recipe.py"
    if not path.is_file():
        pytest.skip("needs the full set of fixtures: golden_recipe.py")
    spec = importlib.util.spec_from_file_location("golden_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch.from_numpy(module.recipe(key, shape, seed))
