"""Print, as a table of Markdown, the memory that `ttstrain plan` computes for recipes on each config of a machine.

    python scripts/hardware_table.py [RECIPE ...]

It is computed and not measured, with the demo data that ship; data change the number of steps and not the memory. A
recipe's own `data.batch_frames` holds over that of the config. `+` stands behind a sum without activations, which are
unknown for some families; brackets stand around what is more than 92 % of the GPU's memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ttstrain.plan.catalog import CatalogEntry, read_catalog
from ttstrain.plan.estimate import ACTIVATIONS
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.new_recipe import Hardware, hardware_configs
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import GPU_SHARE
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, load_yaml, with_flags

GATED = "model.rows.tokenizer"  # a file behind terms of use; a toy takes its place, and memory stays the same


def main() -> None:
    known = {entry.name: entry for entry in read_catalog()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipes", nargs="*", help="default: those with a goal that need a GPU")
    named = parser.parse_args().recipes
    entries = [known[name] for name in named] or [one for one in known.values() if one.goals and one.memory_gb]
    machines = [one for one in hardware_configs() if one.memory_gb]
    print(f"| recipe | {' | '.join(one.name for one in machines)} |")
    print("|---" * (1 + len(machines)) + "|")
    for entry in entries:
        cells = [_cell(_plan(entry, machine), machine) for machine in machines]
        print(f"| {entry.name} | {' | '.join(cells)} |", flush=True)


def _plan(entry: CatalogEntry, machine: Hardware) -> Plan:
    values = load_yaml(entry.path)
    names = [name for name in values.get("extends", []) if not name.startswith("hardware/")]
    overrides = [f"extends=[{', '.join([*names, f'hardware/{machine.name}'])}]"]
    if "tokenizer" in values.get("model", {}).get("rows", {}):
        overrides.append(f"{GATED}=package:toy")
    composed = with_flags(compose(entry.name, overrides), data=Path("package:demo"))
    recipe = parse(composed)
    return resolve(recipe, origins=composed.origins, facts=gather_facts(recipe), source_name=composed.name)


def _cell(plan: Plan, machine: Hardware) -> str:
    gb = plan.memory_bytes / 1e9
    shown = f"{gb:.1f} GB{'' if ACTIVATIONS in plan.memory else ' +'}"
    return shown if gb <= GPU_SHARE * machine.memory_gb else f"({shown})"


if __name__ == "__main__":
    main()
