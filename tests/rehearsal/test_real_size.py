"""A step of every task at its real size on a GPU that is not there: what it waits for, calls and takes.

Types or devices that do not agree, and results whose shape depends on values, are errors of the rehearsal itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pretended_cuda import needs_cuda_build
from processes import Processes
from real_size import rehearse_recipe

from ttstrain.rehearsal.step import Format

pytestmark = needs_cuda_build

CLOSE = 0.1  # share of the rehearsal's peak by which the plan may be off
READ = "reads a value in ttstrain.train.step._read"
BACK = "waits for everything in ttstrain.optim.rounded.RoundedAdamW.step"
PROOF = "ttstrain.families.orpheus.net.prove_isolation"
PROVEN = {f"copies to the device in {PROOF}": 1, f"copies to the device in {PROOF}.<locals>.<genexpr>": 2}
ONCE = {**PROVEN, f"reads a value in {PROOF}": 1}  # before the first loss of a run
PROBE = "ttstrain.families.orpheus.attention"
PROBED = {f"copies to the device in {PROBE}.misfit.<locals>.<genexpr>": 6, f"reads a value in {PROBE}._distance": 4}
ALONE = ("train.step_frames=null", "train.accumulate=1")
HALVES: tuple[tuple[Format, float], ...] = (("bf16", 1.0), ("fp16", 2.0))  # and the share of the recipe's budget
EVERY: tuple[tuple[Format, float], ...] = (*HALVES, ("fp32", 0.5))


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe over clips of one length, in some formats and at some budgets."""

    recipe: str
    overrides: tuple[str, ...] = ()
    seconds: float = 6.0
    optimizers: int = 1
    cells: tuple[tuple[Format, float], ...] = HALVES
    offload: bool = False  # whether an update waits for state that goes back to the host
    attention: str | None = None  # the kernel of scaled dot-product attention in half precision


CASES = {
    "f5_v1": Case("f5_v1_new_voice", attention="flash"),
    "f5_lora": Case("f5_lora", attention="flash"),
    "f5_lora_nf4": Case("f5_lora", ("lora.base=nf4",), cells=HALVES[:1], attention="flash"),
    "f5_offload": Case("f5_v1_new_voice", ("optim.offload=true",), cells=HALVES[:1], attention="flash", offload=True),
    "e2": Case(
        "f5_v1_new_voice",
        ("extends=[models/e2_base, hardware/single_gpu_24gb]", "train.accumulate=1"),
        cells=EVERY,
        attention="flash",
    ),
    "gpt": Case("gpt_sovits_gpt", seconds=9.0, cells=EVERY, attention="efficient"),
    "vae_v2": Case("gpt_sovits_vae", seconds=9.0, optimizers=2),
    "vae_v2pro": Case(
        "gpt_sovits_vae",
        ("extends=[models/gpt_sovits_vae_v2pro, hardware/single_gpu_24gb]",),
        seconds=9.0,
        optimizers=2,
    ),
    "joint": Case("gpt_sovits_new_voice", seconds=9.0, optimizers=2, attention="efficient"),
    "orpheus_full": Case("orpheus_new_voice_full"),
    "orpheus_lora": Case("orpheus_new_voice_lora", ALONE),
    "orpheus_lora_nf4": Case("orpheus_new_voice_lora", (*ALONE, "lora.base=nf4"), cells=HALVES[:1]),
}


@pytest.fixture(scope="module")
def fresh() -> Iterator[Processes]:
    """Run in a process in which torch has made no backward pass."""
    processes = Processes(1, timeout_s=300)
    yield processes
    processes.close()


@pytest.mark.parametrize("name", CASES)
def test_a_step_fits_where_the_plan_says_and_waits_for_nothing_else(fresh: Processes, name: str) -> None:
    case = CASES[name]
    if "nf4" in name:
        pytest.importorskip("bitsandbytes")
    (found,) = fresh(rehearse_recipe, case.recipe, case.overrides, case.cells, case.seconds)
    assert not isinstance(found, BaseException), found
    for number, (planned, step) in enumerate(found):
        assert planned == pytest.approx(step.peak, rel=CLOSE), step.precision
        assert set(step.attention) <= {"flash", "efficient"}  # no plans of cuDNN's, and no scores of whole clips
        if case.attention is not None and step.precision != "fp32":
            assert set(step.attention) == {case.attention}
        waits = Counter(step.waits)
        assert waits.pop(READ) == case.optimizers + 1  # the last is of a measured step
        if case.offload:  # once an update; a measured one is made in pieces
            assert waits.pop(BACK) > 0
        if case.recipe.startswith("orpheus"):  # what a run, and a format in it, proves once
            proven = ONCE if number == 0 else {}
            assert waits in (Counter(proven), Counter({**proven, **PROBED}))
        else:
            assert not waits
