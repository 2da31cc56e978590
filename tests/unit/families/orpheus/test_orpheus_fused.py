"""Liger's kernels give the numbers of transformers' own, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parents[3] / "support"
CLOSE = 1e-5  # of each tensor's largest value; fp32 keeps 24 bits


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    pytest.importorskip("liger_kernel")
    pytest.importorskip("triton")
    paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(SUPPORT / "interpreted.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1]))


@pytest.mark.parametrize(("kind", "layers", "gradients"), [("whole", 2, 20), ("adapted", 1, 14)])
def test_losses_and_gradients_are_those_of_the_plain_net(
    found: dict[str, Any], kind: str, layers: int, gradients: int
) -> None:
    net = found[kind]
    assert net["gradients"] == gradients
    assert net["computed otherwise"] and net["distance"] < CLOSE, net
    assert net["parts fused"] == 3 * layers + 1  # two norms and a gated activation in each, and the last norm
    assert net["rotations fused"] == layers
    assert net["names kept"]


def test_no_other_llama_of_the_process_is_changed(found: dict[str, Any]) -> None:
    assert found["others as before"]
