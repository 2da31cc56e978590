"""Reading pickles: the same data as torch gets, and nothing ever runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pathlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ttstrain.errors import CheckpointError
from ttstrain.tensors import pickle_names, unpickle
from ttstrain.tensors.pickle_machine import Record
from ttstrain.tensors.tensorfile import StoredTensor

TRUSTED = [
    "f5_ckpt_layouts/model_10.pt",
    "f5_ckpt_layouts/ema_only/model_10.pt",
    "f5_ckpt_layouts/old_step_style/model_10.pt",
]


def materialised(tree: Any) -> Any:
    if isinstance(tree, StoredTensor):
        return tree.read()
    if isinstance(tree, dict):
        return {key: materialised(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [materialised(value) for value in tree]
    return tree


def assert_same(left: Any, right: Any) -> None:
    if isinstance(right, Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(right, dict):
        assert list(left) == list(right)
        for key in right:
            assert_same(left[key], right[key])
    elif isinstance(right, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("name", TRUSTED)
def test_upstream_files_read_as_torch_reads_them(fixtures_dir: Path, name: str) -> None:
    assert_same(
        materialised(unpickle.read(fixtures_dir / name).tree), torch.load(fixtures_dir / name, weights_only=True)
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_layout_and_protocol_of_torch_save(tmp_path: Path, zipped: bool, protocol: int) -> None:
    base = torch.arange(40.0).reshape(5, 8)
    content = {
        "whole": base,
        "row": base[2],
        "turned": base.T,
        "skipping": base[:, 1::3],
        "grown": torch.ones(1).expand(4, 3),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 2),
        "kinds": [torch.ones(3).to(kind) for kind in (torch.float16, torch.bfloat16, torch.bool, torch.uint8)],
        "unsigned": torch.tensor([1, 2], dtype=torch.uint16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, {"k": [1]}),
        "plain": [None, True, -5, 2**70, 1.5, "é\n", b"\x00\xff", (1, (2, 3)), {1: {2}, (1, "a"): frozenset([3])}],
        "size": base.shape,
    }
    torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read = unpickle.read(tmp_path / "x.pt")
    assert read.container == ("zip" if zipped else "legacy")
    assert_same(materialised(read.tree), content)


def test_a_legacy_file_with_shared_storages(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    content = {"a": base, "b": base[1:3], "c": torch.randn(3), "d": base.view(-1)[5:]}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert_same(materialised(unpickle.read(tmp_path / "x.pt").tree), content)


def test_tensors_share_their_place_in_the_file(tmp_path: Path) -> None:
    weight = torch.randn(4)
    torch.save({"a": weight, "b": weight}, tmp_path / "x.pt")
    tree = unpickle.read(tmp_path / "x.pt").tree
    assert tree["a"] == tree["b"]


def test_objects_become_records_with_their_attributes(tmp_path: Path) -> None:
    content = {
        "path": pathlib.PurePosixPath("/a/b"),
        "hyper": argparse.Namespace(lr=0.1, deep=argparse.Namespace(x=[1])),
        "module": torch.nn.Linear(2, 3),
    }
    torch.save(content, tmp_path / "x.pt")
    read = unpickle.read(tmp_path / "x.pt")
    hyper, module = read.tree["hyper"], read.tree["module"]
    assert (hyper.type, hyper.state["lr"], hyper.state["deep"].state) == ("argparse.Namespace", 0.1, {"x": [1]})
    assert read.tree["path"].type.endswith("PurePosixPath")
    assert module.type == "torch.nn.modules.linear.Linear"
    assert module.state["_parameters"]["weight"].shape == (3, 2)
    assert ("module", "state", "_parameters", "bias") in dict(unpickle.walk(read.tree))


@pytest.mark.parametrize("name", ["head_00", "toy_v2Pro_e8_s96", "toy_v2ProPlus_e4_s40", "toy_v3_e2_s10_l32"])
def test_a_replaced_zip_signature_is_no_obstacle(fixtures_dir: Path, name: str) -> None:
    path = fixtures_dir / "process_ckpt" / f"{name}.pth"
    if not path.exists():
        pytest.skip("needs the full set of fixtures")
    data = path.read_bytes()
    assert data[:2] != b"PK"
    read = unpickle.read(path)
    config = read.tree["config"]
    assert isinstance(config, Record)
    assert config.type == "utils.HParams"
    assert config.state["model"].type == "utils.HParams"
    with zipfile.ZipFile(io.BytesIO(b"PK" + data[2:])) as archive:
        for key, stored in read.tree["weight"].items():
            numbers = stored.read().numpy().tobytes()
            assert any(numbers == archive.read(entry) for entry in archive.namelist() if "/data/" in entry), key


def test_a_lightning_checkpoint_with_paths_in_it(fixtures_dir: Path) -> None:
    path = fixtures_dir / "s1_lightning_ckpt" / "epoch=1-step=2.ckpt"
    if not path.exists():
        pytest.skip("needs the full set of fixtures")
    read = unpickle.read(path)
    assert read.tree["global_step"] == 2
    assert read.tree["hyper_parameters"]["output_dir"].type == "pathlib.PosixPath"
    assert pickle_names.unsafe_globals(read.globals) == []


# ---------------------------------------------------------------- hostile files


class Bomb:
    """Pickles to a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
