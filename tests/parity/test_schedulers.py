"""Upstream's learning-rate curves and averages of weights, recorded from the upstream programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ttstrain.optim.ema import Ema
from ttstrain.optim.schedule import lr_at
from ttstrain.recipe.schema import ChainedLinear, Constant, Exponential

# Upstream multiplies its LR step by step; over these curves that drifts from the closed form by less than this.
OF_PEAK = 1e-15  # absolute, as a factor of the peak LR: ten times tighter than 1e-12 for any LR below 1000
RELATIVE = 1e-8  # at the floor, where the drift of the whole way down is left over; 1e-13 on the way up


@pytest.fixture(scope="session")
def recorded(fixtures_dir: Path) -> dict[str, Any]:
    curves: dict[str, Any] = json.loads((fixtures_dir / "schedulers" / "config.json").read_text())
    [s1], [s2] = curves["s1"], curves["s2"]
    return {**curves, "s1": s1, "s2": s2}


@pytest.fixture(scope="session")
def averages(fixtures_dir: Path) -> dict[str, Any]:
    runs: dict[str, Any] = json.loads((fixtures_dir / "schedulers" / "ema.json").read_text())
    return runs


def f5(*, warmup: int, total: int, lr: float, steps: range) -> list[float]:
    schedule = ChainedLinear(warmup_steps=warmup)
    return [lr_at(schedule, step=step, base_lr=lr, total_steps=total, steps_per_epoch=1.0) for step in steps]


def assert_same(ours: list[float], theirs: list[float], *, lr: float) -> None:
    assert ours == pytest.approx(theirs, rel=0, abs=min(OF_PEAK * lr, 1e-12))
    assert ours == pytest.approx(theirs, rel=RELATIVE, abs=0)


def test_f5_linear_is_upstreams_curve(recorded: dict[str, Any]) -> None:
    curves = [curve for curve in recorded["f5"] if "error" not in curve]
    assert {(curve["warmup_updates"], curve["total_updates"]) for curve in curves} >= {
        (0, 20),
        (200, 30),
        (0, 1),
        (10, 100),
    }
    for curve in curves:
        lr, warmup, total, theirs = (curve[key] for key in ("lr", "warmup_updates", "total_updates", "lrs"))
        assert len(theirs) > total  # the fixture goes past the end, to the floor
        ours = f5(warmup=warmup, total=total, lr=lr, steps=range(len(theirs)))
        assert_same(ours, theirs, lr=lr)
        assert ours[:warmup] == pytest.approx(theirs[:warmup], rel=1e-13, abs=0)


def test_upstream_without_warmup_never_leaves_the_floor(recorded: dict[str, Any]) -> None:
    curve = next(curve for curve in recorded["f5"] if curve["warmup_updates"] == 0)
    assert max(curve["lrs"]) < 1.1e-8 * curve["lr"]
    assert max(f5(warmup=0, total=20, lr=1e-3, steps=range(26))) < 1.1e-11


def test_warmup_as_long_as_the_run_crashes_upstream_and_only_ramps_here(recorded: dict[str, Any]) -> None:
    curve = next(curve for curve in recorded["f5"] if "error" in curve)
    assert curve["warmup_updates"] == curve["total_updates"] == 12
    ours = f5(warmup=12, total=12, lr=1e-5, steps=range(12))
    assert ours == pytest.approx([1e-13 + (1e-5 - 1e-13) * step / 12 for step in range(12)], rel=1e-12)
    assert f5(warmup=12, total=12, lr=1e-5, steps=range(12, 14)) == pytest.approx([1e-13] * 2, rel=1e-7)


def test_a_resumed_upstream_run_follows_the_totals_it_was_saved_with(recorded: dict[str, Any]) -> None:
    changed = 0
    for resumed in recorded["f5_resumed"]:
        lr, start, theirs = resumed["lr"], resumed["stopped_after"], resumed["lrs_after_resume"]
        steps = range(start, start + len(theirs))
        stored = f5(warmup=resumed["warmup_updates"], total=resumed["total_updates"], lr=lr, steps=steps)
        assert_same(stored, theirs, lr=lr)
        asked = f5(warmup=resumed["new_warmup_updates"], total=resumed["new_total_updates"], lr=lr, steps=steps)
        changed += asked != stored
    assert changed == 2  # two of the four asked for other totals, in vain


def test_upstream_resumed_past_the_end_trains_at_nothing(recorded: dict[str, Any]) -> None:
    ended = [run for run in recorded["f5_resumed"] if run["stopped_after"] == run["total_updates"]]
    assert [set(run["lrs_after_resume"]) for run in ended] == [{1.0000000089572133e-13}] * 2
    assert f5(warmup=10, total=40, lr=1e-5, steps=range(40, 80)) == pytest.approx([1e-13] * 40, rel=RELATIVE)


def test_gpt_sovits_s1_is_a_constant_whatever_its_arguments_say(recorded: dict[str, Any]) -> None:
    sequence = recorded["s1"]["sequence"]
    constant = Constant(warmup_steps=0)
    ours = [lr_at(constant, step=row["step"], base_lr=2e-3, total_steps=40_000, steps_per_epoch=1) for row in sequence]
    assert ours[1:] == [row["group_lr"] for row in sequence[1:]]
    assert sequence[0]["group_lr"] == 0.01  # the very first update alone uses the optimizer's own LR


def s2(recorded: dict[str, Any], *, epoch: int, lr: float) -> float:
    """LR of a 1-based epoch: upstream steps its scheduler once before the first, so every epoch is one ahead."""
    schedule = Exponential(warmup_steps=0, gamma=recorded["s2"]["gamma"])
    return lr_at(schedule, step=epoch * 7, base_lr=lr, total_steps=10_000, steps_per_epoch=7)


def test_gpt_sovits_s2_decays_exponentially_per_epoch_and_group(recorded: dict[str, Any]) -> None:
    lr, low = recorded["s2"]["lr"], recorded["s2"]["lr"] * recorded["s2"]["text_low_lr_rate"]
    for row in recorded["s2"]["fresh"]:
        ours = [s2(recorded, epoch=row["epoch"], lr=peak) for peak in (lr, low, low, low)]
        assert ours == pytest.approx(row["lrs"], rel=1e-14)


def test_gpt_sovits_s2_decays_twice_after_a_resume_and_ours_once(recorded: dict[str, Any]) -> None:
    lr, gamma, saved = recorded["s2"]["lr"], recorded["s2"]["gamma"], recorded["s2"]["saved_in_epoch"]
    fresh = {row["epoch"]: row["lrs"][0] for row in recorded["s2"]["fresh"]}
    for row in recorded["s2"]["resumed"]:
        ours = s2(recorded, epoch=row["epoch"], lr=lr)
        assert ours == pytest.approx(fresh[row["epoch"]], rel=1e-14)  # a function of the step cannot decay twice
        assert row["lrs"][0] == pytest.approx(ours * gamma**saved, rel=1e-12)


class Averaged(torch.nn.Module):
    """The recorded module: a weight, a float buffer that grows by 0.1 a step, and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(6))
        self.register_buffer("buf", torch.zeros(3))
        self.register_buffer("cnt", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def become(self, w: torch.Tensor, buf: torch.Tensor, cnt: int) -> None:
        self.w.copy_(w)
        self.buf.copy_(buf)
        self.cnt.fill_(cnt)


@pytest.mark.parametrize("run", ["f5_defaults", "long", "fast", "pretrained_step_1250000"])
def test_average_follows_upstreams_when_fed_its_decays(run: str, averages: dict[str, Any], fixtures_dir: Path) -> None:
    expected = load_file(fixtures_dir / "schedulers" / "expected.safetensors")
    online, wanted_w, wanted_buf = (expected[f"{run}.{key}"] for key in ("online_w", "ema_w", "ema_buf"))  # (n, ...)
    decays, every = averages[run]["decay_after_update"], averages[run]["kwargs"].get("update_every", 10)
    first = averages[run]["step_final"] - len(decays)  # upstream's own count before the first update: 0 or 1,250,000
    before = 0.1 * torch.ones(3)  # the buffer has grown once when it is first averaged
    buffers = [wanted_buf[0] + (0.1 * i if first == 0 else before + 0.1 * i) for i in range(len(online))]

    module = Averaged()
    # Upstream acts when its count of finished updates divides by `every`, and reports the decay that it then uses.
    ema = Ema(module, decay=0.9999, start_step=0, every=every, decay_at=lambda step: decays[step - first])
    if first:  # undo the first averaging to find the published weights that upstream started from
        kept = decays[0]
        start_w = (wanted_w[0].double() - (1 - kept) * online[0].double()) / kept
        ema.load_state_dict({"weights": {"w": start_w.float(), "buf": wanted_buf[0], "cnt": torch.tensor(0)}})
    for i in range(len(online)):
        module.become(online[i], buffers[i], i + 1)
        ema.update(first + i)
        average = ema.state_dict()["weights"]
        torch.testing.assert_close(average["w"], wanted_w[i], rtol=0, atol=3e-7)
        torch.testing.assert_close(average["buf"], wanted_buf[i], rtol=1e-5, atol=3e-5)
    assert int(average["cnt"]) > averages[run]["cnt_final"][1] == 0  # upstream leaves integers behind, ours are copied
