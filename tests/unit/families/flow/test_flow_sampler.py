"""The solver and its time grids; that samples equal upstream's is shown in tests/parity."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model import build_net
from ttstrain.families.flow.model.sampler import durations, generate, integrate, noise, time_grid

ALL_STEPS = [1, 2, 5, 6, 7, 10, 12, 16, 32]


@pytest.mark.parametrize("steps", ALL_STEPS)
@pytest.mark.parametrize("sway", [None, -1.0, 0.5])
@pytest.mark.parametrize("epss", [True, False])
def test_time_runs_from_noise_to_speech_in_the_given_steps(steps: int, sway: float | None, epss: bool) -> None:
    times = time_grid(steps, sway=sway, epss=epss)
    assert len(times) == steps + 1
    assert float(times[0]) == 0 and float(times[-1]) == pytest.approx(1)
    assert (times.diff() > 0).all()


def test_sway_grid_of_seven_steps_is_upstreams() -> None:
    expected = [0, 0.00482, 0.01921, 0.04306, 0.07612, 0.29289, 0.61732, 1]
    assert time_grid(7, sway=-1.0, epss=True).tolist() == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_solver_converges_at_its_order(method: Literal["euler", "midpoint"], order: int) -> None:
    def error(steps: int) -> float:
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        start = torch.ones(1, dtype=torch.float64)
        *_, end = integrate(lambda t, y: y * torch.cos(t), start, times=times, method=method)
        return abs(float(end) - math.exp(math.sin(1)))

    assert error(40) / error(80) == pytest.approx(2**order, rel=0.1)


def test_durations_leave_room_for_tokens_and_one_new_frame() -> None:
    text = torch.tensor([[1, 2, 3, 4], [1, -1, -1, -1], [1, 2, -1, -1]])
    lengths = durations(torch.tensor([2, 3, 90]), text=text, prompt_lengths=torch.tensor([1, 10, 10]))
    assert lengths.tolist() == [5, 11, 90]


def test_noise_of_a_clip_does_not_depend_on_its_neighbours() -> None:
    alone = noise([7], n_mels=100, seed=4)[0]
    assert torch.equal(noise([9, 7], n_mels=100, seed=4)[1], alone)
    assert not torch.equal(noise([7], n_mels=100, seed=5)[0], alone)


@pytest.mark.parametrize(("cfg_strength", "rows"), [(0.0, 2), (2.0, 4)])
def test_guidance_alone_doubles_the_batch(cfg_strength: float, rows: int) -> None:
    config = FlowConfig(dim=16, depth=1, heads=1, dim_head=16, text_dim=16, conv_layers=0)
    net = build_net(config, num_tokens=9).eval()
    seen: list[int] = []
    net.proj_out.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    prompt = torch.randn(2, 4, 100)
    lengths = torch.tensor([12, 9])
    out: Tensor = generate(
        net,
        prompt,
        torch.tensor([[1, 2], [3, -1]]),
        lengths=lengths,
        prompt_lengths=torch.tensor([4, 2]),
        noise=noise(lengths.tolist(), n_mels=100, seed=0),
        times=time_grid(3, sway=None, epss=False),
        cfg_strength=cfg_strength,
    )
    assert seen == [rows] * 3
    assert out.shape == (2, 12, 100)
    assert torch.equal(out[0, :4], prompt[0]) and torch.equal(out[1, :2], prompt[1, :2])
