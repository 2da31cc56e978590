"""`ttstrain prepare`: check the data, and compute what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from ttstrain.config.recipe import Recipe
    from ttstrain.data.audit import AuditResult
    from ttstrain.data.cache import BuildReport


def prepare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Recordings: a folder, their table, or `package:demo`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Other values for keys of the recipe.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to prepare for: a shipped name or a YAML file.")] = "",
    out: Annotated[Optional[Path], typer.Option("-o", "--out", help="Folder for the lists of clips.")] = None,  # noqa: UP045
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check every recording in DATA, say what was repaired and left out, and cache the features RECIPE trains on.

    `finetune` does the same when it has to. Writes manifest.jsonl (the clips) and quarantine.jsonl (what was left out
    or repaired, and why); the recordings are never changed. Without a recipe the data are only checked.
    """
    from ttstrain.cli.progress import show_progress
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.data.summary import summary

    wanted = _recipe(recipe, data, overrides or [])
    config = wanted.data if wanted is not None else _data_config(data, overrides or [])
    with show_progress("checking recordings") as progress:
        result = audit(read_rows(str(data), config.format, cache_dir=config.cache_dir), config, progress)
    lists = _write_lists(result, out, config.cache_dir)
    if not json:
        print(summary(result))
        print(f"lists     {lists}")
    report = None if wanted is None else _build(wanted, result)
    if json:
        _print_json(result, report, lists)
    elif report is not None:
        print(_features_line(report))


def _recipe(name: str, data: Path, overrides: list[str]) -> Recipe | None:
    from ttstrain.config.compose import compose, with_flags
    from ttstrain.config.resolve import parse

    return parse(with_flags(compose(name, overrides), data=data)) if name else None


def _data_config(data: Path, overrides: list[str]) -> Any:
    from ttstrain.config.recipe import DataConfig
    from ttstrain.errors import RecipeError

    if overrides:
        raise RecipeError("`KEY=VALUE` changes a recipe, and none is given", hint="add `--recipe RECIPE`")
    return DataConfig(path=str(data))


def _write_lists(result: AuditResult, out: Path | None, cache_dir: str | None) -> Path:
    from hashlib import sha256

    from ttstrain.data.audit import write_quarantine
    from ttstrain.data.location import cache_root
    from ttstrain.data.manifest import write_manifest

    if out is None:
        name = sha256(str(result.root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        out = cache_root(cache_dir) / "prepared" / name
    write_manifest(out / "manifest.jsonl", result.clips)
    write_quarantine(result, out / "quarantine.jsonl")
    return out


def _build(recipe: Recipe, result: AuditResult) -> BuildReport:
    from ttstrain import families
    from ttstrain.cli.progress import show_progress
    from ttstrain.data.cache import FeatureCache
    from ttstrain.data.location import cache_root

    spec = families.find_task(recipe.task)
    data_class: Any = spec.load_data()
    task_data = data_class(spec.config.model_validate(recipe.model))
    cache = FeatureCache(cache_root(recipe.data.cache_dir) / "features", task_data, place="disk")
    with show_progress("computing features") as progress:
        return cache.build(result.clips, progress=progress)


def _features_line(report: BuildReport) -> str:
    from ttstrain.data.readers import printable

    lines = [
        f"features  {report.computed} computed, {report.reused} already there, {report.num_bytes / 1e6:.1f} MB",
        *(f"  without features: {printable(name)}: {printable(why, limit=200)}" for name, why in report.failed.items()),
    ]
    return "\n".join(lines)


def _print_json(result: AuditResult, report: BuildReport | None, lists: Path) -> None:
    import json

    from ttstrain.data.audit import as_json

    document = {
        "path": str(result.root),
        "format": result.format,
        "rows": result.num_rows,
        "clips": len(result.clips),
        "hours": result.hours,
        "skipped": result.skipped,
        "fixed": result.fixed,
        "noted": result.count("accept"),
        "findings": [as_json(verdict) for verdict in result.verdicts],
        "features": None
        if report is None
        else {
            "computed": report.computed,
            "reused": report.reused,
            "failed": dict(report.failed),
            "bytes": report.num_bytes,
        },
        "manifest": str(lists / "manifest.jsonl"),
        "quarantine": str(lists / "quarantine.jsonl"),
    }
    print(json.dumps(document, indent=1))
