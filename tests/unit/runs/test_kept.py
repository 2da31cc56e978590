"""What a resume keeps of what the run's last start chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttstrain.checkpoint import run_folder
from ttstrain.recipe.compose import compose_run
from ttstrain.runs.kept import kept_shard

RECIPE = "task: flow\ntrain: {parallel: {shard: auto}}\n"
PLAN = {"world_size": 4, "sharding": {"degree": 2, "why": "it fits", "fits": True}}


@pytest.mark.parametrize(
    ("overrides", "world_size", "expected"),
    [
        ([], 4, 2),
        (["train.parallel.shard=auto"], 4, None),
        (["train.parallel={shard: auto}"], 4, None),
        (["optim.lr=1e-5"], 4, 2),
        ([], 2, None),
    ],
)
def test_shards_are_kept_unless_asked_for_anew(
    overrides: list[str], world_size: int, expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / run_folder.RECIPE).write_text(RECIPE, encoding="utf-8")
    (tmp_path / run_folder.PLAN).write_text(json.dumps(PLAN), encoding="utf-8")
    composed = compose_run(tmp_path, overrides, origins={"train.parallel.shard": "command line"})
    assert kept_shard(composed, tmp_path, world_size=world_size) == expected


def test_what_begins_without_a_run_chooses(tmp_path: Path) -> None:
    (tmp_path / run_folder.RECIPE).write_text(RECIPE, encoding="utf-8")
    assert kept_shard(compose_run(tmp_path, [], origins={}), None, world_size=4) is None
