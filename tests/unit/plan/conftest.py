"""Plans made from hand-written facts about data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.plan.sharding import Room
from ttstrain.recipe.compose import compose

TINY = "task: flow\nextends: [models/f5_tiny]\n"

FACTS = DataFacts(
    num_clips=100,
    hours=0.5,
    num_holdout=5,
    skipped={"too_short": 2},
    fixed={"clipped": 1},
    frames=tuple(range(100, 300, 2)),
    batches_per_epoch=20,
    padding_share=0.05,
)


@pytest.fixture
def facts() -> DataFacts:
    return FACTS


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(
        *overrides: str,
        recipe: str = "",
        head: str = TINY,
        world_size: int = 1,
        gpu_memory: int | None = None,
        kept_shard: int | None = None,
        **changed: Any,
    ) -> Plan:
        path = tmp_path / "r.yaml"
        path.write_text(head + recipe, encoding="utf-8")
        composed = compose(path, overrides)
        return resolve(
            parse(composed),
            origins=composed.origins,
            facts=dataclasses.replace(FACTS, **changed),
            world_size=world_size,
            source_name=composed.name,
            room=Room(gpu_memory, kept_shard),
        )

    return make