def test_a_bomb_is_named_and_never_goes_off(tmp_path: Path, protocol: int, container: str) -> None:
    target, path = tmp_path / "exploded", tmp_path / "x.pt"
    content = {
        "w": torch.ones(2),
        "bomb": Bomb(os.mkdir, str(target)),
        "eval": Bomb(eval, f"open({str(target)!r}, 'w')"),
    }
    if container == "bare":
        path.write_bytes(pickle.dumps({"bomb": content["bomb"], "eval": content["eval"]}, protocol=protocol))
    elif protocol < 2:
        pytest.skip("torch itself cannot write this")
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container == "zip")
    names = unpickle.scan_globals(path)
    read = unpickle.read(path)
    assert pickle_names.unsafe_globals(names) == ["posix.mkdir", "builtins.eval"]
    assert pickle_names.unsafe_globals(read.globals) == ["posix.mkdir", "builtins.eval"]
    assert read.tree["bomb"].args == (str(target),)
    assert unpickle.looks_pickled(path) or container == "zip"
    assert not target.exists()


def test_a_name_put_together_on_the_stack_is_found(tmp_path: Path) -> None:
    # "os" and "system" come out of the memo in an order that only running the stack reveals
    stream = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94\x30\x30h\x01h\x00\x93\x8c\x04true\x85R."
    (tmp_path / "x.pt").write_bytes(stream)
    assert unpickle.scan_globals(tmp_path / "x.pt") == ["os.system"]
    assert pickle_names.unsafe_globals(["os.system"]) == ["os.system"]


def test_names_are_found_even_where_the_pickle_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x80\x02cos\nsystem\nU\x02idR.garbage"[:-12] + b"\x97\x97\x97")
    assert unpickle.scan_globals(tmp_path / "x.pt") == ["os.system"]
    with pytest.raises(CheckpointError):
        unpickle.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("collections.OrderedDict", "harmless"),
        ("torch.BFloat16Storage", "harmless"),
        ("torch.float8_e4m3fn", "harmless"),
        ("pathlib.PosixPath", "harmless"),
        ("utils.HParams", "harmless"),
        ("AR.models.Thing", "unknown"),
        ("posix.system", "unsafe"),
        ("builtins.exec", "unsafe"),
        ("torch._utils.os.system", "unsafe"),
        ("torch.load", "unsafe"),
        ("torch.storage._load_from_bytes", "unsafe"),
        ("numpy.testing._private.utils.exec", "unsafe"),
    ],
)
def test_names_are_judged(name: str, verdict: str) -> None:
    assert pickle_names.classify(name) == verdict


