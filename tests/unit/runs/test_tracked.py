"""What trackers are told of a run: where it comes from, and each checkpoint once it is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttstrain.checkpoint.meta import Meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.runs.origin import Origin
from ttstrain.runs.tracked import _former
from ttstrain.tracking.tracker import Former
from ttstrain.train.distributed import Ranks
from ttstrain.train.requests import tell_saved


@pytest.mark.parametrize(("named", "run_id"), [({"run_id": "0b1c"}, "0b1c"), ({}, None)])
def test_a_run_that_continues_from_another_names_it(tmp_path: Path, named: dict[str, str], run_id: str | None) -> None:
    old = tmp_path / "old voice"
    old.mkdir()
    (old / "env.json").write_text(json.dumps(named), encoding="utf-8")
    origin = Origin(old / "checkpoints" / "step-00000400", old, 400)
    new: Any = SimpleNamespace(folder=tmp_path / "old voice-reset")
    assert _former(new, origin) == Former("old voice", run_id, 400)
    resumed: Any = SimpleNamespace(folder=old)
    assert _former(resumed, origin) is None
    assert _former(new, None) is None


def test_trackers_hear_of_each_checkpoint_once_it_is_on_disk(tmp_path: Path) -> None:
    heard: list[Any] = []

    def checkpoint(step: int, folder: Path, *, best: bool) -> None:
        assert (folder / "meta.json").is_file()
        heard.append((step, folder, best))

    store = CheckpointStore(tmp_path, keep_last=2, background=True)
    trackers = SimpleNamespace(note=heard.append, checkpoint=checkpoint)
    run: Any = SimpleNamespace(store=store, trackers=trackers, ranks=Ranks())
    meta = Meta(family="flow", task="flow", model={}, recipe="toy", step=3)
    store.save(3, {"task": {"w": torch.zeros(2)}}, meta, best=True)
    store.wait()
    for _ in range(2):
        tell_saved(run)
    assert heard == ["checkpoint step-00000003 (best so far)", (3, store.folder(3), True)]
