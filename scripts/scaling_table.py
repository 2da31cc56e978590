"""Print what 1 to 64 GPUs would do for each task, as tables of Markdown: memory, exchange, expected efficiency.

    python scripts/scaling_table.py [--only Orpheus] [--speed 989e12] [--share 0.4] [--near 450] [--far 50]

Nothing is measured on a GPU. Weights, state, gradients, activations and arithmetic are counted in a rehearsal of a
recipe's step at its real size, on pretended CUDA in bf16; docs/scaling.md has the formulas. The rest is assumed:
`--speed` is a GPU's peak in bf16 (operations a second, H100: 989e12), of which a step reaches `--share`; `--near` and
`--far` are the GB a second that each GPU sends to the others of its machine (NVLink 4: 450) and to those of other
machines (InfiniBand NDR, one adapter a GPU: 50). A machine has 8 GPUs; clips are 8 s long and fill the recipe's budget.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

IN_MACHINE = 8
GPUS = (1, 8, 64)
DEGREES = (1, 8, 64)
FP32 = 4
BACKWARD = 2 / 3  # of a micro-batch's arithmetic: two products for each one of the forward
SECONDS, TEXT = 8.0, "the quick brown fox jumps over the lazy dog and runs on " * 2
TOY = "model.rows.tokenizer=package:toy"  # in the place of a file behind terms of use
TASKS: dict[str, tuple[str, Sequence[str]]] = {
    "F5 v1 Base": ("f5_v1_new_voice", ()),
    "GPT": ("gpt_sovits_gpt", ()),
    "VAE v2": ("gpt_sovits_vae", ()),
    "Orpheus 3B": ("orpheus_new_voice_full", (TOY,)),
}


@dataclass(frozen=True)
class Counted:
    """One micro-batch of a task: bytes, parameters and floating-point operations, forward and backward."""

    name: str
    parameters: int  # trained
    weight_bytes: int  # of one stored weight
    outside: int  # parameters that belong to no block
    state: int  # bytes of weights, optimizer state and EMA
    working: int  # bytes beyond the state at the step's peak: gradients and activations
    flops: float
    accumulate: int

    def memory(self, degree: int) -> float:
        """Return the bytes of a GPU whose state is divided by `degree`."""
        gradients = FP32 * self.parameters
        gathered = self.outside * self.weight_bytes if degree > 1 else 0  # one block more is small
        return (self.state + gradients) / degree + gathered + max(self.working - gradients, 0)

    def sent(self, gpus: int, degree: int) -> tuple[float, float]:
        """Return the bytes that each GPU sends in a step, in rings: within a group of `degree`, and between groups."""
        if degree == 1:  # gradients once a step, reduced and gathered
            return 0.0, 2 * FP32 * self.parameters * (gpus - 1) / gpus
        part, copies = (degree - 1) / degree, gpus // degree
        inside = self.parameters - self.outside
        weights = self.weight_bytes * (2 * inside + self.outside) * part  # blocks in the forward and in the backward
        gradients = FP32 * self.parameters * part
        between = 2 * FP32 * self.parameters / degree * (copies - 1) / copies
        return self.accumulate * (weights + gradients), self.accumulate * between


def count(name: str) -> Counted:
    """Rehearse a step, and count its arithmetic."""
    import torch
    import torch.utils.flop_counter as counting

    from ttstrain import registry
    from ttstrain.contract.data import Clip
    from ttstrain.contract.task import HasBlocks
    from ttstrain.plan.facts import gather_facts
    from ttstrain.plan.resolve import parse, resolve
    from ttstrain.recipe.compose import compose, with_flags
    from ttstrain.rehearsal.step import GRADIENTS_ADD_UP, rehearsing
    from ttstrain.train.build import make_task

    recipe_name, overrides = TASKS[name]
    composed = with_flags(
        compose(recipe_name, ["sample.every=null", "train.precision=bf16", *overrides]), data=Path("package:demo")
    )
    recipe = parse(composed)
    plan = resolve(recipe, origins=composed.origins, facts=gather_facts(recipe), source_name=composed.name)
    planner = registry.planner_of(recipe)
    clip = Clip(id="0", path=Path("0.wav"), text=TEXT, duration_s=SECONDS, sample_rate=32_000)
    many = max(1, min(recipe.data.batch_frames // planner.length(clip), recipe.data.max_clips))
    clips = [replace(clip, id=str(number)) for number in range(many)]
    with rehearsing(plan) as take:
        step = take(clips, "bf16")
        with counting.FlopCounterMode(display=False) as counter:  # takes operations apart, which takes memory
            take(clips, "bf16")
    with torch.device("meta"):
        task = make_task(plan)
    blocks = task.repeated_blocks() if isinstance(task, HasBlocks) else ()
    inside = {id(one) for block in blocks for one in block.parameters()}
    weights = [one for one in task.parameters() if one.requires_grad]
    return Counted(
        name=name,
        parameters=sum(one.numel() for one in weights),
        weight_bytes=weights[0].element_size(),
        outside=sum(one.numel() for one in weights if id(one) not in inside),
        state=step.state,
        working=step.peak - step.state,
        flops=counter.get_total_flops() / min(plan.accumulate, GRADIENTS_ADD_UP),
        accumulate=plan.accumulate,
    )


def memory_row(one: Counted) -> str:
    cells = [f"{one.memory(degree) / 1e9:.1f}" for degree in DEGREES]
    return f"| {one.name} | {one.parameters / 1e6:,.0f} M | {' | '.join(cells)} |"


def efficiency_rows(one: Counted, options: argparse.Namespace) -> list[str]:
    """Return a row for each number of GPUs and way to divide the state."""
    computing = one.accumulate * one.flops / (options.speed * options.share)
    rows = []
    for gpus in GPUS[1:]:
        for degree in (1, 8):
            near, far = one.sent(gpus, degree)
            if gpus <= IN_MACHINE:
                near, far = near + far, 0.0
            exchanging = near / (options.near * 1e9) + far / (options.far * 1e9)
            apart = computing / (computing + exchanging)
            hidden = computing if degree > 1 else BACKWARD * computing / one.accumulate
            overlapped = computing / (computing + max(exchanging - hidden, 0.0))
            ways = "whole copies" if degree == 1 else f"shard: {degree}"
            rows.append(
                f"| {one.name} | {gpus} | {ways} | {computing:.2f} s | {(near + far) / 1e9:.1f} GB | "
                f"{exchanging:.3f} s | {100 * apart:.0f} % | {100 * overlapped:.0f} % |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    parser.add_argument("--speed", type=float, default=989e12, help="a GPU's operations a second in bf16")
    parser.add_argument("--share", type=float, default=0.4, help="of it that a step reaches")
    parser.add_argument("--near", type=float, default=450.0, help="GB a second from a GPU to others of its machine")
    parser.add_argument("--far", type=float, default=50.0, help="GB a second from a GPU to those of other machines")
    options = parser.parse_args()
    counted = []
    for name in (name for name in TASKS if options.only in name):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:  # a rehearsal needs a process of its own
            counted.append(fresh.apply(count, (name,)))
    print(f"| net | trained | {' | '.join(f'GB at shard: {degree}' for degree in DEGREES)} |")
    print("|---" * (2 + len(DEGREES)) + "|")
    print("\n".join(map(memory_row, counted)))
    print("\n| net | GPUs | state | computing | each sends | takes | efficiency, one after the other | overlapped |")
    print("|---" * 8 + "|")
    print("\n".join(row for one in counted for row in efficiency_rows(one, options)))


if __name__ == "__main__":
    main()
