"""Folders that GPT-SoVITS' own steps have prepared: `2-name2text.txt` beside `5-wav32k/` and features of each clip.

    2-name2text.txt        name, phonemes, word2ph, normalised text; no header
    3-bert/<name>.pt       (1024, p), Chinese only
    4-cnhubert/<name>.pt   (1, 768, n)
    5-wav32k/<name>        16 bits at 32 kHz
    6-name2semantic.tsv    item_name, semantic_audio
    7-sv_cn/<name>.pt      (1, 20480), v2Pro only

Upstream drops what does not fit without a word; here each has a finding. Names are base names: two recordings of one
name in different folders have overwritten each other there, and their rows contradict each other here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ttstrain import documents
from ttstrain.contract.data import Ready
from ttstrain.contract.table import Row, RowTable
from ttstrain.data.readers.collect import Collector
from ttstrain.data.readers.lines import Line, read_text, split_lines
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.digest import sha256_of_file

TEXTS, SEMANTICS, RECORDINGS = "2-name2text", "6-name2semantic", "5-wav32k"
FILES: Mapping[str, str] = {"bert": "3-bert", "ssl": "4-cnhubert", "speaker": "7-sv_cn"}  # feature -> its folder
HEADER = "item_name"
_MOST = 1 << 31  # of a token or a count: no codebook and no text comes near


class PreparedFolder:
    """A folder that upstream's tools prepared."""

    name = "gpt_sovits_project"
    label = "prepared folder of GPT-SoVITS, 2-name2text.txt"

    def sniff(self, path: Path) -> bool:
        return is_prepared(path)

    def read(self, path: Path) -> RowTable:
        return read_prepared(path)


def is_prepared(folder: Path) -> bool:
    """Tell by its files whether upstream's tools prepared a folder."""
    return bool(_parts(folder, TEXTS, ".txt")) and (folder / RECORDINGS).is_dir()


def read_prepared(folder: Path) -> RowTable:
    """Read prepared rows: phonemes as tokens, the normalised text, and whatever features lie ready.

    Raises TableError when there is no table or no recording.
    """
    tables = _parts(folder, TEXTS, ".txt")
    if not tables or not (folder / RECORDINGS).is_dir():
        missing = f"{TEXTS}.txt" if not tables else f"{RECORDINGS}/"
        raise TableError(
            "no_table", f"`{folder}` has no `{missing}`", hint="name the folder that holds both, `logs/<experiment>`"
        )
    collector = Collector(folder / RECORDINGS, PreparedFolder.name)
    semantics = _read_semantics(folder, collector)
    for path, line in _lines(tables):
        source = f"{path.name}:{line.number}"
        fields = line.text.split("\t")
        if len(fields) != 4:
            collector.add_finding(
                _nameless(source, line.text), "skip", "bad_line", f"{len(fields)} fields between tabs, 4 expected"
            )
            continue
        _add_row(collector, folder, source, fields, semantics)
    for name in semantics.codes:
        if name not in semantics.used:
            why = "it has semantic tokens and no line of phonemes: its front end failed"
            collector.add_finding(_nameless(f"{SEMANTICS}.tsv", name), "skip", "no_text", why)
    return replace(collector.table(), root=folder)


def _parts(folder: Path, name: str, ending: str) -> list[Path]:
    """Find a table, or the parts `<name>-0`, `<name>-1` that upstream's processes leave when they are stopped."""
    whole = folder / f"{name}{ending}"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{name}-[0-9]*{ending}"))


def _lines(tables: list[Path]) -> Iterator[tuple[Path, Line]]:
    for path in tables:
        for line in split_lines(read_text(path)):
            yield path, line


def _nameless(source: str, shown: str) -> Row:
    """Stand for a line that is no row."""
    return Row(id=printable(shown, limit=40), audio=None, text="", source=source)


# ---------------------------------------------------------------- semantic tokens


@dataclass(slots=True)
class _Semantics:
    is_there: bool
    codes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # name -> tokens
    used: set[str] = field(default_factory=set)


def _read_semantics(folder: Path, collector: Collector) -> _Semantics:
    tables = _parts(folder, SEMANTICS, ".tsv")
    semantics = _Semantics(bool(tables))
    for path, line in _lines(tables):
        source = f"{path.name}:{line.number}"
        name, _, written = line.text.partition("\t")
        if name == HEADER:
            continue
        try:
            codes = tuple(int(code) for code in written.split())
        except ValueError:
            collector.add_finding(_nameless(source, name), "skip", "bad_line", "its semantic tokens are no numbers")
            continue
        if not codes or not all(0 <= code < _MOST for code in codes):
            collector.add_finding(
                _nameless(source, name), "skip", "bad_line", "it has no semantic tokens, or impossible ones"
            )
        elif name in semantics.codes and semantics.codes[name] != codes:
            collector.add_finding(
                _nameless(source, name), "accept", "duplicate_id", "other tokens for one name: the first are used"
            )
        else:
            semantics.codes[name] = codes
    return semantics


# ---------------------------------------------------------------- rows


def _add_row(collector: Collector, folder: Path, source: str, fields: list[str], semantics: _Semantics) -> None:
    name, written, word2ph, text = fields
    phones = tuple(written.split(" ")) if written.strip() else ()
    ready = [
        Ready(feature, str(path), digest=sha256_of_file(path))
        for feature, below in FILES.items()
        if (path := folder / below / f"{name}.pt").is_file()
    ]
    spread = _read_word2ph(word2ph)
    if spread is None:
        shown = Row(id=name, audio=None, text=text.strip(), source=source)
        why = f"its number of phonemes for each character, `{printable(word2ph, limit=40)}`, cannot be read: left out"
        collector.add_finding(shown, "accept", "word2ph", why)
    if spread:
        ready.append(Ready("word2ph", values=spread))
    row = Row(id=name, audio=None, text=text.strip() or " ".join(phones), source=source, tokens=phones)
    if not phones:
        collector.add_finding(row, "skip", "no_phonemes", "its line has no phonemes")
        return
    if name in semantics.codes:
        semantics.used.add(name)
        ready.append(Ready("codes", values=semantics.codes[name]))
    elif semantics.is_there:
        why = f"`{SEMANTICS}.tsv` has no row for it: they are computed"
        collector.add_finding(row, "accept", "no_semantic_tokens", why)
    row = Row(id=name, audio=None, text=row.text, source=source, tokens=phones, ready=tuple(ready))
    collector.locate(row, name)


def _read_word2ph(written: str) -> tuple[int, ...] | None:
    """Read how many phonemes each character has; nothing for languages that do not say, None where it is damaged."""
    if written.strip() in ("None", ""):
        return ()
    try:
        counts = documents.parse(written.strip())  # a list of numbers is the same in Python and in JSON
    except documents.DocumentError:
        return None
    if not isinstance(counts, list) or not all(type(count) is int and 0 <= count < _MOST for count in counts):
        return None
    return tuple(counts)