# Each of these acts when a loader obeys it: it runs code, writes, connects, imports, or calls what its arguments name.
ACTING = [
    "posix.system",
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "builtins.getattr",
    "importlib.import_module",
    "runpy.run_path",
    "webbrowser.open",
    "shutil.rmtree",
    "socket.create_connection",
    "pty.spawn",
    "operator.methodcaller",
    "pip._internal.main",
    "pydoc.pipepager",
    "bdb.Bdb.run",
    "timeit.timeit",
    "cProfile.run",
    "torch.hub.load",
    "torch.jit.load",
    "torch.compile",
    "torch.utils.cpp_extension.load",
    "torch._inductor.codecache.load",
    "numpy.load",
    "numpy.fromfile",
    "numpy.memmap",
    "numpy.f2py.compile",
    "numpy.testing.measure",
    "pandas.read_pickle",
    "pandas.eval",
    "transformers.AutoModel.from_pretrained",
    "lightning.pytorch.Trainer",
    "logging.FileHandler",
    "logging.config.dictConfig",
    "logging.config._resolve",
    "ensurepip.bootstrap",
    "idlelib.pyshell.main",
    "lib2to3.main.main",
    "unittest.main",
    "test.support.script_helper.assert_python_ok",
    "weakref.finalize",
    "atexit.register",
    "gc.collect",
    "typing.get_type_hints",
    "dataclasses.make_dataclass",
    "types.FunctionType",
    "types.CodeType",
    "copyreg.add_extension",
    "pathlib.Path.unlink",
    "pathlib.PosixPath.write_text",
    "collections.namedtuple",
    "collections.OrderedDict.fromkeys",
    "turtle.Screen",
    "xml.etree.ElementTree.parse",
    "sqlite3.connect",
    "configparser.ConfigParser.read",
    "anything.at.all",
]


@pytest.mark.parametrize("name", ACTING)
def test_a_file_that_acts_is_never_called_safe(name: str) -> None:
    harmless = ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"]
    assert pickle_names.judge(harmless) == "safe"
    assert pickle_names.judge([*harmless, name]) in ("unknown", "unsafe")


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02]q\x00(h\x00e.",  # a list that holds itself
        b"\x80\x02" + b"(" * 5 + b".",
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02U\x01a)R.",  # calls a string
        b"\x80\x02}(]K\x01u.",  # a list as a key
        b"\x80\x02cbuiltins\nset\n]q\x00h\x00a\x85R.",
        b"\x80\x05\x97.",  # out-of-band buffer
        b"\x80\x02" + b"I1\n" + b"\x85" * 100_000 + b"}(" + b"h\x00" + b"u.",
        b"\x80\x02(lp0\n." + b"0" * 50,
    ],
)
def test_odd_pickles_end_in_data_or_in_one_kind_of_error(tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(stream)
    unpickle.scan_globals(tmp_path / "x.pt")
    with contextlib.suppress(CheckpointError):
        list(unpickle.walk(unpickle.read(tmp_path / "x.pt").tree))


def rewritten(source: Path, target: Path, change: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            for name, data in change(info.filename, old.read(info)):
                new.writestr(name, data)
    return target


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 5)}, tmp_path / "x.pt")

    def grow(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, data.replace(b"K\x03K\x05\x86", b"K\x09K\x05\x86"))]

    with pytest.raises(CheckpointError, match="beyond its storage"):
        unpickle.read(rewritten(tmp_path / "x.pt", tmp_path / "y.pt", grow))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_missing_short_and_doubled_members_are_damage(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 5)}, tmp_path / "x.pt")
    cases = {
        "are incomplete": lambda name, data: [] if name.endswith("data/0") else [(name, data)],
        "0 are incomplete": lambda name, data: [(name, data[:8] if name.endswith("data/0") else data)],
        "not one that": lambda name, data: [] if name.endswith("data.pkl") else [(name, data)],
        "twice": lambda name, data: [(name, data)] * (2 if name.endswith("data.pkl") else 1),
        "big-endian": lambda name, data: [(name, b"big" if name.endswith("byteorder") else data)],
        "TorchScript": lambda name, data: [(name, data), (f"x/code/{name}.py", b"")],
    }
    for message, change in cases.items():
        path = rewritten(tmp_path / "x.pt", tmp_path / "y.pt", change)
        with pytest.raises(CheckpointError, match=message):
            unpickle.read(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_files_are_called_so(tmp_path: Path, zipped: bool) -> None:
    torch.save({"w": torch.ones(300)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "x.pt").read_bytes()
    for length in (len(data) // 3, len(data) - 400, len(data) - 30):
        (tmp_path / "y.pt").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut short|incomplete"):
            unpickle.read(tmp_path / "y.pt")


def test_reading_the_pickle_does_not_read_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    stored = unpickle.read(path).tree["w"]
    with path.open("r+b") as file:
        file.seek(stored.offset + 4 * 17)
        file.write(struct.pack("<f", 5.0))
    with pytest.raises(CheckpointError, match="the checksum of a tensor in it differs"):
        stored.read()
