"""Checkpoint folders: what comes back, what is refused, what is kept."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ttstrain.checkpoint import pointers, store
from ttstrain.checkpoint.meta import EmaMeta, GroupMeta, Meta, read_meta, write_meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.checkpoint import SchedulePosition
from ttstrain.errors import CheckpointError
from ttstrain.tensors import tensorfile


def make_meta(step: int = 7, **changes: Any) -> Meta:
    values: dict[str, Any] = {"family": "toy", "task": "toy", "model": {"dim": 4}, "recipe": "toy", "step": step}
    return Meta(**(values | changes))


def make_state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    weights = {
        "a.weight": torch.randn(3, 4, generator=generator),
        "a.half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "a.small": torch.randn(5, generator=generator).to(torch.float16),
        "counter": torch.tensor(12, dtype=torch.int64),
        "flag": torch.tensor(True),
        "nothing": torch.empty(0, 3),
    }
    return {
        "task": weights,
        "ema": {"weights": {name: tensor.clone() for name, tensor in weights.items()}, "updates": 4, "decay": 0.1},
        "optimizers": {
            "model": {
                "a.weight": {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3, generator=generator).T},
                "odd/name.with/slashes": {"step": torch.tensor(4.0)},
                "odd": {"name.with/slashes": {"step": torch.tensor(5.0)}},
            }
        },
        "precision": {"scale": 65536.0, "growth": None, "nan": float("inf")},
        "progress": {"step": 7, "clips": 2**60 + 1},
        "empty": {},
        "awkward": {1: torch.ones(2), "$tensor": "x", "list": [torch.zeros(1), [1, "é"], {}], "$": [True, False]},
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(left: Any, right: Any, where: str = "") -> None:
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype, where
        assert left.shape == right.shape, where
        assert bits(left) == bits(right), where
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    else:
        assert type(left) is type(right), where
        assert left == right, where


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = make_state()
    store.save(tmp_path / "step-00000007", state, make_meta())
    loaded = store.load(tmp_path / "step-00000007")
    assert_same(state, loaded.state)
    assert loaded.meta.parts == tuple(state)


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(11)
    generator_python = random.Random(11)
    version, internal, gauss = generator_python.getstate()
    ranks = [{"rng": {"torch": generator.get_state(), "python": [version, list(internal), gauss]}}]
    expected, expected_python = torch.rand(5, generator=generator), generator_python.random()
    store.save(tmp_path / "c", {"task": {"w": torch.ones(1)}}, make_meta(), per_rank=ranks)

    (rank,) = store.load(tmp_path / "c").per_rank
    generator.set_state(rank["rng"]["torch"])
    version, internal, gauss = rank["rng"]["python"]
    generator_python.setstate((version, tuple(internal), gauss))
    assert torch.equal(torch.rand(5, generator=generator), expected)
    assert generator_python.random() == expected_python


def test_weights_are_an_ordinary_safetensors_file_with_the_modules_keys(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema = {"weights": module.state_dict(), "updates": 1}
    store.save(tmp_path / "c", {"task": module.state_dict(), "ema": ema}, make_meta())
    for name in ("weights", "ema"):
        tensors = safetensors.torch.load_file(tmp_path / "c" / f"{name}.safetensors")
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).load_state_dict(tensors, strict=True)


def test_tied_weights_are_stored_once_and_come_back_under_both_names(tmp_path: Path) -> None:
    module = nn.Module()
    module.embed = nn.Embedding(300, 8)
    module.head = nn.Linear(8, 300, bias=False)
    module.head.weight = module.embed.weight
    saved = store.save(tmp_path / "c", {"task": module.state_dict(), "nested": {"x": module.state_dict()}}, make_meta())
    size = 300 * 8 * 4
    assert size < saved.files["weights.safetensors"].bytes < 2 * size
    assert size < saved.files["nested.safetensors"].bytes < 2 * size
    loaded = store.load(tmp_path / "c").state
    for weights in (loaded["task"], loaded["nested"]["x"]):
        assert torch.equal(weights["head.weight"], module.embed.weight)
        assert torch.equal(weights["embed.weight"], module.embed.weight)


def test_views_and_strided_tensors_are_stored_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"rows": base[1:3], "columns": base[:, ::2], "turned": base.T, "grown": base[:1, :1].expand(5, 5)}
    store.save(tmp_path / "c", {"task": tensors}, make_meta())
    assert_same(tensors, store.load(tmp_path / "c").state["task"])


def test_what_neither_safetensors_nor_json_can_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="loader/cursor"):
        store.save(tmp_path / "c", {"x": {"loader": {"cursor": object()}}}, make_meta())
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.json", "optimizers.safetensors", "rank-0001.json"])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, name: str) -> None:
    store.save(tmp_path / "c", make_state(), make_meta(), per_rank=[{"epoch": 1}, {"epoch": 2}])
    path = tmp_path / "c" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        store.load(tmp_path / "c")


def test_a_cut_or_missing_file_is_found_and_named(tmp_path: Path) -> None:
    store.save(tmp_path / "c", make_state(), make_meta())
    path = tmp_path / "c" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        store.load(tmp_path / "c", verify=False)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors. is missing"):
        store.load(tmp_path / "c")


def test_meta_returns_what_was_said(tmp_path: Path) -> None:
    meta = make_meta(
        groups=(GroupMeta(optimizer="model", name="text", lr=1e-4, weight_decay=0.01, parameters=12),),
        schedule=SchedulePosition(position=7, total=10, ended=False, lr_next=1e-4),
        ema=EmaMeta(present=True, step=7, decay=0.5),
        metrics={"eval/loss/total": 0.25},
        notes=("one", "two"),
    )
    written = store.save(tmp_path / "c", make_state(), meta)
    assert read_meta(tmp_path / "c") == written
    assert written.model_copy(update={"files": {}, "parts": (), "ranks": 0}) == meta


def test_a_part_without_a_file_is_refused(tmp_path: Path) -> None:
    meta = store.save(tmp_path / "c", make_state(), make_meta())
    write_meta(tmp_path / "c", meta.model_copy(update={"parts": (*meta.parts, "lost")}))
    with pytest.raises(CheckpointError, match="lists no file of its part 'lost'"):
        store.load(tmp_path / "c")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store.save(tmp_path / "c", make_state(), make_meta())
    path = tmp_path / "c" / "meta.json"
    path.write_text(path.read_text().replace('"schema":1', '"schema":2').replace('"schema": 1', '"schema": 2'))
    with pytest.raises(CheckpointError, match="schema 2"):
        store.load(tmp_path / "c")


def test_a_full_disk_leaves_the_older_checkpoint_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(5, make_state(), make_meta(5))
    write = tensorfile.write

    def write_half(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.startswith("optimizers"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args, **kwargs)

    monkeypatch.setattr(tensorfile, "write", write_half)
    for step in (5, 6):
        with pytest.raises(CheckpointError, match="No space left") as caught:
            checkpoints.save(step, make_state(), make_meta(step))
        assert "disk space" in str(caught.value.hint)
    assert checkpoints.last() == checkpoints.folder(5)
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["last", "step-00000005"]
    assert_same(make_state(), store.load(checkpoints.folder(5)).state)


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(1, make_state(), make_meta(1))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(store, "write_meta", die)
        checkpoints.save(2, make_state(), make_meta(2))
    assert [folder.name for folder in pointers.list_checkpoints(checkpoints.root)] == ["step-00000001"]
    assert checkpoints.last() == checkpoints.folder(1)
    checkpoints.save(3, make_state(), make_meta(3))
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["last", "step-00000001", "step-00000003"]


def test_a_death_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(1, make_state(), make_meta(1))
    (checkpoints.folder(1)).rename(checkpoints.root / ".step-00000001.old")
    again = CheckpointStore(tmp_path, keep_last=2)
    assert again.last() == checkpoints.folder(1)
    assert_same(make_state(), store.load(again.folder(1)).state)


@pytest.mark.parametrize("refused", ["the new folder", "every folder but the old one"])
def test_a_rename_that_fails_again_and_again_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=1, background=False)
    checkpoints.save(1, make_state(), make_meta(1))
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if ".tmp-" in path.name or (refused != "the new folder" and path.name.endswith(".old")):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="Input/output error"):
                checkpoints.save(1, {"task": {"w": torch.zeros(1)}}, make_meta(1))
        if refused == "the new folder":
            assert_same(make_state(), store.load(checkpoints.folder(1)).state)
    checkpoints.save(2, {"task": {"w": torch.zeros(1)}}, make_meta(2))
    pointers.recover(checkpoints.root)
    if refused == "the new folder":
        assert [folder.name for folder in pointers.list_checkpoints(checkpoints.root)] == ["step-00000002"]
    else:  # it stood aside, where pruning leaves what has no successor
        assert_same(make_state(), store.load(checkpoints.folder(1)).state)


def test_a_best_that_cannot_be_taken_back_is_told_and_the_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(1, {"task": {"w": torch.zeros(1)}}, make_meta(1), best=True)
    checkpoints.forget_best()
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "best":
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        checkpoints.save(2, {"task": {"w": torch.zeros(1)}}, make_meta(2))
    assert checkpoints.last() == checkpoints.folder(2)
    assert [line for line in checkpoints.news() if "cannot be removed: Operation not permitted" in line]


def test_a_drive_that_flushes_no_folders_takes_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(1, make_state(), make_meta(1), best=True)
    assert checkpoints.last() == checkpoints.best() == checkpoints.folder(1)


def test_an_old_checkpoint_that_cannot_be_removed_is_told_and_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=1, background=False)
    checkpoints.save(1, make_state(), make_meta(1))

    def remove_half(folder: Path, **_: Any) -> None:
        if folder.exists():
            next(folder.glob("*.safetensors")).unlink()
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", remove_half)
        checkpoints.save(2, make_state(), make_meta(2))
    assert checkpoints.news()[-1] == "WARNING: the old step-00000001 could not be removed: Input/output error"
    again = CheckpointStore(tmp_path, keep_last=1, background=False)
    assert [folder.name for folder in pointers.list_checkpoints(again.root)] == ["step-00000002"]
    assert again.last() == again.folder(2)
    again.save(3, make_state(), make_meta(3))
    assert sorted(path.name for path in again.root.iterdir()) == ["last", "step-00000003"]


def test_an_old_checkpoint_that_is_in_use_is_told_once_and_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=1, background=True)
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if target.name.endswith(".doomed"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", busy)
        for step in (1, 2, 3):
            checkpoints.save(step, {"task": {"w": torch.zeros(1)}}, make_meta(step))
        checkpoints.wait()
    warnings = [line for line in checkpoints.news() if line.startswith("WARNING")]
    assert [line.split(" could")[0] for line in warnings] == [
        "WARNING: the old step-00000001",
        "WARNING: the old step-00000002",
    ]
    checkpoints.save(4, {"task": {"w": torch.zeros(1)}}, make_meta(4))
    checkpoints.wait()
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["last", "step-00000004"]


def test_a_checkpoint_is_news_when_it_is_on_the_disk_and_its_failure_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=True)
    released, write = threading.Event(), tensorfile.write

    def write_late(*args: Any, **kwargs: Any) -> Any:
        assert released.wait(10)
        return write(*args, **kwargs)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorfile, "write", write_late)
    checkpoints.save(1, {"task": {"w": torch.zeros(1)}}, make_meta(1), best=True)
    assert checkpoints.news() == []
    released.set()
    checkpoints.wait()
    assert checkpoints.last() == checkpoints.folder(1)
    assert checkpoints.news() == ["checkpoint step-00000001 (best so far)"]
    assert checkpoints.news() == []
    monkeypatch.setattr(tensorfile, "write", refuse)
    checkpoints.save(2, {"task": {"w": torch.zeros(1)}}, make_meta(2))
    with pytest.raises(CheckpointError, match="No space left"):
        while True:
            assert checkpoints.news() == []
    assert checkpoints.news() == []


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path / "run", keep_last=2, background=False)
    (tmp_path / "run").rmdir()
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(1, {"task": {"w": torch.zeros(1)}}, make_meta(1))
    assert list(tmp_path.iterdir()) == []


def test_the_same_step_can_be_written_twice(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    checkpoints.save(4, {"task": {"w": torch.zeros(2)}}, make_meta(4))
    checkpoints.save(4, {"task": {"w": torch.ones(2)}}, make_meta(4))
    assert torch.equal(store.load(checkpoints.folder(4)).state["task"]["w"], torch.ones(2))
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["last", "step-00000004"]


def test_last_best_and_every_nth_survive_pruning(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, keep_every=400, background=False)
    for step in range(100, 1100, 100):
        checkpoints.save(step, {"task": {"w": torch.ones(1)}}, make_meta(step), best=step == 300)
    kept = [read_meta(folder).step for folder in pointers.list_checkpoints(checkpoints.root)]
    assert kept == [300, 400, 800, 900, 1000]
    assert checkpoints.best() == checkpoints.folder(300)
    assert checkpoints.last() == checkpoints.folder(1000)


def test_after_a_reset_of_the_step_the_new_checkpoints_are_the_ones_kept(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    for step in (900, 1000, 10, 20):
        checkpoints.save(step, {"task": {"w": torch.ones(1)}}, make_meta(step))
    assert [read_meta(folder).step for folder in pointers.list_checkpoints(checkpoints.root)] == [10, 20]


def test_what_is_newest_does_not_depend_on_the_clock(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"task": {"w": torch.ones(1)}}, make_meta(step))
        meta = checkpoints.folder(step) / "meta.json"
        os.utime(meta, (2_000_000_000 - step, 2_000_000_000 - step))  # the clock runs backwards
    assert [folder.name for folder in pointers.list_checkpoints(checkpoints.root)] == ["step-00000003", "step-00000004"]


# ---------------------------------------------------------------- courses


def run_of(tmp_path: Path, *, best: int, steps: Sequence[int] = (4, 8, 12), keep_last: int = 9) -> CheckpointStore:
    checkpoints = CheckpointStore(tmp_path, keep_last=keep_last, background=False)
    for step in steps:
        checkpoints.save(step, {"task": {"w": torch.ones(1)}}, make_meta(step), best=step == best)
    return checkpoints


def pointed(checkpoints: CheckpointStore) -> tuple[str | None, str | None]:
    return pointers.pointed(checkpoints.root, "last"), pointers.pointed(checkpoints.root, "best")


@pytest.mark.parametrize("own", [4, None])
def test_a_course_is_left_at_once_and_its_best_with_the_first_save(tmp_path: Path, own: int | None) -> None:
    checkpoints = run_of(tmp_path, best=12)
    checkpoints.resume_from(4, best=own)
    assert pointed(checkpoints) == ("step-00000004", "step-00000012")
    again = CheckpointStore(tmp_path, keep_last=9, background=False)  # killed before its first save, and resumed
    again.resume_from(4, best=own)
    assert pointed(again) == ("step-00000004", "step-00000012")
    again.save(6, {"task": {"w": torch.ones(1)}}, make_meta(6))
    assert pointed(again) == ("step-00000006", None if own is None else "step-00000004")
    again.save(7, {"task": {"w": torch.ones(1)}}, make_meta(7), best=True)
    again.save(8, {"task": {"w": torch.ones(1)}}, make_meta(8))
    assert pointed(again) == ("step-00000008", "step-00000007")


def test_a_course_can_be_returned_to_before_another_is_saved(tmp_path: Path) -> None:
    checkpoints = run_of(tmp_path, best=8)
    checkpoints.resume_from(4, best=4)
    checkpoints.resume_from(12, best=8)
    checkpoints.save(16, {"task": {"w": torch.ones(1)}}, make_meta(16))
    assert pointed(checkpoints) == ("step-00000016", "step-00000008")


def test_to_go_on_from_the_last_changes_nothing(tmp_path: Path) -> None:
    checkpoints = run_of(tmp_path, best=8)
    checkpoints.resume_from(12, best=None)  # as where another metric is followed from here on
    checkpoints.save(16, {"task": {"w": torch.ones(1)}}, make_meta(16))
    assert pointed(checkpoints) == ("step-00000016", "step-00000008")


# ---------------------------------------------------------------- pointers


def test_a_pointer_never_leads_out_of_the_run(tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", best=8)
    checkpoints = run_of(tmp_path / "mine", best=8)
    for out in ("../../other/checkpoints/step-00000004", str(other.folder(4)), "..", ".", ""):
        for name in ("last", "best"):
            (checkpoints.root / name).write_text(out + "\n")
        assert checkpoints.last() == checkpoints.folder(12)
        with pytest.raises(CheckpointError, match="does not name a checkpoint of this run"):
            checkpoints.best()
    (checkpoints.root / "step-00000016").symlink_to(other.folder(4))
    (checkpoints.root / "last").write_text("step-00000016\n")
    with pytest.raises(CheckpointError, match="which does not exist"):
        checkpoints.last()
    checkpoints.keep_last = 1
    checkpoints.save(20, {"task": {"w": torch.ones(1)}}, make_meta(20))
    assert [folder.name for folder in pointers.list_checkpoints(other.root)] == [
        *("step-00000004", "step-00000008", "step-00000012")
    ]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\n", b"", b"\0" * 200, b"step-4\n"])
def test_a_last_that_is_gone_or_damaged_is_the_newest_and_is_written_again(
    tmp_path: Path, content: bytes | None
) -> None:
    checkpoints = run_of(tmp_path, best=8, steps=(4, 12, 8))  # 8 was written last
    last = checkpoints.root / "last"
    assert pointers.mend_last(checkpoints.root) is None
    if content is None:
        last.unlink()
    else:
        last.write_bytes(content)
    assert checkpoints.last() == checkpoints.folder(8)
    assert "step-00000008" in str(pointers.mend_last(checkpoints.root))
    assert last.read_text() == "step-00000008\n"


def test_a_pointer_to_nothing_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=False)
    assert checkpoints.last() is None
    checkpoints.save(1, {"task": {"w": torch.ones(1)}}, make_meta(1))
    (checkpoints.root / "last").write_text("step-00000009\n")
    with pytest.raises(CheckpointError, match="step-00000009") as caught:
        checkpoints.last()
    assert "step-00000001" in str(caught.value.hint)


def test_a_background_save_is_of_the_moment_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, write = threading.Event(), tensorfile.write

    def write_late(*args: Any, **kwargs: Any) -> Any:
        assert released.wait(10)
        return write(*args, **kwargs)

    monkeypatch.setattr(tensorfile, "write", write_late)
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=True)
    weights, loader = {"w": torch.zeros(3)}, {"excluded": ["a"]}
    folder = checkpoints.save(1, {"task": weights}, make_meta(1), per_rank=[loader])
    weights["w"].add_(1)
    loader["excluded"].append("b")
    released.set()
    checkpoints.wait()
    loaded = store.load(folder)
    assert torch.equal(loaded.state["task"]["w"], torch.zeros(3))
    assert loaded.per_rank == [{"excluded": ["a"]}]


def test_an_error_in_the_background_is_raised_by_the_next_call_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=2, background=True)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "write", refuse)
        checkpoints.save(1, {"task": {"w": torch.zeros(3)}}, make_meta(1))
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.wait()
        checkpoints.save(1, {"task": {"w": torch.zeros(3)}}, make_meta(1))
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.save(2, {"task": {"w": torch.zeros(3)}}, make_meta(2))
    checkpoints.save(3, {"task": {"w": torch.zeros(3)}}, make_meta(3))
    checkpoints.wait()
    assert checkpoints.last() == checkpoints.folder(3)


def test_one_part_can_be_read_alone(tmp_path: Path) -> None:
    store.save(tmp_path / "c", make_state(), make_meta())
    assert_same(make_state()["ema"], store.load_part(tmp_path / "c", "ema"))
    with pytest.raises(CheckpointError, match="holds no guard"):
        store.load_part(tmp_path / "c", "guard")


def test_what_a_caller_has_copied_is_written_from_that_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointStore(tmp_path, keep_last=1, background=True)
    begun, may_write = threading.Event(), threading.Event()
    write = store.save

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert may_write.wait(30)
        return write(*args, **kwargs)

    monkeypatch.setattr(store, "save", slow)
    held = {"task": {"w": torch.ones(3)}}
    live = {"task": {"w": torch.full((3,), 7.0)}, "progress": {"step": 1}}  # the held copy is what must be written
    checkpoints.save(1, live, make_meta(1), held=held)
    assert begun.wait(30)
    waiting = threading.Thread(target=checkpoints.wait_for_held)
    waiting.start()
    assert waiting.is_alive()  # nobody may overwrite the copy yet
    may_write.set()
    waiting.join(30)
    assert not waiting.is_alive()
    checkpoints.wait()
    state = store.load(checkpoints.folder(1)).state
    assert torch.equal(state["task"]["w"], torch.ones(3))
    assert state["progress"] == {"step": 1}


def test_what_need_not_last_is_not_hashed(tmp_path: Path) -> None:
    meta = store.save(
        tmp_path / "step-1", {"task": {"w": torch.ones(3)}, "best": {"step": 1}}, make_meta(1), durable=False
    )
    assert meta.files["weights.safetensors"].sha256 == ""
    assert torch.equal(store.load(tmp_path / "step-1", verify=False).state["task"]["w"], torch.ones(3))
