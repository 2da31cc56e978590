"""Data sets that upstream's scripts have tokenized: rows of `input_ids`, or of `text` and `codes_list`, as they are.

Parquet, as Hugging Face writes it, or JSON lines. Every row is checked against the grammar of slots before any is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttstrain import documents
from ttstrain.data.readers.parquet_limits import read_footer, rows_at_a_time
from ttstrain.data.readers.parquet_pages import DamagedPageError
from ttstrain.errors import DataError
from ttstrain.families.orpheus.batch import IGNORED
from ttstrain.families.orpheus.codes import find_breach, from_ids
from ttstrain.families.orpheus.ids import TokenIds
from ttstrain.families.orpheus.rows import Labels, TokenRow, row_of, speech_row
from ttstrain.families.orpheus.tokenizer import RowTokenizer

COLUMNS = ("input_ids", "codes_list")


def is_tokenized(path: Path) -> bool:
    """Tell whether a file or folder holds rows of token ids, by its columns."""
    first = next(read_table(path), None)
    return first is not None and any(column in first for column in COLUMNS)


def read_tokenized(path: Path, tokenizer: RowTokenizer, *, labels: Labels = "all") -> list[TokenRow]:
    """Read every row of a tokenized data set.

    `labels` is for rows that state none. Raises DataError that names row and position where one breaks the grammar.
    """
    rows = []
    for number, values in enumerate(read_table(path), 1):
        where = f"`{path}` row {number}"
        try:
            rows.append(_row(f"{path.name}:{number}", values, tokenizer, labels=labels))
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: {error}", hint="tokenize it again, or leave the row out") from error
    return rows


def check_row(tokens: Tensor, ids: TokenIds) -> None:
    """Check a row (t,): codes stand between SOS and EOS, in the order of slots, and the speech ends.

    Raises ValueError with the first wrong position in the row.
    """
    unknown = ((tokens < 0) | (tokens >= ids.end_audio + 2)).nonzero()  # released tokenizers have two spare ids
    if len(unknown):
        position = int(unknown[0])
        raise ValueError(f"position {position}: {int(tokens[position])} is not a token id")
    audio = (tokens >= ids.first_audio) & (tokens < ids.end_audio)
    starts, ends = (tokens == ids.sos).nonzero()[:, 0].tolist(), (tokens == ids.eos).nonzero()[:, 0].tolist()
    inside = torch.zeros_like(audio)
    for start in starts:
        end = next((place for place in ends if place > start), None)
        if end is None:
            raise ValueError(
                f"position {len(tokens)}: the speech that begins at {start} has no EOS; the row was truncated"
            )
        breach = find_breach(tokens[start + 1 : end], ids)
        if breach is not None:
            raise ValueError(
                f"position {start + 1 + breach.position}: slot {breach.expected_slot} expected, {breach.found} found"
            )
        inside[start + 1 : end] = True
    outside = (audio & ~inside).nonzero()
    if len(outside):
        position = int(outside[0])
        raise ValueError(f"position {position}: {ids.describe(int(tokens[position]))} outside of SOS and EOS")


def read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a parquet file, of a folder of them, or of JSON lines."""
    if path.is_dir():
        files = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
        if not files:
            raise DataError(f"`{path}` has no .parquet file", hint="give a table of rows with `input_ids`")
        for file in files:
            yield from _read_parquet(file)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        yield from _read_lines(path)


def _row(id_: str, values: Mapping[str, Any], tokenizer: RowTokenizer, *, labels: Labels) -> TokenRow:
    ids = tokenizer.ids
    if "input_ids" not in values:
        text, codes = values.get("text"), values.get("codes_list")
        if not isinstance(text, str) or codes is None:
            raise ValueError("neither `input_ids` nor `text` with `codes_list`")
        source = values.get("source")
        said = f"{source}: {text}" if source else text  # upstream's column for the speaker
        return speech_row(id_, tokenizer.encode(said), from_ids(_ids(codes), ids), ids, labels=labels)
    tokens = _ids(values["input_ids"])
    stated = None if values.get("labels") is None else _ids(values["labels"])
    if values.get("attention_mask") is not None:
        real = _ids(values["attention_mask"]).bool()
        for name, own in (("attention_mask", real), ("labels", stated)):
            if own is not None and own.shape != tokens.shape:
                raise ValueError(f"`{name}` is of length {len(own):,}, `input_ids` of {len(tokens):,}")
        tokens, stated = tokens[real], None if stated is None else stated[real]
    check_row(tokens, ids)
    row = row_of(id_, tokens, ids)
    if stated is not None:
        wrong = ((stated != IGNORED) & (stated != tokens)).nonzero() if len(stated) == len(tokens) else None
        if wrong is None or len(wrong):
            place = "another length" if wrong is None else f"position {int(wrong[0])}"
            raise ValueError(f"`labels` do not match `input_ids` ({place}); they must not be shifted")
        row = replace(row, labels=torch.where(row.labels == IGNORED, IGNORED, stated))
    return row


def _ids(values: Any) -> Tensor:
    try:
        tokens = torch.tensor(values, dtype=torch.long)
    except RuntimeError as error:  # torch's, for anything but numbers
        raise ValueError("a row is a list of token ids") from error
    if tokens.ndim != 1 or not len(tokens):
        raise ValueError("a row is a list of token ids")
    return tokens


def _read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataError(f"`{path}` needs pyarrow", hint='pip install "ttstrain[parquet]"') from error
    try:
        documents.check_ordinary(path, error=DataError)
        footer = read_footer(path)
        with pyarrow.parquet.ParquetFile(path) as table:
            at_a_time = rows_at_a_time(path, table, footer, table.schema_arrow.names, constant=("attention_mask",))
            for batch in table.iter_batches(at_a_time):
                yield from batch.to_pylist()
    except (OSError, MemoryError, UnicodeDecodeError, DamagedPageError, pyarrow.ArrowException) as error:
        raise DataError(f"`{path}` cannot be read: {error}") from error


def _read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    lines = documents.read_text(path, error=DataError, most_bytes=documents.MAX_TABLE).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = documents.parse(line)
        except documents.DocumentError as error:
            raise DataError(f"`{path}` line {number} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"`{path}` line {number} is no JSON object")
        yield values
