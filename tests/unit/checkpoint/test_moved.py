"""What moved between two checkpoints, by module."""

from __future__ import annotations

import math

import pytest

from ttstrain.checkpoint.moved import Gap, by_module


def of(names: list[str], *, most: int = 40) -> list[str]:
    return [module.name for module in by_module({n: Gap(1, 1) for n in names}, dict.fromkeys(names, 1), most=most)]


def test_a_module_moved_as_far_as_its_tensors_together() -> None:
    gaps = {"net.a.weight": Gap(3.0, 6.0), "net.a.bias": Gap(4.0, 8.0), "net.b.weight": Gap(0.0, 0.0)}
    a, b = by_module(gaps, {"net.a.weight": 12, "net.a.bias": 3, "net.b.weight": 2})
    assert (a.name, a.distance, a.parameters) == ("a", pytest.approx(5.0 / 10.0), 15)
    assert (b.name, b.distance, b.parameters) == ("b", 0.0, 2)  # equal, though it is all zero


def test_modules_are_as_small_as_the_screen_allows() -> None:
    names = [f"net.blocks.{n}.{part}.weight" for n in range(12) for part in ("attn", "ff")] + ["net.out.weight"]
    assert of(names, most=30)[:3] == ["blocks.0.attn", "blocks.0.ff", "blocks.1.attn"]
    assert of(names, most=20) == [*(f"blocks.{n}" for n in range(12)), "out"]  # 10 behind 9
    assert of(names, most=5) == ["blocks", "out"]
    assert of(["weight"]) == ["weight"]


@pytest.mark.parametrize("gap", [Gap(1.0, 0.0), Gap(math.nan, 1.0), Gap(math.inf, 1.0)])
def test_what_is_no_number_is_none(gap: Gap) -> None:
    (module,) = by_module({"a.weight": gap}, {"a.weight": 1})
    assert module.distance is None
