"""`ttstrain eval` tells sampling options from files."""

from __future__ import annotations

import pytest

from ttstrain.cli.eval import _is_override


@pytest.mark.parametrize(
    ("text", "option"),
    [("model.sampling.steps=8", True), ("train.device=cpu", True), ("model.safetensors", False), ("train.pt", False)],
)
def test_a_file_that_is_named_like_an_option_is_a_file(text: str, option: bool) -> None:
    assert _is_override(text) == option
