"""Tokens and codes against what upstream's code made of the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.families.orpheus.codec import Codec, load_codec
from ttstrain.families.orpheus.codes import deduplicate, deinterleave, from_ids, interleave, to_ids
from ttstrain.families.orpheus.ids import PUBLISHED
from ttstrain.families.orpheus.rows import IGNORED, pack, speech_row

ROWS = range(4)


def folder_of(fixtures_dir: Path, name: str) -> Path:
    folder = fixtures_dir / name
    if not folder.is_dir():
        pytest.skip(f"needs the full set of fixtures: {name}")
    return folder


# ---------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokens(fixtures_dir: Path) -> Path:
    return folder_of(fixtures_dir, "orpheus_tokens")


@pytest.fixture(scope="module")
def upstream_rows(tokens: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((tokens / "rows.json").read_text())
    assert len(rows) == len(ROWS)
    return rows


@pytest.fixture(scope="module")
def frames(tokens: Path) -> list[Tensor]:
    inputs = load_file(tokens / "inputs.safetensors")
    return [interleave([inputs[f"row{i}.codes{level}"][0] for level in range(3)]) for i in ROWS]


def test_ids_are_those_of_the_published_models(tokens: Path) -> None:
    special = json.loads((tokens / "config.json").read_text())["special"]
    assert PUBLISHED.first_custom == special["tokeniser_length"]
    assert PUBLISHED.bos == special["start_of_text"]
    assert PUBLISHED.eot == special["end_of_text"]
    assert PUBLISHED.sos == special["start_of_speech"]
    assert PUBLISHED.eos == special["end_of_speech"]
    assert PUBLISHED.soh == special["start_of_human"]
    assert PUBLISHED.eoh == special["end_of_human"]
    assert PUBLISHED.soa == special["start_of_ai"]
    assert PUBLISHED.eoa == special["end_of_ai"]
    assert PUBLISHED.pad == special["pad_token"]
    assert PUBLISHED.first_audio == special["audio_tokens_start"]


@pytest.mark.parametrize("i", ROWS)
def test_levels_are_interleaved_as_upstream(i: int, frames: list[Tensor], upstream_rows: list[dict[str, Any]]) -> None:
    assert to_ids(frames[i]).tolist() == upstream_rows[i]["codes_list"]


@pytest.mark.parametrize("i", ROWS)
def test_the_codec_is_handed_the_levels_that_upstream_hands_it(
    i: int, tokens: Path, upstream_rows: list[dict[str, Any]]
) -> None:
    expected = load_file(tokens / "expected.safetensors")
    levels = deinterleave(from_ids(torch.tensor(upstream_rows[i]["codes_list"])))
    for level in range(3):
        assert torch.equal(levels[level], expected[f"row{i}.deinterleaved{level}"][0])


@pytest.mark.parametrize("i", ROWS)
def test_repeated_frames_are_left_out_as_upstream(
    i: int, frames: list[Tensor], upstream_rows: list[dict[str, Any]]
) -> None:
    left = deduplicate(frames[i], "slot0")
    assert to_ids(left.frames).tolist() == upstream_rows[i]["codes_list_dedup"]
    assert left.num_removed == upstream_rows[i]["removed_frames"]


def test_some_fixture_has_repeated_frames(upstream_rows: list[dict[str, Any]]) -> None:
    assert any(row["removed_frames"] for row in upstream_rows)


def upstream_row(i: int, frames: list[Tensor], upstream_rows: list[dict[str, Any]]) -> Any:
    bos, *text = upstream_rows[i]["text_ids"]
    assert bos == PUBLISHED.bos
    return speech_row(f"row{i}", text, deduplicate(frames[i], "slot0").frames, PUBLISHED, labels="all")


@pytest.mark.parametrize("i", ROWS)
def test_rows_are_upstreams(i: int, frames: list[Tensor], upstream_rows: list[dict[str, Any]]) -> None:
    row = upstream_row(i, frames, upstream_rows)
    assert row.tokens.tolist() == upstream_rows[i]["input_ids"]
    # The first label is never used: upstream's loss shifts it away, here it is left out.
    assert row.labels.tolist() == [IGNORED, *upstream_rows[i]["labels"][1:]]


def test_a_packed_batch_holds_what_upstream_pads(
    tokens: Path, frames: list[Tensor], upstream_rows: list[dict[str, Any]]
) -> None:
    padded = load_file(tokens / "expected.safetensors")
    batch = pack([upstream_row(i, frames, upstream_rows) for i in ROWS])
    real = padded["collated.attention_mask"].bool()
    assert torch.equal(batch.input_ids[0], padded["collated.input_ids"][real])
    assert torch.equal(batch.cu_seqlens.diff().long(), real.sum(dim=1))
    labels = padded["collated.labels"].clone()
    labels[:, 0] = IGNORED
    assert torch.equal(batch.labels[0], labels[real])
    assert batch.weight == float((padded["collated.labels"][:, 1:] != IGNORED).sum())


# ---------------------------------------------------------------- codec


@pytest.fixture(scope="module")
def snac(fixtures_dir: Path) -> Path:
    return folder_of(fixtures_dir, "snac_tiny")


@pytest.fixture(scope="module")
def codec(snac: Path) -> Codec:
    return load_codec(str(snac))


def test_codes_are_the_librarys(snac: Path, codec: Codec) -> None:
    wav = load_file(snac / "inputs.safetensors")["wav"][0, 0]
    expected = load_file(snac / "expected.safetensors")
    levels = deinterleave(codec.encode([wav])[0].long())
    for level in range(3):
        assert torch.equal(levels[level], expected[f"codes{level}"][0])


@pytest.mark.parametrize("window", [512, 4, 3, 1])
def test_sound_is_the_librarys_whatever_the_window(snac: Path, codec: Codec, window: int) -> None:
    inputs, expected = load_file(snac / "inputs.safetensors"), load_file(snac / "expected.safetensors")
    frames = interleave([expected[f"codes{level}"][0] for level in range(3)])
    noise = [inputs[f"decode.randn{block}"] for block in range(4)]
    wav = codec.decode(frames, noise=noise, window=window)
    torch.testing.assert_close(wav, expected["audio"][0, 0], atol=5e-6, rtol=0)
