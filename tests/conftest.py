"""What every test may rely on: the golden fixtures, the recordings, one thread, fixed seeds and no network."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
COMPACT_FIXTURES = REPO / "tests" / "fixtures_compact"

# Read by torch and by child processes when they start, so they are set before any test module is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def shared_folder() -> Path | None:
    """Find the project's shared folder: `$TTSTRAIN_SHARED`, else `shared` beside the checkout."""
    named = os.environ.get("TTSTRAIN_SHARED")
    folder = Path(named) if named else REPO.parent / "shared"
    if named and not folder.is_dir():
        raise pytest.UsageError(f"TTSTRAIN_SHARED names `{named}`, which is not a folder")
    return folder if folder.is_dir() else None


def pytest_report_header() -> str:
    shared = shared_folder()
    return f"golden fixtures: {'shared' if shared else 'compact copy'}; recordings: {'shared' if shared else 'none'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
        if item.get_closest_marker("gpu") is not None:
            import torch

            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
        if item.get_closest_marker("upstream") is not None and not os.environ.get("TTSTRAIN_UPSTREAM_PYTHON"):
            item.add_marker(pytest.mark.skip(reason="set TTSTRAIN_UPSTREAM_PYTHON to an interpreter with f5-tts"))


@pytest.fixture(scope="session")
def fixtures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of golden fixtures: the full set where it is at hand, else the compact copy, unpacked."""
    shared = shared_folder()
    if shared is not None and (shared / "fixtures").is_dir():
        return shared / "fixtures"
    return unpack_fixtures(tmp_path_factory.mktemp("fixtures"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real recordings, or skip."""
    shared = shared_folder()
    if shared is None or not (shared / "data").is_dir():
        pytest.skip("needs the project's recordings: `shared/data` beside the checkout, or $TTSTRAIN_SHARED")
    return shared / "data"


def unpack_fixtures(folder: Path) -> Path:
    archives = sorted(COMPACT_FIXTURES.glob("*.tar.xz"))
    if not archives:
        raise pytest.UsageError(f"no fixture archives in {COMPACT_FIXTURES}")
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTSTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections that leave the machine; child processes are told to stay offline by the environment."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            raise ConnectionRefusedError(f"tests have no network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name other than localhost
        return False


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
