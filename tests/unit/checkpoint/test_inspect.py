"""What `inspect` tells is true: held against numbers computed with torch from the whole tensors."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttstrain.checkpoint.inspect import diff, inspect, list_tensors
from ttstrain.checkpoint.meta import EmaMeta, GroupMeta, Meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.checkpoint import SchedulePosition
from ttstrain.errors import CheckpointError, UserError
from ttstrain.tensors import tensorfile

KEYS = [
    "path",
    "family",
    "kind",
    "model",
    "version",
    "step",
    "tensors",
    "parameters",
    "dtypes",
    "groups",
    "schedule",
    "ema",
    "nonfinite",
    "zero",
    "damaged",
    "pickle_globals",
    "pickle_verdict",
    "unsafe",
    "modules",
    "notes",
]


@pytest.fixture(scope="session")
def layouts(fixtures_dir: Path) -> Path:
    return fixtures_dir / "f5_ckpt_layouts"


def test_an_upstream_training_file_is_described_in_full(layouts: Path) -> None:
    path = layouts / "model_10.pt"
    found = inspect(path).to_json()
    full = torch.load(path, weights_only=True)
    online, average = full["model_state_dict"], full["ema_model_state_dict"]
    parameters = {key: value for key, value in online.items() if not key.endswith("inv_freq")}
    assert list(found) == KEYS
    json.dumps(found, allow_nan=False)
    assert (found["family"], found["kind"], found["step"]) == ("flow", "training", 10)
    assert found["tensors"] == len(online)
    assert found["dtypes"] == {"float32": len(online)}
    count = sum(value.numel() for value in parameters.values())
    assert found["parameters"] == count == sum(module["parameters"] for module in found["modules"])
    assert found["groups"] == [{"name": "default", "lr": 0.00045454546, "weight_decay": 0.01, "parameters": count}]
    assert found["schedule"] == {"position": 10, "ended": False, "lr_next": 0.00045454546}
    gap = sum(float((average[f"ema_model.{key}"] - value).double().square().sum()) for key, value in online.items())
    size = sum(float(value.double().square().sum()) for value in online.values())
    assert found["ema"]["distance"] == pytest.approx((gap / size) ** 0.5, rel=1e-5)
    assert (found["nonfinite"], found["zero"], found["unsafe"]) == ([], [], False)
    assert "torch._utils._rebuild_tensor_v2" in found["pickle_globals"]


def test_a_base_file_has_an_average_and_no_distance(layouts: Path) -> None:
    for name in ("model_10.pt", "model_10.safetensors"):
        found = inspect(layouts / "ema_only" / name)
        assert found.kind == "base"
        assert found.ema.present
        assert (found.ema.step, found.ema.distance, found.step) == (10, None, None)
        assert found.tensors == 54


def make_run(folder: Path, weights: dict[str, Tensor]) -> Path:
    checkpoints = CheckpointStore(folder, keep_last=2, background=False)
    meta = Meta(
        family="flow",
        task="flow",
        model={"backbone": "dit", "dim": 8, "depth": 1, "heads": 1},
        recipe="toy",
        step=30,
        groups=(GroupMeta(optimizer="model", name="text", lr=1e-4, weight_decay=0.0, parameters=6),),
        schedule=SchedulePosition(position=30, total=30, ended=True, lr_next=1e-6),
        ema=EmaMeta(present=True, step=30, decay=0.99),
    )
    average = {name: value * 1.5 for name, value in weights.items()}
    moments = {"model": {"net.a.weight": {"exp_avg": torch.full((2, 2), float("inf"))}}}
    state = {"task": weights, "ema": {"weights": average}, "optimizers": moments, "progress": {"step": 30}}
    rng = [{"rng": {"torch": torch.get_rng_state()}}]
    return checkpoints.save(30, state, meta, best=True, per_rank=rng)


def test_our_own_checkpoint_and_its_run_are_described_alike(tmp_path: Path) -> None:
    weights = {
        "net.a.weight": torch.ones(2, 2),
        "net.b.bias": torch.zeros(2),
        "net.c": torch.tensor([1.0, float("nan")]),
    }
    folder = make_run(tmp_path / "run", weights)
    of_checkpoint, of_run = inspect(folder), inspect(tmp_path / "run")
    assert list(of_checkpoint.to_json()) == KEYS
    assert (of_checkpoint.kind, of_checkpoint.step, of_checkpoint.tensors) == ("training", 30, 3)
    assert of_checkpoint.model == "DiT, dim 8, depth 1, heads 1"
    assert of_checkpoint.to_json()["groups"] == [
        {"name": "model/text", "lr": 1e-4, "weight_decay": 0.0, "parameters": 6}
    ]
    assert of_checkpoint.to_json()["schedule"] == {"position": 30, "ended": True, "lr_next": 1e-6}
    assert of_checkpoint.nonfinite == ["net.c", "ema/net.c", "optimizers/model/net.a.weight/exp_avg"]
    assert of_checkpoint.zero == ["net.b.bias"]
    assert of_checkpoint.ema.distance is None  # a NaN is in it
    assert [module.name for module in of_checkpoint.modules] == ["a", "b", "c"]
    json.dumps(of_checkpoint.to_json(), allow_nan=False)
    assert of_run.path == str(tmp_path / "run")
    assert any("step-00000030" in note and "best" in note for note in of_run.notes)
    assert of_run.nonfinite == of_checkpoint.nonfinite


def test_a_run_whose_pointers_are_damaged_is_described_by_its_newest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"w": torch.ones(2)}).parent.parent
    for name in ("last", "best"):
        (run / "checkpoints" / name).write_bytes(b"\xff\n")
    found = inspect(run)
    assert found.step == 30
    warnings = [note for note in found.notes if note.startswith("WARNING: `")]
    assert [f"checkpoints/{name}`" in note for name, note in zip(("last", "best"), warnings, strict=True)] == [True] * 2


def test_a_folder_with_one_file_says_which(layouts: Path, tmp_path: Path) -> None:
    (tmp_path / "model_10.pt").write_bytes((layouts / "model_10.pt").read_bytes())
    found = inspect(tmp_path)
    assert found.kind == "training"
    assert any("`model_10.pt`" in note for note in found.notes)


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    weights = {"transformer.rotary_embed.inv_freq": torch.ones(32), "transformer.proj_out.bias": torch.ones(5)}
    found = inspect(make_run(tmp_path / "run", weights))
    assert (found.tensors, found.parameters) == (2, 5)
    assert [module.name for module in found.modules] == ["proj_out"]


def test_the_distance_of_our_average(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"net.a.weight": torch.randn(7, 3), "net.steps": torch.tensor(4)})
    assert inspect(folder).ema.distance == pytest.approx(0.5, rel=1e-6)


def test_a_file_of_nobody_is_described_by_what_it_holds(tmp_path: Path) -> None:
    torch.save(
        {"model": {"enc.w": torch.ones(3, 2), "dec.w": torch.zeros(4)}, "optimizer": {"x": torch.ones(9)}, "epoch": 3},
        tmp_path / "x.pth",
    )
    found = inspect(tmp_path / "x.pth")
    assert (found.family, found.kind, found.parameters, found.tensors) == (None, "unknown", 10, 2)
    assert {module.name: module.parameters for module in found.modules} == {"model/enc": 6, "model/dec": 4}
    assert found.zero == ["model/dec.w"]
    assert "`model`, `optimizer`, `epoch`" in found.notes[0]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_an_unsafe_file_is_still_described_and_runs_nothing(
    layouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(layouts / "model_10.pt", weights_only=True)
    torch.save({**content, "extra": Bomb()}, tmp_path / "x.pt")
    found = inspect(tmp_path / "x.pt")
    assert found.unsafe
    assert found.pickle_verdict == "unsafe"
    assert "posix.mkdir" in found.pickle_globals
    assert any(note.startswith("UNSAFE") for note in found.notes)
    assert found.step == 10
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_is_safe_only_when_all_it_names_is_known(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "known.pt")
    torch.save({"w": torch.ones(2), "options": logging.LogRecord}, tmp_path / "unknown.pt")
    tensorfile.write(tmp_path / "x.safetensors", {"w": torch.ones(2)})
    known, unknown, plain = (inspect(tmp_path / name) for name in ("known.pt", "unknown.pt", "x.safetensors"))
    assert (known.pickle_verdict, unknown.pickle_verdict, plain.pickle_verdict) == ("safe", "unknown", None)
    assert not unknown.unsafe
    assert any("logging.LogRecord" in note and "may run code" in note for note in unknown.notes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_single_bad_number_is_found_wherever_it_is(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    if dtype == torch.float8_e4m3fn and bad != bad + 1:
        bad = float("nan")  # the format has no infinity
    size = 2 * tensorfile.PIECE + 5
    tensors = {name: torch.full((size,), 0.5).to(dtype) for name in ("first", "middle", "last", "good")}
    for name, index in (("first", 0), ("middle", tensorfile.PIECE), ("last", size - 1)):
        tensors[name][index] = bad
    tensorfile.write(tmp_path / "x.safetensors", tensors)
    assert inspect(tmp_path / "x.safetensors").nonfinite == ["first", "middle", "last"]


def test_zeros_are_told_from_what_is_almost_zero(tmp_path: Path) -> None:
    tiny = torch.zeros(1000)
    tiny[700] = 1e-45
    tensorfile.write(
        tmp_path / "x.safetensors",
        {
            "zero": torch.zeros(1000),
            "minus": -torch.zeros(3),
            "tiny": tiny,
            "empty": torch.empty(0),
            "count": torch.tensor(0),
        },
    )
    assert inspect(tmp_path / "x.safetensors").zero == ["zero", "minus"]


def test_tensors_are_listed_with_their_numbers(tmp_path: Path) -> None:
    tensor = torch.randn(300, 4)
    torch.save({"model": {"a.weight": tensor, "a.turned": tensor.T, "b": torch.arange(3)}}, tmp_path / "x.pt")
    listed = {found.name: found for found in list_tensors(tmp_path / "x.pt", "model/a.*")}
    assert set(listed) == {"model/a.weight", "model/a.turned"}
    for found in listed.values():
        assert (found.low, found.high) == (float(tensor.min()), float(tensor.max()))
        assert found.rms == pytest.approx(float(tensor.square().mean().sqrt()), rel=1e-6)
    assert listed["model/a.turned"].shape == (4, 300)
    with pytest.raises(UserError, match="no tensor"):
        list_tensors(tmp_path / "x.pt", "nothing*")


def test_two_checkpoints_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    a = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).state_dict()
    b = {key: value.clone() for key, value in a.items()}
    b["0.weight"] = a["0.weight"] * 1.25
    b["1.bias"] = torch.zeros(4)
    b["new"] = b.pop("1.weight")
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    found = diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (found.only_a, found.only_b, found.reshaped, found.equal) == (["1.weight"], ["new"], ["1.bias"], 1)
    (change,) = found.changed
    assert change.name == "0.weight"
    assert change.distance == pytest.approx(0.25, rel=1e-6)
    assert found.distance is not None
    assert diff(tmp_path / "a.pt", tmp_path / "a.pt").changed == []


def test_a_transposed_copy_is_equal_to_its_original(tmp_path: Path) -> None:
    weight = torch.randn(5, 7)
    torch.save({"w": weight}, tmp_path / "a.pt")
    torch.save({"w": weight.T.contiguous().T}, tmp_path / "b.pt")
    assert diff(tmp_path / "a.pt", tmp_path / "b.pt").equal == 1


@pytest.mark.slow
def test_a_large_file_is_never_held_in_memory(tmp_path: Path) -> None:
    size = 1 << 30
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # sparse: takes no room on the disk
    tensorfile.write(tmp_path / "small.safetensors", {"w": torch.zeros(4)})
    program = (
        "import resource, sys; from pathlib import Path; from ttstrain.checkpoint.inspect import inspect;"
        "assert inspect(Path(sys.argv[1])).zero == ['w'];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {
        name: int(subprocess.check_output([sys.executable, "-c", program, tmp_path / f"{name}.safetensors"]))
        for name in ("small", "large")
    }
    assert peaks["large"] - peaks["small"] < 100 * 1024  # kB


def test_what_cannot_be_read_is_an_error_of_exit_code_four(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        inspect(tmp_path / "x.pt")
    assert caught.value.exit_code == 4
