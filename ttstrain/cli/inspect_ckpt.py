"""`ttstrain inspect-ckpt`: what a checkpoint is, and whether it is healthy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttstrain import terminal
from ttstrain.cli import paths
from ttstrain.layout import LABEL, WIDTH, labelled

if TYPE_CHECKING:
    from rich.console import Console

    from ttstrain.checkpoint.inspect import Difference, Inspection, TensorReport
    from ttstrain.checkpoint.moved import ModuleChange

_SHOWN = 5  # names of a long list
_PARTS = 8  # modules listed
_VERDICTS = {
    "safe": "safe: all of them only build data",
    "unknown": "UNKNOWN: do not load it elsewhere",
    "unsafe": "UNSAFE: never load it elsewhere",
}
_LONG = 40  # characters of a module's name
_EIGHTHS = "▏▎▍▌▋▊▉█"


def inspect_ckpt(
    path: Annotated[
        Path,
        typer.Argument(
            parser=paths.checkpoint,
            help="A checkpoint file of any trainer, a checkpoint folder, a run or package:NAME.",
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(parser=paths.checkpoint, help="Compare the weights with this checkpoint's.")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    tensors: Annotated[
        str | None, typer.Option(metavar="GLOB", help="List tensors by a pattern, such as `*.bias`, with statistics.")
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Compare the loss on recordings for every interpretation of the file."),
    ] = None,
    vocab: Annotated[
        Path | None,
        typer.Option(
            parser=paths.path, metavar="FILE", help="For `--probe`: the checkpoint's vocabulary, if elsewhere."
        ),
    ] = None,
) -> None:
    """Show what PATH is: model, step, LR of each parameter group, EMA, damage. No code in it is executed.

    Some models have the same tensor shapes but compute differently; `--probe DATA` tells them apart by their losses.
    """
    import torch

    from ttstrain.checkpoint.inspect import diff, inspect, list_tensors

    if vocab is not None and probe is None:
        raise typer.BadParameter("`--vocab` needs `--probe`")
    if probe is not None and (other is not None or tensors is not None):
        raise typer.BadParameter("`--probe` takes one checkpoint and no `--tensors`")
    if probe is not None:
        from ttstrain.cli.probe import run_probe

        run_probe(path, probe, vocab=vocab, json=json)
        return
    torch.set_num_threads(1)  # the disk is the limit: more threads would only take CPU time from other processes
    if other is not None and tensors is not None:
        raise typer.BadParameter("give a second checkpoint or `--tensors`, not both")
    console = terminal.console(soft_wrap=False)
    if not console.is_terminal:
        console.width = WIDTH  # width of output that goes to a file
    if other is not None:
        difference = diff(path, other)
        print_json(difference.to_json()) if json else print_difference(difference, console)
    elif tensors is not None:
        listed = list_tensors(path, tensors)
        print_json([tensor.to_json() for tensor in listed]) if json else print_tensors(listed, console)
    else:
        inspection = inspect(path)
        print_json(inspection.to_json()) if json else print_inspection(inspection, console)


def print_json(document: Any) -> None:
    """Print for scripts."""
    from json import dumps

    print(dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


# ---------------------------------------------------------------- one checkpoint


def print_inspection(found: Inspection, console: Console) -> None:
    """Print for people: the identity first, anomalies last."""
    console.print(terminal.on_one_line(str(found.path)), style="bold", overflow="fold", markup=False)
    lines = list(_lines(found))
    for name, text in lines:
        _print_entry(name, text, console)
    if found.groups:
        console.print()
        console.print(_group_table(found))
    if found.notes:
        console.print()
    for note in found.notes:
        _print_entry("- ", note, console, column=2, style="bold red" if note.startswith("UNSAFE") else None)


def _print_entry(label: str, text: str, console: Console, *, column: int = LABEL, style: str | None = None) -> None:
    for line in labelled(label, text, column=column, width=max(console.width, column + 20), break_words=True):
        console.print(line, style=style, markup=False, soft_wrap=True)


def _lines(found: Inspection) -> Iterable[tuple[str, str]]:
    yield "kind", found.kind if found.family is None else f"{found.kind}, family {found.family}"
    if found.model is not None:
        yield "model", f"{found.model} ({found.version})"
    if found.step is not None:
        yield "step", f"{found.step:,}"
    dtypes = ", ".join(
        f"{dtype} x {count:,}" if len(found.dtypes) > 1 else dtype for dtype, count in found.dtypes.items()
    )
    tensors = "1 tensor" if found.tensors == 1 else f"{found.tensors:,} tensors"
    yield "weights", f"{found.parameters:,} parameters in {tensors}, {dtypes or 'none'}"
    if found.modules:
        yield "", _modules(found)
    if found.ema.present:
        yield "EMA", _average(found)
    if found.schedule is not None:
        lr = "unknown" if found.schedule.lr_next is None else f"{found.schedule.lr_next:.3g}"
        place = f"{'ended, ' if found.schedule.ended else ''}at {found.schedule.position:,}"
        yield "schedule", f"{place}: next LR {lr}"
    if found.damaged:
        yield "DAMAGED", f"{_names(found.damaged)}: differs from what was written"
    yield "numbers", "all finite" if not found.nonfinite else f"NOT FINITE in {_names(found.nonfinite)}"
    if found.zero:
        yield "all zero", _names(found.zero)
    if found.pickle_verdict is not None:
        yield "pickle", f"{len(found.pickle_globals)} names, {_VERDICTS[found.pickle_verdict]}"


def _average(found: Inspection) -> str:
    step = "" if found.ema.step is None else f"of step {found.ema.step:,}, "
    if found.ema.distance is not None:
        return f"{step}{found.ema.distance:.2%} away from the raw weights"
    return f"{step}there are no raw weights" if found.kind == "base" else f"{step}distance to raw unknown"


def _modules(found: Inspection) -> str:
    ordered = sorted(found.modules, key=lambda module: -module.parameters)
    total = max(found.parameters, 1)
    shown = [
        f"{terminal.on_one_line(module.name[:_LONG])} {module.parameters / total:.1%}" for module in ordered[:_PARTS]
    ]
    more = [f"{len(ordered) - _PARTS} more"] if len(ordered) > _PARTS else []
    return ", ".join(shown + more)


def _group_table(found: Inspection) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("group", overflow="fold")
    for title in ("next LR", "weight decay", "parameters"):
        table.add_column(title, justify="right")
    for group in found.groups:
        table.add_row(Text(group.name), f"{group.lr:.3g}", f"{group.weight_decay:g}", f"{group.parameters:,}")
    return table


# ---------------------------------------------------------------- tensors, two checkpoints


def print_tensors(listed: Sequence[TensorReport], console: Console) -> None:
    """Print each tensor's shape and numbers, one a line."""
    rows = [_TITLES, *map(_cells, listed)]
    widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(len(_TITLES))]
    for number, (name, *cells) in enumerate(rows):
        figures = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        console.print(f"{name:<{widths[0]}}  {figures}", style="bold" if not number else None, **_PLAIN)


