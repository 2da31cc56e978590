"""`ttstrain average`: the mean of several checkpoints' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ttstrain.cli import paths
from ttstrain.layout import labelled
from ttstrain.shell import quoted


def average(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            parser=paths.checkpoint,
            metavar="CKPT...",
            help="Two checkpoints of one model or more; a run is its last one.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", parser=paths.path, help="Folder to write; must be new.")],
    *,
    weights: Annotated[Literal["raw", "ema"], typer.Option(help="Average the raw or the EMA weights.")] = "raw",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the mean of the weights of several checkpoints, of one run or of several from the same base.

    The result is a checkpoint: sample, eval and export take it, and `finetune --base` starts from it. It holds no
    optimizer state, so it cannot be resumed.
    """
    import torch

    from ttstrain.checkpoint.averaging import average as write

    torch.set_num_threads(1)  # the disk is the limit
    made = write(checkpoints, out, weights="online" if weights == "raw" else "ema")
    if json:
        from json import dumps

        document = {
            "folder": str(made.folder),
            "weights": weights,
            "step": made.step,
            "tensors": made.num_tensors,
            "members": [str(member) for member in made.members],
        }
        print(dumps(document, indent=1, ensure_ascii=False))
        return
    title = "raw" if weights == "raw" else "EMA"
    print("\n".join(labelled("averaged", f"the {title} weights of {len(made.members)} checkpoints")))
    for member in made.members:
        print("\n".join(labelled("", str(member))))
    print("\n".join(labelled("written", f"{made.folder} ({made.num_tensors:,} tensors)")))
    print(f"listen    {quoted('ttstrain', 'sample', made.folder, '--text', 'Good morning.', '-o', 'mean.wav')}")
