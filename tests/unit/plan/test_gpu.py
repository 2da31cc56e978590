"""The plan compares with the memory of the GPU that the run will get."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ttstrain.plan import gpu

LISTED = """0, GPU-aaaa1111-0000, 81559
1, GPU-bbbb2222-0000, 24576
2, GPU-bbcc3333-0000, 81559
3, GPU-dddd4444-0000, [N/A]
"""
GIB = 2**30


@pytest.fixture(autouse=True)
def _two_kinds_of_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(gpu.QUERY, 0, LISTED, "")

    monkeypatch.setattr(subprocess, "run", run)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    gpu.gpu_memory.cache_clear()
    yield
    gpu.gpu_memory.cache_clear()


@pytest.mark.parametrize(
    ("named", "order", "expected"),
    [
        (None, None, 24),
        ("0", "PCI_BUS_ID", 79.6),
        ("1", "PCI_BUS_ID", 24),
        ("2,0", "PCI_BUS_ID", 79.6),
        ("0", None, 24),  # the fastest, and nobody says which that is
        ("GPU-aaaa", None, 79.6),
        ("GPU-bbbb2222-0000,GPU-aaaa", None, 24),
        ("GPU-bb", None, None),  # two begin so
        ("2,9,1", "PCI_BUS_ID", 79.6),  # CUDA stops reading at a name it does not know
        ("", None, None),
        ("-1", None, None),
        ("MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", None, None),
    ],
)
def test_the_smallest_gpu_that_cuda_may_use(
    monkeypatch: pytest.MonkeyPatch, named: str | None, order: str | None, expected: float | None
) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", named), ("CUDA_DEVICE_ORDER", order)):
        if value is not None:
            monkeypatch.setenv(name, value)
    found = gpu.gpu_memory()
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found / GIB == pytest.approx(expected, rel=0.01)


def test_a_machine_without_nvidia_smi_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu.gpu_memory() is None
