"""Folders without a table: every recording has a text file beside it."""

from __future__ import annotations

import os
from pathlib import Path

from ttstrain.contract.table import Row, RowTable
from ttstrain.data.readers.collect import Collector
from ttstrain.data.readers.ids import Place
from ttstrain.data.readers.lines import read_text
from ttstrain.data.readers.locate import is_audio_name
from ttstrain.data.readers.rows import TableError

TEXT_ENDINGS = (".normalized.txt", ".txt", ".lab")  # the first is LibriTTS's, the last is MFA's


def read_wav_txt(root: Path) -> RowTable:
    """Pair recordings with texts of the same name, here and in the folders below; links to folders are not followed."""
    collector = Collector(root, "wav_txt")
    for path in sorted(sound_files(root)):
        name = path.relative_to(root)
        text_path = next((t for end in TEXT_ENDINGS if (t := path.with_name(path.stem + end)).is_file()), None)
        if text_path is None:
            continue  # counted among the files without a row
        row = Row(id=str(name.with_suffix("")), audio=path, text="", source=str(text_path.relative_to(root)))
        try:
            text = read_text(text_path)
        except TableError as error:
            collector.add_finding(row, "skip", error.reason, error.message)
            continue
        collector.add(Row(id=row.id, audio=path, text=" ".join(text.split("\n")), source=row.source), Place())
    return collector.table()


def sound_files(root: Path) -> list[Path]:
    """List the files below a folder whose ending is that of a sound file."""
    return [
        Path(folder, name)
        for folder, _, names in os.walk(root, followlinks=False)
        for name in names
        if is_audio_name(name) and not name.startswith(".")
    ]
