"""The page on which a person hears and corrects the clips, and the table of corrections that it saves."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.data.readers.rows import printable
from ttstrain.errors import DataError
from ttstrain.recordings.clips import CutClip

PAGE = "review.html"
COLUMNS = ("id", "action", "speaker", "text")
ACTIONS = {"keep": False, "drop": True}  # whether the clip is dropped
HINT = f"it should be the table that `{PAGE}` saves, with the columns {', '.join(COLUMNS)}"


def write_page(folder: Path, clips: Sequence[CutClip], *, command: str) -> Path:
    """Write the page beside the clips; `command` feeds its table back. Return its path."""
    path = folder / PAGE
    shown = page(clips, title=folder.resolve().name, command=command)
    atomic.write_bytes(path, shown.encode("utf-8", "backslashreplace"))  # a folder's name may be no Unicode
    return path


def page(clips: Sequence[CutClip], *, title: str, command: str) -> str:
    """Return the page: it loads the clips by relative path and nothing else."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("review.css", "review.js"))
    shown = json.dumps([_shown(clip) for clip in clips], ensure_ascii=True).replace("<", "\\u003c")
    name = html.escape(title)
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src 'self' file:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Review of {name}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Review of {name}</h1>
<p>Play each clip, correct its text and speaker, drop what is unusable. Enter goes to the next clip and plays it,
Ctrl+Enter plays or stops this one. A draft stays a draft, and is not trained on, until you correct it or say that it
is right. Corrections are only kept in the file that you save. Then run:</p>
<p><code>{html.escape(command)}</code></p>
<div class="bar">
<button id="save" type="button">Save review.csv</button>
<label><input id="only" type="checkbox"> only drafts and clips with a note</label>
<span id="said" aria-live="polite"></span>
</div>
</header>
<ol id="list"></ol>
<script type="application/json" id="clips">{shown}</script>
<script>
{script}</script>
</body>
</html>
"""


def _shown(clip: CutClip) -> dict[str, object]:
    return {
        "id": clip.id,
        "file": quote(clip.file),
        "seconds": clip.duration_s,
        "text": clip.text,
        "origin": clip.origin,
        "speaker": clip.speaker,
        "language": clip.language,
        "loudness": clip.loudness,
        "snr": clip.snr_db,
        "notes": list(clip.notes),
        "dropped": clip.dropped,
    }


# ---------------------------------------------------------------- corrections


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person decided about one clip."""

    dropped: bool
    speaker: str
    text: str


def read_corrections(path: Path) -> dict[str, Correction]:
    """Read a table that the page saved, also after a spreadsheet wrote it again, by the ids of its clips.

    Raises DataError naming the line that cannot be used.
    """
    text = documents.read_text(path, error=DataError, hint=HINT)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"`{path}` cannot be read: {error}", hint=HINT) from error
    header = [name.strip().casefold() for name in rows[0][1]] if rows else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(f"`{path}` has no column `{missing[0]}`", hint=HINT)
    found: dict[str, Correction] = {}
    for number, row in rows[1:]:
        if len(row) != len(header):
            why = f"has {len(row)} columns where the first line has {len(header)}"
            raise DataError(f"`{path}` line {number} {why}", hint=HINT)
        cells = {name: " ".join(cell.split()) for name, cell in zip(header, row, strict=True)}
        action = cells["action"].casefold()
        if action not in ACTIONS:
            raise DataError(f"`{path}` line {number}: `{printable(action)}` is neither `keep` nor `drop`", hint=HINT)
        if cells["id"] in found:
            raise DataError(f"`{path}` line {number}: `{printable(cells['id'])}` stands there twice", hint=HINT)
        found[cells["id"]] = Correction(ACTIONS[action], cells["speaker"], cells["text"])
    return found


def corrected(clips: Sequence[CutClip], corrections: dict[str, Correction]) -> list[CutClip]:
    """Return the clips as a person left them; a draft that was kept is a text from then on.

    Clips that the table does not name stay as they are. Raises DataError for a name that no clip has.
    """
    known = {clip.id for clip in clips}
    if strange := next((name for name in corrections if name not in known), None):
        raise DataError(
            f"the corrections name a clip `{printable(strange)}`, which is not there",
            hint="take the table that was saved for this folder",
        )
    return [_corrected(clip, corrections[clip.id]) if clip.id in corrections else clip for clip in clips]


def _corrected(clip: CutClip, one: Correction) -> CutClip:
    seen = one.text != clip.text or clip.origin == "draft"
    return replace(
        clip,
        dropped=one.dropped,
        speaker=one.speaker,
        text=one.text,
        origin=("review" if one.text else "") if seen else clip.origin,
    )
