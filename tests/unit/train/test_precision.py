from __future__ import annotations

import math

import pytest
import torch
from toys import CPU, Regression, make_batch, make_run

from ttstrain.train import precision
from ttstrain.train.precision import Precision, choose, computes_in, really_has_bf16, remark
from ttstrain.train.step import train_step


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_asks_the_device_and_a_wish_does_not(has_bf16: bool, expected: str) -> None:
    asked: list[torch.device] = []

    def has(device: torch.device) -> bool:
        asked.append(device)
        return has_bf16

    assert choose("auto", CPU, has_bf16=has) == expected
    assert asked == [CPU]
    assert [choose(wish, CPU, has_bf16=has) for wish in ("fp16", "bf16", "fp32")] == ["fp16", "bf16", "fp32"]
    assert len(asked) == 1


def test_a_cpu_trains_in_fp32() -> None:
    assert choose("auto", CPU) == "fp32"


@pytest.mark.parametrize(
    ("capability", "right", "expected"),
    [((7, 5), True, False), ((6, 1), True, False), ((8, 0), True, True), ((9, 0), False, False)],
    ids=["T4", "P40", "A100", "a card that computes wrongly"],
)
def test_bf16_needs_the_hardware_and_right_results(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], right: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(precision, "computes_in", lambda *_: right)
    assert really_has_bf16(torch.device("cuda", 0)) is expected


@pytest.mark.parametrize(
    ("capability", "said"),
    [
        ((7, 5), "a card has no bf16: trained in fp32; `train.precision=fp16` may be several times faster"),
        ((6, 1), "a card has no bf16: trained in fp32"),
        ((9, 0), "WARNING: a card computes bf16 wrongly: trained in fp32. Is its driver sound?"),
    ],
)
def test_fp32_that_nobody_asked_for_is_said(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    gpu = torch.device("cuda", 0)
    assert remark("auto", "fp32", gpu) == said
    assert remark("fp32", "fp32", gpu) == remark("auto", "bf16", gpu) == remark("auto", "fp32", CPU) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_probe_computes_and_believes_what_is_right(dtype: torch.dtype) -> None:
    assert computes_in(dtype, CPU)


@pytest.mark.parametrize("fault", [math.nan, math.inf, 1.5])
def test_the_probe_notices_wrong_results(monkeypatch: pytest.MonkeyPatch, fault: float) -> None:
    conv1d = torch.nn.functional.conv1d

    def faulty(x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        y = conv1d(x, *arguments, **options)
        return y * fault if torch.is_autocast_enabled("cpu") else y

    monkeypatch.setattr(torch.nn.functional, "conv1d", faulty)
    assert not computes_in(torch.bfloat16, CPU)


def test_the_probe_takes_missing_kernels_for_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError('"conv1d" not implemented for BFloat16')

    monkeypatch.setattr(torch.nn.functional, "conv1d", missing)
    assert not computes_in(torch.bfloat16, CPU)


def test_after_falling_back_steps_are_those_of_the_other_format() -> None:
    torch.manual_seed(0)
    run = make_run(Regression(), precision="fp16")
    other = make_run(Regression(), precision="bf16")
    other.task.load_state_dict(run.task.state_dict())
    run.precision.fall_back("bf16")
    for seed in range(3):
        assert train_step(run, [make_batch(4, seed=seed)]) == train_step(other, [make_batch(4, seed=seed)])


def test_a_resumed_run_stays_where_it_fell_unless_the_recipe_asks_for_something_else() -> None:
    fallen = Precision("fp16", CPU)
    fallen.fall_back("fp32")
    state = fallen.state_dict()
    for wish, expected in (("fp16", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")):
        resumed = Precision(wish, CPU)  # type: ignore[arg-type]
        resumed.load_state_dict(state)
        assert resumed.kind == expected
    again = Precision("fp16", CPU)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert again.exhausted
