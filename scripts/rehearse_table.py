"""Print, as a table of Markdown, the memory of every task's step: by the plan's formula, and counted in a rehearsal.

    python scripts/rehearse_table.py [bf16 fp16 fp32] [--only Orpheus]

The nets have their real size, the clips are those of the demo data that ship, and the GPU is pretended: neither one nor
its driver is needed, only a torch that was built for CUDA. Takes minutes. What a GPU needs besides, 1 to 2 GB, is not
in the table: CUDA itself, workspaces, and gaps between tensors.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from ttstrain.plan.facts import gather_facts
from ttstrain.plan.plan import Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, with_flags
from ttstrain.rehearsal.clips import heaviest_clips
from ttstrain.rehearsal.shown import largest
from ttstrain.rehearsal.step import Format, rehearsing

TOY = "model.rows.tokenizer=package:toy"  # in the place of a file behind terms of use; memory stays the same
TASKS: Mapping[str, tuple[str, Sequence[str]]] = {  # name -> recipe and what is changed of it
    "F5 v1 Base": ("f5_v1_new_voice", ()),
    "F5 v1 Base, adapters": ("f5_lora", ()),
    "E2 Base": ("f5_v1_new_voice", ("extends=[models/e2_base, hardware/single_gpu_24gb]",)),
    "GPT": ("gpt_sovits_gpt", ()),
    "VAE v2": ("gpt_sovits_vae", ()),
    "VAE v2Pro": ("gpt_sovits_vae", ("extends=[models/gpt_sovits_vae_v2pro, hardware/single_gpu_8gb]",)),
    "GPT and VAE v2Pro": ("gpt_sovits_new_voice", ()),
    "Orpheus 3B": ("orpheus_new_voice_full", (TOY,)),
    "Orpheus 3B, adapters": ("orpheus_new_voice_lora", (TOY,)),
    "Orpheus 3B, nothing computed again": ("orpheus_new_language", (TOY,)),
}


def main() -> None:
    formats: tuple[Format, ...] = get_args(Format)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("formats", nargs="*", help=f"of {', '.join(formats)}; default: all")
    parser.add_argument("--only", default="", help="nets whose name holds this")
    arguments = parser.parse_args()
    wanted = arguments.formats
    if unknown := set(wanted) - set(formats):
        parser.error(f"no number format: {', '.join(sorted(unknown))}")
    chosen = [one for one in formats if not wanted or one in wanted]
    print("| net | precision | clips | frames or tokens | by formula | counted | off by |")
    print("|---" * 7 + "|")
    for name, (recipe, overrides) in ((name, task) for name, task in TASKS.items() if arguments.only in name):
        plans = {one: _plan(recipe, [*overrides, f"train.precision={one}"]) for one in chosen}
        with rehearsing(plans[chosen[0]]) as take:
            for precision, plan in plans.items():
                most = largest([take(clips, precision) for clips in heaviest_clips(plan.recipe)])
                off = 100 * (plan.memory_bytes / most.peak - 1)
                sizes = f"{plan.memory_bytes / 1e9:.2f} GB | {most.peak / 1e9:.2f} GB | {off:+.1f} %"
                print(f"| {name} | {precision} | {most.clips} | {most.units:,} | {sizes} |", flush=True)


def _plan(name: str, overrides: Sequence[str]) -> Plan:
    composed = with_flags(compose(name, ["sample.every=null", *overrides]), data=Path("package:demo"))
    recipe = parse(composed)
    return resolve(recipe, origins=composed.origins, facts=gather_facts(recipe), source_name=composed.name)


if __name__ == "__main__":
    main()
