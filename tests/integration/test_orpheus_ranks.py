"""A step's loss is a mean over all learned tokens, however its rows are divided among micro-batches and processes."""

from __future__ import annotations

import pytest
import torch
from processes import Processes
from small_orpheus import step_alone, step_on_uneven_rows


@pytest.mark.parametrize("pieces", [2, 3])
def test_rows_may_be_divided_in_any_way(pieces: int) -> None:
    """Rows of 2 to 40 frames: a mean of means would be another loss."""
    whole, divided = step_alone(pieces=1), step_alone(pieces=pieces)
    assert divided["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    for name, tensor in whole["weights"].items():
        torch.testing.assert_close(divided["weights"][name], tensor, rtol=0, atol=2e-5)


def test_two_processes_take_the_step_of_one() -> None:
    whole = step_alone(pieces=1)
    processes = Processes(2, timeout_s=240)  # each imports transformers first
    try:
        ranks = processes(step_on_uneven_rows)
    finally:
        processes.close()
    for rank in ranks:
        assert rank["losses"] == pytest.approx(whole["losses"], rel=1e-5)
        for one, other in zip(rank["metrics"], whole["metrics"], strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        for name, tensor in whole["weights"].items():
            torch.testing.assert_close(rank["weights"][name], tensor, rtol=0, atol=2e-5)
