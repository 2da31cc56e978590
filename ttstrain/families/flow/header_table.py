"""The table that F5-TTS's tools take: a header that names a column of files and one of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttstrain.contract.table import LineFormat
from ttstrain.data.readers.columns import layout_of


class HeaderTable(LineFormat):
    """Known by its header."""

    name = "f5_csv"
    label = "table with a header (audio_file|text)"
    layout = None
    header = "audio_file|text"

    def sniff(self, path: Path, lines: Sequence[Sequence[str]]) -> bool:
        named = layout_of(lines[0])
        return named is not None and not named.audio_is_id
