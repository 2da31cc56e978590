from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from speech_toys import RATE, syllables, text_for

from ttstrain.data import audit as audit_module
from ttstrain.data import shards
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import AuditResult, audit
from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.data.readers import read_rows, webdataset
from ttstrain.data.readers.rows import TableError
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig

Member = tuple[str, bytes]


def sound(seconds: float, *, seed: int, form: str = "FLAC") -> bytes:
    target = io.BytesIO()
    soundfile.write(target, syllables(seconds, seed=seed), RATE, format=form)
    return target.getvalue()


def sample(number: int, *, seconds: float = 1.5, ending: str = "flac", form: str = "FLAC") -> list[Member]:
    return [
        (f"{number:04d}.{ending}", sound(seconds, seed=number, form=form)),
        (f"{number:04d}.txt", text_for(seconds).encode()),
    ]


def tar_of(members: Iterable[Member], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shards"
    made.mkdir()
    for shard in range(3):
        members = [member for i in range(2) for member in sample(10 * shard + i)]
        (made / f"train-{shard:06d}.tar").write_bytes(tar_of(members))
    return made


def judged(named: str | Path, cache: Path) -> AuditResult:
    return audit(read_rows(str(named), cache_dir=str(cache)), DataConfig(cache_dir=str(cache)))


IDS = ["0000", "0001", "0010", "0011", "0020", "0021"]


@pytest.mark.parametrize("name", ["", "train-{000000..000002}.tar", "train-*.tar"])
def test_shards_are_named_by_folder_range_or_pattern(folder: Path, tmp_path: Path, name: str) -> None:
    table = read_rows(f"{folder}/{name}", cache_dir=str(tmp_path / "cache"))
    assert (table.format, [row.id for row in table.rows]) == ("webdataset", IDS)


def test_clips_are_read_where_they_lie(folder: Path, tmp_path: Path) -> None:
    result = judged(folder, tmp_path / "cache")
    assert [clip.id for clip in result.clips] == IDS
    for clip in result.clips:
        expected = syllables(1.5, seed=int(clip.id))
        written = np.round(expected * 2**15) / 2**15
        assert np.abs(read_clip(clip, RATE).numpy() - written).max() < 2 / 2**15
    kept = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == {".json", ".jsonl"}  # nothing was unpacked
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, result.clips)
    assert read_manifest(path) == result.clips


def test_a_shard_is_gone_through_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path / "cache")
    first = read_rows(folder, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset.tarfile, "open", None)
        assert read_rows(folder, cache_dir=cache) == first
    (folder / "train-000001.tar").write_bytes(tar_of(sample(99)))
    assert [row.id for row in read_rows(folder, cache_dir=cache).rows] == ["0000", "0001", "0099", "0020", "0021"]


def test_objects_name_text_speaker_and_language(tmp_path: Path) -> None:
    values = {"text": text_for(1.5), "speaker": "ann", "language": "EN", "id": "first", "duration": 9.0}
    members = [("a/b.flac", sound(1.5, seed=1)), ("a/b.json", json.dumps(values).encode()), ("a/b.cls", b"1")]
    (tmp_path / "one.tar").write_bytes(tar_of(members))
    (row,) = read_rows(tmp_path / "one.tar", cache_dir=str(tmp_path / "cache")).rows
    assert (row.id, row.speaker, row.language, row.seconds) == ("first", "ann", "en", 1.5)


@pytest.mark.parametrize("ending", ["wav", "ogg", "mp3"])
def test_other_kinds_of_sound_are_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "one.tar").write_bytes(tar_of(sample(1, ending=ending, form=ending.upper()), form=tarfile.GNU_FORMAT))
    (clip,) = judged(tmp_path / "one.tar", tmp_path / "cache").clips
    assert len(read_clip(clip, RATE)) == clip.num_samples


def test_lengths_come_from_the_recordings_headers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MANY_ROWS", 1)
    cache = str(tmp_path / "cache")
    planned = audit(read_rows(folder, cache_dir=cache), DataConfig(cache_dir=cache), lengths="given")
    assert [clip.duration_s for clip in planned.clips] == [1.5] * 6
    assert not any(clip.digest for clip in planned.clips)


# ---------------------------------------------------------------- hostile shards


def test_names_that_climb_are_ids_and_no_paths(tmp_path: Path) -> None:
    (tmp_path / "one.tar").write_bytes(tar_of([(f"../../{name}", content) for name, content in sample(1)]))
    result = judged(tmp_path / "one.tar", tmp_path / "cache")
    assert result.clips[0].path.parent == tmp_path / "one.tar"
    assert not (tmp_path.parent / "0001.flac").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out(tmp_path: Path, kind: bytes) -> None:
    target = io.BytesIO(tar_of(sample(1)))
    with tarfile.open(fileobj=target, mode="a") as tar:
        info = tarfile.TarInfo("0002.flac")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    (tmp_path / "one.tar").write_bytes(target.getvalue())
    table = read_rows(tmp_path / "one.tar", cache_dir=str(tmp_path / "cache"))
    assert [row.id for row in table.rows] == ["0001"]
    assert [(f.row.id, f.action) for f in table.findings] == [("0002", "skip")]


