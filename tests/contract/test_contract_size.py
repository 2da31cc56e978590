"""How much a new family must say: counted from the classes of `ttstrain/contract`, and held small.

`python tests/contract/test_contract_size.py` prints what each family defines of the contract.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator

import pytest
from typing_extensions import get_protocol_members, is_protocol

from ttstrain import contract, registry
from ttstrain.contract import checkpoint, data, export, family, model, project, proof, table, task
from ttstrain.contract.family import load_reference

MOST_NAMES = 25
BETWEEN_ROOMS = {"listening"}  # modules that no family sees: what training and the judge agree on

REQUIRED = [family.Family, family.TaskSpec, model.Planner, task.Task, data.TaskData, data.Batch, task.Loss]
"""Classes that every family makes one of; of these, what has no default must be defined."""

CAPABILITIES = [
    model.ComparesMemory,
    model.ExtendsVocab,
    model.KeepsFiles,
    model.MixesAuxiliaryData,
    task.AddsTokens,
    task.FusesKernels,
    task.HasBlocks,
    task.LearnsFromStatistics,
    task.NamesVoices,
    task.ScoresTranscripts,
    data.SuppliesAuxiliaryData,
]
"""What a planner, a task or its data may be able to do besides: each with all of its names or not at all."""

OFFERED = [
    checkpoint.UpstreamFormat,
    data.AuxiliaryData,
    data.FrontEnd,
    export.Exporter,
    project.ProjectFormat,
    proof.Proof,
    table.LineFormat,
    table.TableFormat,
]
"""Objects of their own that a family may offer."""

VALUES = [
    # what a family is given, or hands over where it uses an optional part
    checkpoint.Absent,
    checkpoint.AdaptedWeights,
    checkpoint.Interpretation,
    checkpoint.Label,
    checkpoint.OpenedCheckpoint,
    checkpoint.OptimizerGroup,
    checkpoint.SchedulePosition,
    checkpoint.UnknownFile,
    data.Clip,
    data.ClipFinding,
    data.Ready,
    data.Remark,
    data.Review,
    data.Token,
    data.Treatment,
    export.Adapters,
    export.Source,
    export.TrainerState,
    export.Written,
    export.WrittenFile,
    model.MemoryScheme,
    model.ModelConfig,
    model.ParameterCounts,
    model.PeakMoment,
    model.ResolvedRecipe,
    project.Chosen,
    project.ProjectSettings,
    proof.Alignment,
    proof.Change,
    proof.Omitted,
    proof.Twin,
    table.Column,
    table.Layout,
    table.Row,
    table.RowTable,
    table.RowFinding,
    task.Audio,
    task.Mean,
    task.Prompt,
    task.EmbeddingsFirst,
    task.Sample,
]


def required(kind: type) -> list[str]:
    """List the names of a class that have no default: abstract methods and fields."""
    if dataclasses.is_dataclass(kind):
        return [one.name for one in dataclasses.fields(kind) if _has_no_default(one)]
    if is_protocol(kind):
        return sorted(get_protocol_members(kind))
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    declared = [name for name in inspect.get_annotations(kind) if not hasattr(kind, name)]
    return sorted({*abstract, *declared})


def _has_no_default(one: dataclasses.Field[object]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def offered(kind: type) -> list[str]:
    """List all public names of a class that a family may define."""
    if is_protocol(kind):
        return required(kind)
    names = {name for name in {**vars(kind), **inspect.get_annotations(kind)} if not name.startswith("_")}
    return sorted(names | {one.name for one in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else names)


def classes() -> Iterator[type]:
    """Yield every public class of the contract."""
    for module in pkgutil.iter_modules(contract.__path__):
        if module.name in BETWEEN_ROOMS:
            continue
        loaded = importlib.import_module(f"{contract.__name__}.{module.name}")
        for name, kind in vars(loaded).items():
            if inspect.isclass(kind) and kind.__module__ == loaded.__name__ and not name.startswith("_"):
                yield kind


def defined(name: str) -> dict[str, list[str]]:
    """Map each part of the contract to the names of it that a family defines, over all its tasks."""
    found: dict[str, set[str]] = {}
    for spec in registry.load(name).tasks:
        parts = ((model.Planner, spec.planner_class), (task.Task, spec.task_class), (data.TaskData, spec.data_class))
        for base, reference in parts:
            made = load_reference(reference)
            own = {attribute for kind in made.__mro__ if not _of_core(kind) for attribute in vars(kind)}
            annotated = {attribute for kind in made.__mro__ if not _of_core(kind) for attribute in _set_by(kind)}
            for part in (base, *CAPABILITIES):
                names = set(offered(part)) & (own | annotated)
                if part is base or names >= set(offered(part)):
                    found.setdefault(part.__name__, set()).update(names)
    return {part: sorted(names) for part, names in found.items()}


def _of_core(kind: type) -> bool:
    return not kind.__module__.startswith("ttstrain.families.")


def _set_by(kind: type) -> set[str]:
    """Return the attributes that a class's initialisation gives its objects."""
    return set(kind.__init__.__code__.co_names) if "__init__" in vars(kind) else set()


def test_every_class_of_the_contract_is_required_optional_or_a_value() -> None:
    known = Counter([*REQUIRED, *CAPABILITIES, *OFFERED, *VALUES])
    assert [kind.__name__ for kind, times in known.items() if times > 1] == []
    assert {kind.__name__ for kind in classes()} == {kind.__name__ for kind in known}


def test_a_new_family_needs_few_names() -> None:
    names = [f"{kind.__name__}.{name}" for kind in REQUIRED for name in required(kind)]
    assert len(names) <= MOST_NAMES, f"{len(names)} names that every family must define: {', '.join(names)}"
    for name in ("TaskSpec.config", "Task.losses", "Planner.length", "TaskData.fingerprint", "Batch.to", "Loss.value"):
        assert name in names  # or the counting misses a kind of name


def test_names_are_counted_where_they_have_no_default() -> None:
    class Planted(ABC):
        field: int
        given: int = 1

        @abstractmethod
        def method(self) -> None: ...

        def settled(self) -> int:
            return self.field

    @dataclasses.dataclass
    class Record:
        first: int
        second: int = 0
        third: list[int] = dataclasses.field(default_factory=list)

    assert required(Planted) == ["field", "method"]
    assert required(Record) == ["first"]


@pytest.mark.parametrize("kind", [*CAPABILITIES, *OFFERED], ids=lambda kind: kind.__name__)
def test_what_is_optional_is_small(kind: type) -> None:
    assert is_protocol(kind) or inspect.isabstract(kind)
    assert 1 <= len(required(kind)) <= (2 if kind in CAPABILITIES else 9)


def test_no_capability_has_a_name_of_a_part_that_every_family_defines() -> None:
    taken = {name for base in (task.Task, model.Planner, data.TaskData) for name in offered(base)}
    assert [name for kind in CAPABILITIES for name in required(kind) if name in taken] == []


@pytest.mark.parametrize("name", registry.names())
def test_a_real_family_defines_what_a_new_one_must(name: str) -> None:
    found = defined(name)
    for kind in (model.Planner, task.Task, data.TaskData):
        assert set(required(kind)) <= set(found[kind.__name__])


if __name__ == "__main__":
    for one in registry.names():
        counted = defined(one)
        print(one, sum(map(len, counted.values())))
        for part, names in counted.items():
            print(f"  {part} {len(names)}: {', '.join(names)}")
