"""The packed fixtures are the full ones, so that parity means the same in every clone."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

ARCHIVES = sorted((Path(__file__).resolve().parents[1] / "fixtures_compact").glob("*.tar.xz"))


def test_every_clone_carries_fixtures_within_the_budget() -> None:
    assert ARCHIVES
    assert sum(archive.stat().st_size for archive in ARCHIVES) <= 6_000_000


@pytest.mark.shared
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def test_packed_fixture_equals_the_original(archive: Path, shared_data: Path) -> None:
    originals = shared_data.parent / "fixtures"
    folder = archive.name.removesuffix(".tar.xz")
    with tarfile.open(archive) as tar:
        packed = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    assert packed == {
        path.relative_to(originals).as_posix(): path.read_bytes()
        for path in (originals / folder).rglob("*")
        if path.is_file()
    }
