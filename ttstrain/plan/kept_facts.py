"""The facts of a large data set, kept between plans.

They are found again by everything they depend on: the table, the recipe's data and model, the measurements of earlier
audits, and this installation's code. They hold as long as no recording and no folder of recordings has changed.
Damaged or outdated ones are gathered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttstrain import documents, registry
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.digest import running, sha256
from ttstrain.errors import DataError
from ttstrain.plan.plan import DataFacts

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip

MANY = 10_000  # clips; the facts of fewer are gathered in seconds
NEWEST = 8  # files that are kept
PACKAGE = Path(__file__).resolve().parents[1]


def find(recipe: ResolvedRecipe) -> DataFacts | None:
    """Return the kept facts of a recipe's data; None where there are none, or something has changed."""
    path = _path(recipe)
    if path is None or not path.is_file():
        return None
    try:
        text = documents.read_text(path, error=DataError, most_bytes=documents.MAX_TABLE)
        checksum, _, content = text.partition("\n")
        if checksum != sha256(content):
            return None
        values = documents.parse(content, numbers="any")
        if values["sum"] != _sum_of(values["folders"], values["recordings"]):
            return None
        return _facts(values["facts"])
    except (DataError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep(recipe: ResolvedRecipe, facts: DataFacts, clips: Sequence[Clip], folders: Sequence[str] = ()) -> None:
    """Keep the facts of a large data set, whose recordings lie in these `folders`; without any, they are looked for.

    A folder that cannot be written to is no fault.
    """
    from ttstrain.data.in_columns import column

    path = _path(recipe) if len(clips) >= MANY else None
    if path is None:
        return
    digests = column(clips, "digest")
    paths = [str(path) for path in column(clips, "path")] if any(digests) or not folders else []
    folders = folders or [one[:-1] or one for one in dict.fromkeys([p[: p.rfind(os.sep) + 1] for p in paths])]
    opened = [path for path, digest in zip(paths, digests, strict=True) if digest] if any(digests) else []
    values = {"sum": _sum_of(folders, opened), "folders": folders, "recordings": opened, "facts": _values(facts)}
    content = json.dumps(values)
    with suppress(OSError):
        from ttstrain.data import atomic

        atomic.write_text(path, f"{sha256(content)}\n{content}")
        for old in sorted(path.parent.glob("*.json"), key=_changed, reverse=True)[NEWEST:]:
            old.unlink()


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _path(recipe: ResolvedRecipe) -> Path | None:
    """Return where the facts of a recipe are kept; None where they may depend on more than can be told."""
    from ttstrain.data.audit import measurements_file
    from ttstrain.data.location import cache_root
    from ttstrain.data.readers import tables_of

    data = recipe.data
    front_end = registry.planner_of(recipe).front_end()
    depends: list[Any] = [_code(), recipe.task, recipe.train.seed, str(Path.cwd())]
    depends += [None if front_end is None else dict(front_end.versions)]
    depends += [json.dumps(part.model_dump(mode="json"), sort_keys=True) for part in (data, recipe.model)]
    depends += [[stage.model_dump(mode="json") for stage in recipe.stages]]
    sets = [(data.path, data.format), *([(data.replay.path, data.replay.format)] if data.replay is not None else [])]
    for named, form in sets:
        tables = [] if named is None else tables_of(named, form)
        if not tables:
            return None
        depends += [_identity(path) for path in tables]
        depends += [_identity(measurements_file(data, folder)) for folder in {path.parent for path in tables}]
    name = sha256(json.dumps(depends, sort_keys=True))
    return cache_root(data.cache_dir) / "plans" / f"{name[:32]}.json"


def _identity(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:
        return [str(path.absolute()), None]
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


@cache
def _code() -> str:
    """Hash the sizes and times of this installation's modules: any of them may change what is found."""
    files = sorted(PACKAGE.rglob("*.py"))
    return sha256(json.dumps([_identity(path) for path in files]))


def _sum_of(folders: Iterable[str], recordings: Iterable[str]) -> str:
    """Hash the times of folders, and the sizes and times of recordings."""
    total = running()
    for folder in folders:
        total.update(f"{folder} {_time_of(folder)}\n".encode("utf-8", "surrogatepass"))
    for recording in recordings:
        try:
            status = os.stat(recording)  # noqa: PTH116  a million paths would take as long again to make
        except OSError:
            total.update(b"gone\n")
        else:
            total.update(b"%d %d %d\n" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return total.hexdigest()


def _time_of(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def _values(facts: DataFacts) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(DataFacts).dump_python(facts)
    if facts.texts is not None:  # keys that are pairs
        values["texts"]["split"] = [[*pair, count] for pair, count in facts.texts.split.items()]
    return values


def _facts(values: dict[str, Any]) -> DataFacts:
    from pydantic import TypeAdapter

    if values["texts"] is not None:
        values["texts"]["split"] = {(word, read): count for word, read, count in values["texts"]["split"]}
    found: DataFacts = TypeAdapter(DataFacts).validate_python(values)
    return found
