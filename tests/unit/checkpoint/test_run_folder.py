"""What describes a run may be damaged: a resume says so, and works the rest out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttstrain.checkpoint import run_folder
from ttstrain.errors import CheckpointError

PLAN = {"name": "voice", "origins": {"optim.lr": "recipe"}, "steps": 10, "steps_per_epoch": 2.5, "save_every": 5}
ENVIRONMENT = {"run_id": "0a1b2c3d", "directory": "/"}


def described(place: Path, plan: object = PLAN, environment: object = ENVIRONMENT) -> Path:
    place.mkdir()
    for name, content in ((run_folder.PLAN, plan), (run_folder.ENVIRONMENT, environment)):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (place / name).write_bytes(data)
    return place


def test_a_sound_description_is_read(tmp_path: Path) -> None:
    run = described(tmp_path / "a")
    assert run_folder.damage(run) == []
    assert run_folder.name(run) == "voice"
    assert run_folder.origins(run) == {"optim.lr": "recipe"}
    assert run_folder.identity(run) == "0a1b2c3d"
    assert run_folder.directory(run) == Path("/")
    assert run_folder.read_plan(run)["steps_per_epoch"] == 2.5


DAMAGED = [b"", b"\xff\xfe{", b'{"name": "caf\xc3', b"[]", b"null", b"{}", b"[" * 5000, b'{"name": 1, "run_id": []}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_one_is_told_and_worked_out_again(content: bytes, tmp_path: Path) -> None:
    run = described(tmp_path / "a", plan=content, environment=content)
    plan, environment = run_folder.damage(run)
    assert plan.startswith(f"WARNING: `{run / run_folder.PLAN}` cannot be read: ")
    assert environment.startswith(f"WARNING: `{run / run_folder.ENVIRONMENT}` cannot be read: ")
    assert run_folder.name(run) == "a"
    assert run_folder.origins(run) == {}
    assert run_folder.identity(run) is None
    assert run_folder.directory(run) is None
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        run_folder.read_plan(run)
    assert caught.value.hint == "`ttstrain resume` writes a new one"


@pytest.mark.parametrize("directory", ["\0", "x" * 300, "/" + "y" * 5000, "relative", ["/"]])
def test_a_directory_that_cannot_be_one_is_none(directory: object, tmp_path: Path) -> None:
    assert run_folder.directory(described(tmp_path / "a", environment={"run_id": "1", "directory": directory})) is None


CHOSEN = {"degree": 2, "why": "it fits", "fits": True}


@pytest.mark.parametrize(
    ("plan", "world_size", "expected"),
    [
        ({"world_size": 4, "sharding": CHOSEN}, 4, 2),
        ({"world_size": 4, "sharding": {**CHOSEN, "fits": False}}, 4, 2),
        ({"world_size": 4, "sharding": CHOSEN}, 8, None),  # chosen anew
        ({"world_size": 4, "sharding": {**CHOSEN, "fits": None}}, 4, None),  # on a CPU, or set by the recipe
        ({"world_size": 4}, 4, None),  # of an earlier release
        ({"world_size": 4, "sharding": {**CHOSEN, "degree": 3}}, 4, None),
        ({"world_size": 4, "sharding": {**CHOSEN, "degree": 0}}, 4, None),
        ({"world_size": 4, "sharding": {**CHOSEN, "degree": [2]}}, 4, None),
        ({"world_size": 4, "sharding": {**CHOSEN, "degree": 2.5}}, 4, None),
        ({"world_size": 4, "sharding": "2"}, 4, None),
    ],
)
def test_shards_chosen_for_as_many_processes_are_read(
    plan: dict[str, object], world_size: int, expected: int | None, tmp_path: Path
) -> None:
    assert run_folder.shard(described(tmp_path / "a", plan={**PLAN, **plan}), world_size) == expected