@pytest.mark.parametrize("left", [100, 700, 0.5, "blocks"])
def test_a_truncated_shard_is_named(folder: Path, tmp_path: Path, left: Any) -> None:
    path = folder / "train-000001.tar"
    whole = path.read_bytes()
    if left == "blocks":  # cut exactly between two samples
        with tarfile.open(path) as tar:
            left = tar.getmembers()[2].offset
    size = int(left * len(whole)) if isinstance(left, float) else left
    path.write_bytes(whole[:size])
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        read_rows(folder, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08" + bytes(600), b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_what_is_no_tar_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "one.tar").write_bytes(content)
    with pytest.raises(TableError, match=r"one\.tar"):
        read_rows(tmp_path / "one.tar", cache_dir=str(tmp_path / "cache"))


def test_a_header_in_the_middle_that_is_damaged_is_told(tmp_path: Path) -> None:
    content = bytearray(tar_of([*sample(1), *sample(2)]))
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        content[tar.getmembers()[2].offset + 150] ^= 1  # of its checksum
    (tmp_path / "one.tar").write_bytes(content)
    with pytest.raises(TableError, match="without the mark of its end"):
        read_rows(tmp_path / "one.tar", cache_dir=str(tmp_path / "cache"))


def test_a_shard_that_shrank_since_is_told(folder: Path, tmp_path: Path) -> None:
    clip = judged(folder, tmp_path / "cache").clips[-1]
    shard = clip.path.parent
    os.truncate(shard, 2048)
    with pytest.raises(DataError, match="truncated"):
        read_clip(clip, RATE)


def test_samples_without_sound_or_with_two_are_left_out(tmp_path: Path) -> None:
    twice = [("0003.wav", b"x"), *sample(3)]
    (tmp_path / "one.tar").write_bytes(tar_of([*sample(1), ("0002.txt", b"hello"), *twice]))
    table = read_rows(tmp_path / "one.tar", cache_dir=str(tmp_path / "cache"))
    assert [row.id for row in table.rows] == ["0001"]
    whys = [finding.why for finding in table.findings]
    assert whys == ["the sample holds no recording", "2 recordings in one sample"]


def test_a_range_of_too_many_shards_is_refused() -> None:
    with pytest.raises(TableError, match="more than"):
        read_rows("x-{0..999999999}.tar")


# ---------------------------------------------------------------- other stores


@pytest.fixture
def memory(folder: Path) -> Iterable[str]:
    store = fsspec.filesystem("memory")
    for path in folder.iterdir():
        store.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["", "/", "/train-{000000..000002}.tar", "/train-*.tar"])
def test_remote_shards_are_read_by_range(memory: str, tmp_path: Path, name: str) -> None:
    result = judged(memory + name, tmp_path / "cache")
    assert [clip.id for clip in result.clips] == IDS
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, result.clips)
    again = read_manifest(path)
    assert again == result.clips
    assert len(read_clip(again[3], RATE)) == again[3].num_samples


def test_file_addresses_are_paths(folder: Path, tmp_path: Path) -> None:
    assert [row.id for row in read_rows(f"file://{folder}", cache_dir=str(tmp_path / "cache")).rows] == IDS


def test_a_remote_shard_that_changed_is_read_again(memory: str, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    read_rows(memory, cache_dir=cache)
    fsspec.filesystem("memory").pipe("/bucket/train-000001.tar", tar_of(sample(99)))
    assert "0099" in [row.id for row in read_rows(memory, cache_dir=cache).rows]


def test_faults_of_a_store_are_told_without_its_words(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("403 for key AKIASECRET")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", refuse)
    with pytest.raises(DataError, match="cannot be read from its store") as fault:
        read_rows(f"{memory}/train-000000.tar", cache_dir=str(tmp_path / "cache"))
    assert "SECRET" not in str(fault.value)


@pytest.mark.parametrize("named", ["s3://key:SECRET@bucket/a.tar", "ftp://SECRET@host/a-*.tar"])
def test_passwords_in_addresses_are_refused_and_not_repeated(named: str) -> None:
    with pytest.raises(DataError) as fault:
        read_rows(named)
    assert "SECRET" not in f"{fault.value} {fault.value.hint}"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match="needs fsspec") as fault:
        read_rows("s3://bucket/a.tar")
    assert fault.value.hint == 'pip install "ttstrain[remote]"'


def test_an_unknown_store_and_an_address_of_no_shards_are_told() -> None:
    with pytest.raises(DataError, match="no store is known"):
        read_rows("nostore://bucket/a.tar")
    with pytest.raises(DataError, match="names no tar shards"):
        read_rows("memory://nothing/there")


def test_only_names_of_parts_are_parts(tmp_path: Path) -> None:
    assert shards.part_of(tmp_path / "a.tar" / "512-100.flac") == shards.Part(tmp_path / "a.tar", 512, 100)
    for name in ("a.tar/512.flac", "a.tar/-512-100.flac", "a/512-100.flac", "a.tar/512-100", "a.tar/x/512-100.flac"):
        assert shards.part_of(tmp_path / name) is None
