"""A GPU with too little memory: what does not fit is said, with exit code 6, wherever it happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rehearsed
from pretended_cuda import needs_cuda_build, pretended_cuda
from processes import Processes
from small_runs import RECIPE, write_clips, write_recipe

from ttstrain import registry
from ttstrain.errors import OutOfMemoryError
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start

pytestmark = needs_cuda_build


@pytest.mark.parametrize("what", ["weights", "average"])
def test_a_model_that_does_not_fit_ends_before_training(tmp_path: Path, what: str) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech", count=4), text=RECIPE)
    composed = compose(str(recipe), ["train.device=cuda", "train.precision=fp32", f"run_dir={tmp_path}", "name=r"])
    limit = {"weights": 0.9, "average": 1.5}[what] * _weights_of(composed)
    with (
        pretended_cuda(limit=limit),
        pytest.raises(OutOfMemoryError, match="before the training began: CUDA") as caught,
    ):
        start(composed)
    assert caught.value.exit_code == 6
    assert "ttstrain plan" in str(caught.value.hint)
    assert not (tmp_path / "r").exists()  # a run that never was leaves no folder


def _weights_of(composed: Any) -> int:
    parsed = parse(composed)
    return 4 * registry.planner_of(parsed).num_parameters()


@pytest.fixture(scope="module")
def fresh() -> Iterator[Processes]:
    """Run in a process in which torch has made no backward pass."""
    processes = Processes(1)
    yield processes
    processes.close()


def test_the_pretended_gpu_does_what_a_training_step_asks_of_it(fresh: Processes) -> None:
    """Fails first where another torch has another table of hooks."""
    (found,) = fresh(rehearsed.take_a_step)
    assert found == {"gradient on": "cuda:0", "loss": 0.0, "waits": 1, "freed": True}


def test_moments_that_do_not_fit_are_no_reason_to_halve(fresh: Processes, tmp_path: Path) -> None:
    (error,) = fresh(rehearsed.have_no_room_for_moments, tmp_path)
    assert isinstance(error, OutOfMemoryError)
    assert "in step 1 while it updated the weights of optimizer `model`" in error.message
    assert not (tmp_path / "incidents").exists()
