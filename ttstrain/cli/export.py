"""`ttstrain export`: files that upstream's tools load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.layout import labelled
from ttstrain.terminal import on_one_line
from ttstrain.weights import WeightsChoice

if TYPE_CHECKING:
    from ttstrain.contract.export import Source
    from ttstrain.export.write import Exported

Blend = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Export base + SHARE x (fine-tuned - base): 0 is the base, 1 the fine-tune; at most 1.5.",
    ),
]
BlendBase = Annotated[
    list[str] | None,
    typer.Option(
        "--base", parser=paths.name, metavar="CKPT", help="The base to blend with; default: the one RUN started from."
    ),
]


def export(
    run: Annotated[
        Path,
        typer.Argument(
            parser=paths.checkpoint,
            metavar="RUN|CKPT",
            help="A run's folder, a checkpoint, an upstream file or package:NAME.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", parser=paths.path, help="Folder to write; new or empty.")],
    *,
    weights: Annotated[
        WeightsChoice, typer.Option(help="Raw or EMA weights; `auto`: those with the lower held-out loss.")
    ] = "auto",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What to write, such as `inference` or `training`; may be given several times.",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Measure raw, EMA and blended weights on the held-out clips; export the best."),
    ] = False,
    blend: Blend = None,
    base: BlendBase = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe with the model settings of an upstream file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write RUN's weights as files that upstream's tools load, with vocab, settings and a README.

    Of a run, its best checkpoint is exported. Before the folder gets its name, the files are read back and compared
    with the checkpoint, tensor by tensor and by a forward pass.
    """
    from ttstrain.checkpoint.reading import retried
    from ttstrain.contract.export import TRAINING
    from ttstrain.export.choose import gather, task_of
    from ttstrain.export.write import check_request
    from ttstrain.export.write import export as write

    def whole() -> tuple[Source, Exported]:
        wanted = check_request(task_of(run, recipe=recipe), out, formats or [], blend=blend)
        training = TRAINING in wanted
        source = gather(
            run, weights=weights, recipe=recipe, compare=compare, training=training, blend=blend, base=base or []
        )
        return source, write(source, out, formats=wanted)

    source, exported = retried(run, whole, prefer="best")  # `whole` also writes: writing reads files of the checkpoint
    if json:
        print_json(source, exported)
    else:
        print_result(source, exported)


def print_result(source: Source, exported: Exported) -> None:
    """Print for people what was written, from which weights, and how to use it."""
    _print_entry("exported", f"{exported.folder} ({exported.num_bytes / 1e6:,.1f} MB)")
    _print_entry("files", ", ".join(exported.files))
    _print_entry("from", f"{source.name}, step {source.step:,} ({source.checkpoint.name})")
    _print_entry("weights", f"{source.chosen}: {'; '.join(source.reasons)}")
    for warning in source.warnings:
        print(on_one_line(warning), file=sys.stderr)
    computes = ""
    if exported.difference is not None:
        same = "the same" if exported.difference == 0 else f"within {exported.difference:.1g}"
        computes = f"; a fresh model computes {same}"
    _print_entry("checked", f"{exported.num_tensors:,} tensors read back equal{computes}")
    for line in exported.proven:
        _print_entry("checked", line)
    for note in exported.notes:
        _print_entry("note", note)
    for line in exported.use:  # not wrapped, so that a command can be copied
        print(f"use       {on_one_line(line)}")


def _print_entry(label: str, text: str) -> None:
    print("\n".join(labelled(label, text)))


def print_json(source: Source, exported: Exported) -> None:
    """Print for scripts."""
    from json import dumps

    document = {
        "folder": str(exported.folder),
        "files": list(exported.files),
        "bytes": exported.num_bytes,
        "checkpoint": str(source.checkpoint),
        "run": source.name,
        "step": source.step,
        "weights": source.chosen,
        "blend": source.blend,
        "reasons": list(source.reasons),
        "warnings": list(source.warnings),
        "losses": dict(source.losses),
        "checked": {"tensors": exported.num_tensors, "difference": exported.difference, "tools": list(exported.proven)},
        "notes": list(exported.notes),
        "use": list(exported.use),
    }
    print(dumps(document, indent=1, ensure_ascii=False))
