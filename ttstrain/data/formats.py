"""The formats that can be read: common ones, and those of the families' upstreams."""

from __future__ import annotations

from collections.abc import Mapping

from ttstrain import registry

AUTO = "auto"  # detect the format from the content
COMMON: Mapping[str, str] = {  # name -> label
    "ljspeech": "LJSpeech table (id|text|normalised text)",
    "jsonl": "JSON lines",
    "audiofolder": "Hugging Face audio folder (file_name, ...)",
    "parquet": "Parquet with the audio inside",
    "webdataset": "WebDataset tar shards",
    "wav_txt": "recordings with a text file beside each",
}


PACKED = ("parquet", "webdataset")  # with the recordings inside


def labels() -> dict[str, str]:
    """Map the name of every format to its label in messages."""
    tables = {known.name: known.label for known in registry.line_formats()}
    folders = {known.name: known.label for known in registry.table_formats()}
    return {**COMMON, **tables, **folders}


def choices() -> list[str]:
    """List what `data.format` may say."""
    return [AUTO, *labels()]
