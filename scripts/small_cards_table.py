"""Print, as a table of Markdown, what `ttstrain plan` says of ways to train on small GPUs.

    python scripts/small_cards_table.py

Each cell is the largest micro-batch (`data.batch_frames`) that the formula of `ttstrain plan` fits into 92 % of the
GPU's memory, with what a step then takes: the recipe's own budget, or that times 2, 4, 1/2 or 1/4. Brackets stand
around what a quarter of it takes where not even that fits. It is computed and not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ttstrain.plan.estimate import OFFLOADED
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.render import GPU_SHARE
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, with_flags

CARDS = (8, 12, 16, 24)  # GB
SHARES = (4.0, 2.0, 1.0, 0.5, 0.25)  # of the recipe's own budget
TOY = "model.rows.tokenizer=package:toy"  # in the place of a file behind terms of use; memory stays the same
ORPHEUS, WHOLE = "orpheus_new_voice_lora", "orpheus_new_voice_full"
WAYS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Orpheus 3B", ORPHEUS, ()),
    ("Orpheus 3B", ORPHEUS, ("lora.base=nf4",)),
    ("Orpheus 3B", WHOLE, ("optim.kind=adamw8bit",)),
    ("Orpheus 3B", WHOLE, ("model.param_dtype=bf16", "optim.offload=true")),
    ("F5 v1 Base", "f5_lora", ()),
    ("F5 v1 Base", "f5_lora", ("lora.base=nf4",)),
    ("F5 v1 Base", "f5_v1_new_voice", ()),
    ("F5 v1 Base", "f5_v1_new_voice", ("optim.offload=true",)),
)


def main() -> None:
    print("\n".join(table()))


def table() -> list[str]:
    """Return the table's lines."""
    lines = [f"| net | recipe and keys | {' | '.join(f'{card} GB' for card in CARDS)} | on the host |"]
    lines.append("|---" * (3 + len(CARDS)) + "|")
    for net, recipe, keys in WAYS:
        plans = [_plan(recipe, keys, share) for share in SHARES]
        host = plans[0].memory.get(OFFLOADED)
        cells = [*(_cell(plans, card) for card in CARDS), "" if host is None else f"{host / 1e9:.1f} GB"]
        lines.append(f"| {net} | {' '.join(f'`{word}`' for word in (recipe, *keys))} | {' | '.join(cells)} |")
    return lines


def _cell(plans: Sequence[Plan], card: int) -> str:
    fitting = (plan for plan in plans if plan.memory_bytes <= GPU_SHARE * card * 1e9)
    largest = next(fitting, None)
    if largest is None:
        return f"({plans[-1].memory_bytes / 1e9:.1f} GB)"
    return f"{largest.recipe.data.batch_frames:,}: {largest.memory_bytes / 1e9:.1f} GB"


def _plan(name: str, keys: Sequence[str], share: float) -> Plan:
    toys = [TOY] if name in (ORPHEUS, WHOLE) else []
    plain = with_flags(compose(name, [*toys, *keys]), data=Path("package:demo"))
    budget = round(share * parse(plain).data.batch_frames)
    composed = with_flags(compose(name, [*toys, *keys, f"data.batch_frames={budget}"]), data=Path("package:demo"))
    return resolve(parse(composed), origins=composed.origins, facts=_facts(name), source_name=name)


@lru_cache
def _facts(name: str) -> DataFacts:
    """Return what is known of the demo data, so many times over that every micro-batch is full."""
    toys = [TOY] if name in (ORPHEUS, WHOLE) else []
    facts = gather_facts(parse(with_flags(compose(name, toys), data=Path("package:demo"))))
    return replace(facts, frames=100 * tuple(facts.frames))


if __name__ == "__main__":
    main()
