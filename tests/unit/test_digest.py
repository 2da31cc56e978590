"""Sums of bytes, texts and files, against hashlib."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ttstrain.digest import sha256, sha256_of_file, sha256_of_files


def test_pieces_count_as_if_they_were_joined() -> None:
    expected = hashlib.sha256("é\n".encode() + b"\x00\xff" + bytes(range(9))).hexdigest()
    assert sha256("é\n", b"\x00\xff", memoryview(bytes(range(9)))) == expected
    assert sha256() == hashlib.sha256().hexdigest()


def test_a_path_that_is_no_utf8_counts_as_on_disk() -> None:
    assert sha256(os.fsdecode(b"/caf\xe9")) == hashlib.sha256(b"/caf\xe9").hexdigest()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 3])
def test_a_file_has_the_sum_of_its_bytes(size: int, tmp_path: Path) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "x"
    path.write_bytes(content[:size])
    assert sha256_of_file(path) == hashlib.sha256(content[:size]).hexdigest()


def test_files_count_one_after_the_other(tmp_path: Path) -> None:
    for name, content in (("a", b"longer"), ("b", b"xy")):
        (tmp_path / name).write_bytes(content)
    assert sha256_of_files([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"longerxy").hexdigest()
    assert sha256_of_files([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"xylonger").hexdigest()
