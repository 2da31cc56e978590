"""Checkpoints of adapters over bases of every kind: other types, adapters themselves, in other places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import differences
from torch import Tensor

from ttstrain.checkpoint import base_record, over_base, store
from ttstrain.checkpoint.meta import BaseMeta, Meta
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.modules import stored_lora
from ttstrain.tensors.tensorfile import read_header, read_tree

OWN = {"a.lora_A.default.weight": torch.randn(2, 4), "a.lora_B.default.weight": torch.randn(3, 2)}
NET = {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(5)}


def opened(path: Path) -> OpenedCheckpoint:
    if not path.is_file():
        raise CheckpointError(f"`{path}` does not exist")
    return OpenedCheckpoint(
        path, family="toy", task="toy", kind="base", model="toy", version="1", config={}, unknown=(),
        weights=read_header(path).tensors,
    )  # fmt: skip


def open_files(specs: Sequence[str]) -> OpenedCheckpoint:
    (spec,) = specs
    return opened(Path(spec))


def write(folder: Path, file: Path, tensors: Mapping[str, str], **changes: object) -> store.Loaded:
    """Write a checkpoint of adapters over the file, and read it as it lies there."""
    fields = {
        "files": (file.name,), "directory": str(file.parent), "places": (str(file),), "from_run": (),
        "sha256": base_record.checksum(opened(file).weights), "tensors": tensors,
    }  # fmt: skip
    base = BaseMeta(**{**fields, **changes})  # type: ignore[arg-type]
    state = {"task": OWN, "ema": {"weights": {name: 2 * tensor for name, tensor in OWN.items()}}}
    store.save(folder, state, Meta(family="toy", task="toy", model={}, recipe="toy", step=1, base=base))
    return store.load(folder)


def complete(folder: Path, loaded: store.Loaded, **options: object) -> store.Loaded:
    return over_base.complete(folder, loaded, open_files=open_files, weights="read", **options)  # type: ignore[arg-type]


def saved(path: Path, tensors: Mapping[str, Tensor] = NET) -> Path:
    save_file(dict(tensors), path)
    return path


def test_weights_come_back_as_the_run_held_them(tmp_path: Path) -> None:
    loaded = write(tmp_path / "c", saved(tmp_path / "b"), {"a.base_layer.weight": "bfloat16", "b.weight": "float32"})
    whole = complete(tmp_path / "c", loaded).state
    held = {"a.base_layer.weight": NET["a.weight"].bfloat16(), "b.weight": NET["b.weight"]}
    assert differences(whole["task"], {**held, **OWN}) == []
    assert differences(whole["ema"]["weights"], {**held, **loaded.state["ema"]["weights"]}) == []


def test_lying_in_the_file_they_have_the_checksum_and_values_of_a_whole_one(tmp_path: Path) -> None:
    """Also where the base is merged from adapters: a merged weight is computed, so its factors are what counts."""
    write(tmp_path / "c", saved(tmp_path / "b"), {"a.base_layer.weight": "bfloat16", "b.weight": "float32"})
    whole = complete(tmp_path / "c", store.load(tmp_path / "c")).state["task"]
    store.save(tmp_path / "w", {"task": whole}, Meta(family="toy", task="toy", model={}, recipe="toy", step=1))
    lazy = over_base.complete(
        tmp_path / "c", store.load_lazily(tmp_path / "c"), open_files=open_files, weights="stored"
    ).state["task"]
    of_whole = store.load_lazily(tmp_path / "w").state["task"]
    assert base_record.checksum(lazy) == base_record.checksum(of_whole)
    merged, of_whole = (stored_lora.merged(one, scaling=0.5) for one in (lazy, of_whole))
    assert base_record.checksum(merged) == base_record.checksum(of_whole)
    assert differences(read_tree(merged), read_tree(of_whole)) == []
    pieces = torch.cat(list(merged["a.weight"].pieces(5)))
    assert torch.equal(pieces, merged["a.weight"].read().flatten())


@pytest.mark.parametrize(
    "changes",
    [
        lambda root: {"places": (str(root / "gone"),), "from_run": ("../b",), "directory": "/gone"},
        lambda root: {"places": (str(root / "gone"),), "files": ("b",)},
        lambda root: {"places": (str(root / "other"),), "files": (str(root / "b"),)},
    ],
)
def test_it_is_found_where_it_may_lie(tmp_path: Path, changes: Callable[[Path], dict[str, object]]) -> None:
    """Seen from the run's folder, as the recipe names it, and where another file is now at its place."""
    saved(tmp_path / "other", {"a.weight": torch.zeros(3, 4), "b.weight": torch.zeros(5)})
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.parent.mkdir(parents=True)
    loaded = write(folder, saved(tmp_path / "b"), {"b.weight": "float32"}, **changes(tmp_path))
    whole = complete(folder, loaded)
    assert torch.equal(whole.state["task"]["b.weight"], NET["b.weight"])
    assert whole.meta.base is not None and whole.meta.base.places == (str(tmp_path / "b"),)


def test_a_named_file_is_the_one_or_is_refused(tmp_path: Path) -> None:
    loaded = write(tmp_path / "c", saved(tmp_path / "b"), {"b.weight": "float32"})
    other = saved(tmp_path / "other", {name: tensor + 1 for name, tensor in NET.items()})
    for named, said in ((other, "is not the base that"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(CheckpointError, match=said):
            complete(tmp_path / "c", loaded, named=[str(named)])
    (tmp_path / "b").rename(tmp_path / "new")
    whole = complete(tmp_path / "c", loaded, named=[str(tmp_path / "new")])
    assert whole.meta.base is not None and whole.meta.base.files == (str(tmp_path / "new"),)


@pytest.mark.parametrize("tensors", [{"c.weight": "float32"}, {"b.weight": "system"}])
def test_a_record_that_does_not_fit_is_refused(tmp_path: Path, tensors: dict[str, str]) -> None:
    loaded = write(tmp_path / "c", saved(tmp_path / "b"), tensors)
    with pytest.raises(CheckpointError, match="is damaged: its base does not hold"):
        complete(tmp_path / "c", loaded)


def test_a_checkpoint_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    loaded = write(tmp_path / "c", saved(tmp_path / "b"), {"b.weight": "float32"})

    def again(_: Sequence[str]) -> OpenedCheckpoint:
        over_base.complete(tmp_path / "c", loaded, open_files=again, weights="stored")
        raise AssertionError

    with pytest.raises(CheckpointError, match="names itself as its base"):
        over_base.complete(tmp_path / "c", loaded, open_files=again, weights="stored")
