"""The edits of healthy files: the same case is always the same file, and edits keep to what they say."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hostile import archives
from hostile.catalogue import make_case, readers
from hostile.mutation import Special, flip
from hostile.pickles import edit_zip, members
from hostile.readers.data import sound
from hostile.sounds import _ogg_checksum, chunks, pages
from hostile.tensors import put_together, take_apart
from hostile.trees import Raw, Twice, edit_tree, written

FEW = ("wav", "csv, tsv", "pt (zip)", "safetensors", "yaml recipe")


@pytest.mark.parametrize("name", FEW)
def test_a_case_is_the_same_file_each_time(name: str, tmp_path: Path) -> None:
    samples = readers()[name].samples(tmp_path)
    for number in range(5):
        one, other = (make_case(Random(f"{name}/{number}"), samples) for _ in range(2))
        assert one == other


def test_nearly_all_cases_differ_from_their_healthy_files(tmp_path: Path) -> None:
    samples = readers()["wav"].samples(tmp_path)
    cases = [make_case(Random(number), samples) for number in range(200)]
    assert sum(case.files == samples[case.sample].files for case in cases) < 10
    assert any(isinstance(content, Special) for case in cases for content in case.files.values())


def test_trees_are_written_with_what_json_has_no_word_for() -> None:
    tree = {"a": Twice({"b": 1}, "b", [Raw("NaN"), "\ud800"])}
    assert written(tree) == '{"a":{"b":1,"b":[NaN,"\\ud800"]}}'
    changed = [edit_tree(Random(number), {"a": [1, {"b": "c"}]})[0] for number in range(50)]
    assert sum(one != {"a": [1, {"b": "c"}]} for one in changed) > 40


def test_formats_are_taken_apart_and_put_together_again(tmp_path: Path) -> None:
    wav, ogg = sound("WAV", "PCM_16"), sound("OGG", "VORBIS")
    assert b"".join(chunk.written() for chunk in chunks(wav)) == wav[12:]
    assert b"".join(pages(ogg)) == ogg
    page = pages(ogg)[1]
    assert _ogg_checksum(page[:22] + bytes(4) + page[26:]) == int.from_bytes(page[22:26], "little")
    (shard,) = readers()["WebDataset shards"].samples(tmp_path)
    tar = bytes(shard.files[shard.target])  # type: ignore[arg-type]
    assert len(archives.members(tar)) == 6
    assert tar.startswith(b"".join(header + content for header, content in archives.members(tar)) + bytes(1024))
    (tensors, *_) = readers()["safetensors"].samples(tmp_path)
    header, data = take_apart(bytes(tensors.files["w.safetensors"]))  # type: ignore[arg-type]
    assert json.loads(written(header)) == header
    assert take_apart(put_together(header, data)) == (header, data)


def test_an_archive_whose_pickle_was_edited_has_right_checksums(tmp_path: Path) -> None:
    (sample, *_) = readers()["pt (zip)"].samples(tmp_path)
    content = sample.files["w.pt"]
    assert isinstance(content, bytes)
    edited = [edit_zip(Random(number), content) for number in range(40)]
    inside = [one for one in edited if one.how.startswith("opcode")]
    assert inside
    for one in inside:
        assert members(one.content).keys() == members(content).keys()


def test_flipping_changes_bits_only() -> None:
    assert len(flip(Random(1), bytes(100)).content) == 100