_TITLES = ("tensor", "dtype", "shape", "min", "max", "rms")
_WIDEST = 60  # characters of a column; a longer name moves the rest of its line
_PLAIN: Any = {"markup": False, "soft_wrap": True, "highlight": False}


def _cells(tensor: TensorReport) -> tuple[str, ...]:
    numbers = ["-" if value is None else f"{value:.4g}" for value in (tensor.low, tensor.high, tensor.rms)]
    return (terminal.on_one_line(tensor.name), tensor.dtype, "x".join(map(str, tensor.shape)) or "scalar", *numbers)


def print_difference(found: Difference, console: Console) -> None:
    """Print the differences of two checkpoints, the tensors that changed most first."""
    for name, path in (("a", found.a), ("b", found.b)):
        console.print(f"{name}  {terminal.on_one_line(str(path))}", style="bold", overflow="fold", markup=False)
    distance = "no number" if found.distance is None else f"{found.distance:.3%}"
    console.print(f"{found.equal:,} tensors equal, {len(found.changed):,} changed; distance over all {distance}")
    for title, names in (("only in a", found.only_a), ("only in b", found.only_b), ("other shape", found.reshaped)):
        if names:
            console.print(f"{title}: {_names(names)}", markup=False)
    if found.changed:
        print_moved(found.modules, console)
    for change in found.changed[: 2 * _SHOWN]:
        moved = "no number" if change.distance is None else f"{change.distance:9.3%}"
        console.print(f"{moved:>9}  {change.name}", markup=False, overflow="fold")
    if len(found.changed) > 2 * _SHOWN:
        console.print(f"           and {len(found.changed) - 2 * _SHOWN:,} more that changed less")


def print_moved(modules: Sequence[ModuleChange], console: Console) -> None:
    """Draw how far each module moved, ||b - a|| / ||a||, as bars of which the longest stands for the largest."""
    width = max(console.width, _LONG + 20)
    names = [_shortened(terminal.on_one_line(module.name), _LONG) for module in modules]
    column = max(len("module"), *map(len, names))
    room = width - column - len("  100.000%  ")
    largest = max((module.distance or 0.0 for module in modules), default=0.0)
    console.print(f"\n{'module':{column}}  {'moved':>8}", style="bold", **_PLAIN)
    for name, module in zip(names, modules, strict=True):
        moved = "no number" if module.distance is None else f"{module.distance:8.3%}"
        console.print(f"{name:{column}}  {moved:>8}  {_bar(module.distance, largest, room)}".rstrip(), **_PLAIN)
    console.print("\ntensors that moved most", style="bold", **_PLAIN)


def _bar(distance: float | None, largest: float, room: int) -> str:
    """Draw a bar in eighths of a character; one that moved at all shows something."""
    if not distance or not largest:
        return ""
    eighths = max(1, round(8 * room * distance / largest))
    return _EIGHTHS[-1] * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,}: {', '.join(map(terminal.on_one_line, names[:_SHOWN]))}{more}"
