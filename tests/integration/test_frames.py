"""From the command to the net in few steps: what a reader has to go through, and a traceback shows."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from small_runs import write_clips, write_recipe

import ttstrain
from ttstrain.cli import main as command_line
from ttstrain.families.flow.model.dit import DiT

MOST = 9
PACKAGE = Path(ttstrain.__file__).parent


def test_few_frames_of_ours_lie_between_the_command_and_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[list[str]] = []
    forward = DiT.forward

    def noted(self: DiT, *arguments: Any, **options: Any) -> Any:
        if self.training:
            ours = [frame for frame in traceback.extract_stack() if PACKAGE in Path(frame.filename).parents]
            stacks.append([f"{Path(frame.filename).relative_to(PACKAGE)}: {frame.name}" for frame in ours])
        return forward(self, *arguments, **options)

    monkeypatch.setattr(DiT, "forward", noted)
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech", count=3))
    changes = ["train.steps=3", "data.holdout=0", "eval.every=null", f"run_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["ttstrain", "finetune", str(recipe), *changes])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code in (None, 0)
    way = [*stacks[0], "families/flow/model/dit.py: forward"]
    assert way[0] == "cli/main.py: main"
    assert len(way) <= MOST, "\n".join(way)
