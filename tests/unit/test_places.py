"""A place that the system refuses is named, with the reason and a way out; never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ttstrain import places
from ttstrain.checkpoint import store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.cli import main as command_line
from ttstrain.errors import CheckpointError, DataError, UserError
from ttstrain.families.flow.vocab import load_vocab
from ttstrain.tensors import tensorfile


def refusing(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.EXDEV]
)
def test_a_refusal_says_which_path_why_and_what_to_do(number: int) -> None:
    with pytest.raises(DataError) as caught, places.refused_as(DataError, hint="`-o` names it"):
        raise refusing(number, "/far/away")
    assert caught.value.message == f"`/far/away` cannot be used: {os.strerror(number)}"
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("; `-o` names it")


def test_a_fault_without_a_path_takes_the_one_at_hand() -> None:
    with (
        pytest.raises(CheckpointError, match="`/here` cannot be used: No space left"),
        places.refused_as(CheckpointError, path=Path("/here")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ttstrain", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0), capfd.readouterr().err


def make_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("command", [["prepare", "package:demo"], ["plan", "from_scratch"]])
def test_a_cache_that_cannot_be_written_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TTSTRAIN_CACHE", str(make_file(tmp_path / "afile")))
    code, err = run(monkeypatch, capfd, *command)
    assert code == 3
    assert f"error: `{tmp_path}/afile/audit" in err
    assert "data.cache_dir" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["-o", "--vocab-out"])
def test_what_prepare_writes_is_named(
    option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TTSTRAIN_CACHE", str(tmp_path / "cache"))
    place = make_file(tmp_path / "afile") / "inside"
    more = ["--recipe", "smoke/flow"] if option == "--vocab-out" else []
    code, err = run(monkeypatch, capfd, "prepare", "package:demo", *more, option, str(place))
    assert code == 3
    assert f"error: `{tmp_path}/afile" in err
    assert f"with `{option}`" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
def test_a_refusal_that_nobody_foresaw_is_no_defect(
    number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise refusing(number, "/some/place")

    monkeypatch.setitem(command_line.COMMANDS, "env", command_line.Command("ttstrain_refusing:refuse", "Refuse."))
    module = type(sys)("ttstrain_refusing")
    module.refuse = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ttstrain_refusing", module)
    code, err = run(monkeypatch, capfd, "env")
    assert code == UserError.exit_code
    assert err.startswith(f"error: `/some/place` cannot be used: {os.strerror(number)}\nhint: ")
    assert "Traceback" not in err


def closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to open a file, as the system does to who has no right to it; root has every right."""
    really = Path.open

    def opened(self: Path, *arguments: object, **options: object) -> object:
        if self == path:
            raise refusing(errno.EACCES, str(self))
        return really(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("use", [inspect, lambda path: load_vocab(str(path), space_first=False)])
def test_a_file_that_may_not_be_read_is_named(
    use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    path = tmp_path / "x.safetensors"
    tensorfile.write(path, {"a": torch.ones(2)})
    closed(path, monkeypatch)
    with pytest.raises(UserError, match=f"`{path}` cannot be .*: Permission denied"):
        use(path)


def test_a_vocab_that_never_ends_is_refused() -> None:
    with pytest.raises(UserError, match="`/dev/zero` cannot be read: it is a device"):
        load_vocab("/dev/zero", space_first=False)


def test_a_checkpoint_whose_weights_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from ttstrain.checkpoint.meta import Meta

    meta = Meta(family="flow", task="flow", model={}, recipe="r", step=1)
    store.save(tmp_path / "c", {"task": {"a": torch.ones(2)}}, meta)
    closed(tmp_path / "c" / "weights.safetensors", monkeypatch)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors` cannot be .*: Permission denied"):
        store.load(tmp_path / "c")


def test_a_data_folder_that_cannot_be_looked_into_is_bad_data(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> bool:
        if tmp_path in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return False

    monkeypatch.setattr(Path, "is_file", refuse)
    code, err = run(monkeypatch, capfd, "plan", "smoke/flow", "--data", str(tmp_path))
    assert code == 3
    assert f"error: `{tmp_path}/" in err
    assert "Traceback" not in err


def test_an_unknown_users_folder_is_a_path_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert places.expanded("~/a") == Path("/home/me/a")
    assert places.expanded("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
    assert places.expanded("a/~") == Path("a/~")
