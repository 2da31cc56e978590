"""Finding a base, and opening our own checkpoints as one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ttstrain.checkpoint import pointers, store
from ttstrain.checkpoint.lock import hold
from ttstrain.checkpoint.meta import EmaMeta, GroupMeta, Meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.checkpoint.upstream import follow, open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import SchedulePosition
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.tensors.loading import load_weights


def make_run(folder: Path, *, best: int = 1) -> CheckpointStore:
    checkpoints = CheckpointStore(folder, keep_last=5, background=False)
    for step in (1, 2):
        module = nn.Linear(2, 2)
        average = {name: value + 1 for name, value in module.state_dict().items()}
        meta = Meta(
            family="flow",
            task="flow",
            model=FlowConfig().model_dump(mode="json"),
            recipe="toy",
            step=step,
            groups=(GroupMeta(optimizer="model", name="default", lr=1e-5, weight_decay=0.01, parameters=6),),
            schedule=SchedulePosition(position=step, total=4, ended=False, lr_next=1e-5),
            ema=EmaMeta(present=True, step=step, decay=0.9),
        )
        moments = {"model": {"weight": {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 2)}, "bias": {}}}
        state = {"task": module.state_dict(), "ema": {"weights": average}, "optimizers": moments}
        checkpoints.save(step, state, meta, best=step == best)
    return checkpoints


def test_a_run_stands_for_its_last_checkpoint_and_as_a_base_for_its_best(tmp_path: Path) -> None:
    checkpoints = make_run(tmp_path / "run")
    assert follow(tmp_path / "run") == follow(tmp_path / "run" / "checkpoints") == checkpoints.folder(2)
    assert follow(tmp_path / "run" / "checkpoints" / "best") == checkpoints.folder(1)
    assert follow(checkpoints.folder(1)) == checkpoints.folder(1)
    assert resolve_base(str(tmp_path / "run")) == checkpoints.folder(1)
    assert resolve_base(str(tmp_path / "run" / "checkpoints" / "last")) == checkpoints.folder(2)
    (checkpoints.root / "best").unlink()
    assert resolve_base(str(tmp_path / "run")) == checkpoints.folder(2)


def test_a_death_between_two_renames_of_a_save_is_mended_before_anything_reads(tmp_path: Path) -> None:
    checkpoints = make_run(tmp_path / "run")
    last = checkpoints.folder(2)
    for path in (tmp_path / "run", checkpoints.root, checkpoints.root / "last", last):
        last.rename(checkpoints.root / f".{last.name}.old")
        with hold(tmp_path / "run"):  # the writer is alive, and in the middle of it
            pointers.mend(path)
            assert not last.exists()
        assert follow(path) == last
        assert pointers.is_checkpoint(last)


def test_our_own_checkpoint_opens_without_reading_its_tensors(tmp_path: Path) -> None:
    checkpoints = make_run(tmp_path / "run")
    opened = open_checkpoint(tmp_path / "run", task="flow")
    assert (opened.family, opened.kind, opened.model, opened.version) == ("flow", "training", "F5TTS_v1_Base", "v1")
    assert (opened.step, opened.ema_step) == (2, 2)
    assert [group.name for group in opened.groups] == ["model/default"]
    module = nn.Linear(2, 2)
    load_weights(module, opened.weights, source="run")
    stored = store.load(checkpoints.folder(2)).state
    assert torch.equal(module.weight, stored["task"]["weight"])
    assert opened.ema is not None
    assert torch.equal(opened.ema["bias"].read(), stored["ema"]["weights"]["bias"])


def test_settings_that_change_no_meaning_do_not_matter_to_our_own(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    opened = open_checkpoint(tmp_path / "run")
    opened.check_model(FlowConfig(dropout=0.5).model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=r"pe_attn_head: None in the file, 1 in the recipe"):
        opened.check_model(FlowConfig(pe_attn_head=1).model_dump(mode="json"))


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        resolve_base(str(tmp_path / "run"))


def test_a_folder_stands_for_its_one_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_base(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resolve_base(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("a\n")
    (tmp_path / "net_1.pt").write_bytes(b"x")
    assert resolve_base(str(tmp_path)) == tmp_path / "net_1.pt"
    (tmp_path / "net_1.safetensors").write_bytes(b"x")
    assert resolve_base(str(tmp_path)) == tmp_path / "net_1.safetensors"
    (tmp_path / "net_2.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="holds 2 checkpoints") as caught:
        resolve_base(str(tmp_path))
    assert "net_2.safetensors" in str(caught.value.hint)


def test_a_file_nobody_knows_and_a_family_nobody_asked_for(tmp_path: Path, fixtures_dir: Path) -> None:
    torch.save({"weight": {"a": torch.ones(1)}, "info": "x"}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"no family.*`weight`, `info`"):
        open_checkpoint(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="family `flow`"):
        open_checkpoint(fixtures_dir / "f5_ckpt_layouts" / "model_10.pt", task="gpt_sovits/vae")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_an_unsafe_file_is_refused_whatever_else_it_holds(
    tmp_path: Path, fixtures_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(fixtures_dir / "f5_ckpt_layouts" / "model_10.pt", weights_only=True)
    torch.save({**content, "extra": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"unsafe: its pickle calls posix\.mkdir") as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "exploded").exists()
