from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ttstrain.data.readers import parquet_limits
from ttstrain.errors import DataError
from ttstrain.families.orpheus.batch import IGNORED
from ttstrain.families.orpheus.codes import to_ids
from ttstrain.families.orpheus.rows import TokenRow, speech_row
from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
from ttstrain.families.orpheus.upstream_data import read_tokenized

TOKENIZER = load_tokenizer(TOY)
IDS = TOKENIZER.ids
FRAMES = torch.randint(4096, (4, 7), generator=torch.Generator().manual_seed(0))
SPOKEN = speech_row("x", [7, 8], FRAMES, IDS, labels="all")
LIST: list[int] = SPOKEN.tokens.tolist()
FIRST_CODE = LIST.index(IDS.sos) + 1


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, *rows: Any) -> list[TokenRow]:
    return read_tokenized(jsonl(folder, *rows), TOKENIZER)


def test_rows_are_taken_as_they_are(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"input_ids": LIST, "labels": LIST, "attention_mask": [1] * len(LIST)})
    assert torch.equal(row.tokens, SPOKEN.tokens)
    assert torch.equal(row.labels, SPOKEN.labels)
    assert torch.equal(row.slots, SPOKEN.slots)


def test_labels_that_are_stated_stay(tmp_path: Path) -> None:
    labels = [IGNORED] * 6 + LIST[6:]
    (row,) = read(tmp_path, {"input_ids": LIST, "labels": labels})
    assert row.labels.tolist() == labels


def test_padding_is_taken_off(tmp_path: Path) -> None:
    padded = {"input_ids": [*LIST, IDS.pad, IDS.pad], "attention_mask": [1] * len(LIST) + [0, 0]}
    assert torch.equal(read(tmp_path, padded)[0].tokens, SPOKEN.tokens)


def test_parquet_is_read_like_json(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"input_ids": [LIST, LIST]}), tmp_path / "train-00000.parquet")
    assert [row.tokens.tolist() for row in read_tokenized(tmp_path, TOKENIZER)] == [LIST, LIST]


def test_a_parquet_file_made_to_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train.parquet"
    monkeypatch.setattr(parquet_limits, "MOST_UNPACKED", 1 << 18)
    parquet.write_table(pyarrow.table({"input_ids": [LIST], "attention_mask": [[1] * 100_000]}), path)
    with pytest.raises(DataError, match="`attention_mask` is of length 100,000, `input_ids` of 38"):
        list(read_tokenized(tmp_path, TOKENIZER))
    parquet.write_table(pyarrow.table({"input_ids": [[1] * 100_000]}), path)
    with pytest.raises(DataError, match=r"unpacks `input_ids.list.element` to [0-9,]+ times its size"):
        list(read_tokenized(tmp_path, TOKENIZER))


def test_codes_with_their_text_make_a_row(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"text": "hi", "source": "tara", "codes_list": to_ids(FRAMES, IDS).tolist()})
    expected = speech_row("x", TOKENIZER.encode("tara: hi"), FRAMES, IDS, labels="all")
    assert torch.equal(row.tokens, expected.tokens)


def broken(position: int, token: int) -> list[int]:
    return [*LIST[:position], token, *LIST[position + 1 :]]


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (broken(FIRST_CODE + 9, IDS.of(3, 5)), f"position {FIRST_CODE + 9}: slot 2 expected, slot 3 code 5 found"),
        (LIST[: FIRST_CODE + 14], f"position {FIRST_CODE + 14}: the speech that begins at .* has no EOS"),
        (LIST[: FIRST_CODE + 3] + LIST[FIRST_CODE + 4 :], f"position {FIRST_CODE + 3}: slot 3 expected"),
        (broken(2, IDS.of(0, 1)), "position 2: slot 0 code 1 outside of SOS and EOS"),
        (broken(2, 10**6), "position 2: 1000000 is not a token id"),
        ([], "a row is a list of token ids"),
    ],
)
def test_the_first_wrong_token_is_named_with_its_row(tokens: list[int], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"row 2: {why}"):
        read(tmp_path, {"input_ids": LIST}, {"input_ids": tokens})


def test_shifted_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must not be shifted"):
        read(tmp_path, {"input_ids": LIST, "labels": [*LIST[1:], IGNORED]})
