"""GPT-SoVITS' list `path|speaker|language|text`, as its own tools leave it.

Its slicer writes recordings to `<output>/<name>/`, its recogniser the list of them to `<output>/asr_opt/<name>.list`,
with the absolute paths of that machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from ttstrain.contract.table import Layout, LineFormat
from ttstrain.data.readers.columns import layout_of

LISTS = "asr_opt"
COLUMNS = ("path", "speaker", "language", "text")
LANGUAGES = {
    "zh", "jp", "ja", "en", "ko", "yue", "all_zh", "all_ja", "all_yue", "all_ko", "auto", "auto_yue",
}  # fmt: skip


class SovitsList(LineFormat):
    """Known by its ending, or by languages in the third of four columns."""

    name = "gpt_sovits_list"
    label = f"GPT-SoVITS list ({'|'.join(COLUMNS)})"
    layout = Layout(audio=0, speaker=1, language=2, texts=(3,), counts=(len(COLUMNS),), names=COLUMNS)
    ending = ".list"

    def sniff(self, path: Path, lines: Sequence[Sequence[str]]) -> bool:
        named = layout_of(lines[0])
        if named is not None and not named.audio_is_id:
            return False
        languages = [line[2].strip().lower() in LANGUAGES for line in lines if len(line) == len(COLUMNS)]
        return path.suffix == self.ending or (bool(languages) and sum(languages) > len(lines) / 2)

    def tables_in(self, folder: Path) -> Sequence[Path]:
        """Find the lists that upstream's recogniser wrote: below its output folder, or beside a folder of sounds."""
        below = sorted((folder / LISTS).glob(f"*{self.ending}"))
        beside = folder.parent / LISTS / f"{folder.resolve().name}{self.ending}"
        return below or ([beside] if beside.is_file() else [])

    def folders_beside(self, table: Path, *, written: str, speaker: str) -> Iterator[Path]:
        """Yield where the recordings may lie that have moved with the list: by the folder they had, and its names."""
        above = (table.parent, table.parent.parent)
        names = (PureWindowsPath(written).parent.name, table.stem, speaker)
        for name in dict.fromkeys(name for name in names if _is_one_name(name)):
            for folder in above:
                if (folder / name).is_dir():
                    yield folder / name


def _is_one_name(name: str) -> bool:
    return bool(name.strip(".")) and PureWindowsPath(name).name == name
