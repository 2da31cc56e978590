"""`ttstrain prepare --cut` and `--review`: from long recordings to a data set, and corrections to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttstrain import terminal
from ttstrain.cli.cut_options import LONGEST_S, MARGIN_S, PAUSE_S, SHORTEST_S, CutOptions
from ttstrain.layout import LABEL, labelled
from ttstrain.shell import quoted

if TYPE_CHECKING:
    from ttstrain.recordings.build import About, Built
    from ttstrain.recordings.clips import CutClip
    from ttstrain.recordings.cuts import Wanted

SHOWN = 20  # recordings


@dataclass(frozen=True, slots=True)
class Made:
    """The folder to go on with, and what to print."""

    folder: Path
    num_used: int
    lines: list[str]
    document: dict[str, Any]


def cut_or_review(data: Path, options: CutOptions) -> Made | None:
    """Cut recordings or feed corrections back; None if neither is asked for."""
    if options.out is not None:
        return _cut(data, options.out, options)
    return _review(data, options.review) if options.review is not None else None


def _cut(recordings: Path, out: Path, options: CutOptions) -> Made:
    from ttstrain.cli.progress import show_progress
    from ttstrain.recordings.build import Settings, build
    from ttstrain.recordings.review import write_page
    from ttstrain.recordings.transcripts import open_source

    settings = Settings(
        _wanted(options), open_source(options.language, options.transcriber), options.speaker, options.loudness
    )
    with show_progress("cutting recordings") as progress:
        built = build(recordings, out, settings, progress)
    page = write_page(out, built.clips, command=_feed_back(out))
    lines = [*_recording_lines(built), *_clip_lines(built.clips, built.num_voices), *labelled("review", str(page))]
    return Made(out, sum(clip.is_used for clip in built.clips), lines, _document(built, page))


def _wanted(options: CutOptions) -> Wanted:
    from ttstrain.recordings.cuts import Wanted

    return Wanted(
        shortest_s=options.shortest_s or SHORTEST_S,
        longest_s=options.longest_s or LONGEST_S,
        pause_s=options.pause_s or PAUSE_S,
        margin_s=MARGIN_S,
    )


def _review(folder: Path, table: Path) -> Made:
    from ttstrain.errors import DataError
    from ttstrain.places import refused_as
    from ttstrain.recordings.clips import read_clips, write_clips
    from ttstrain.recordings.review import corrected, read_corrections, write_page

    with refused_as(DataError):
        before = read_clips(folder)
        clips = corrected(before, read_corrections(table))
        write_clips(folder, clips)
        page = write_page(folder, clips, command=_feed_back(folder))
    changed = sum(one != other for one, other in zip(before, clips, strict=True))
    lines = [
        *labelled("review", f"{changed} of {len(clips)} clips changed by {table}"),
        *_clip_lines(clips, 1),
        *labelled("review", str(page)),
    ]
    used = sum(clip.is_used for clip in clips)
    return Made(folder, used, lines, {"clips": len(clips), "used": used, "changed": changed, "page": str(page)})


def _feed_back(folder: Path) -> str:
    return f"ttstrain prepare {quoted(folder.absolute())} --review review.csv"


# ---------------------------------------------------------------- what is printed


def _recording_lines(built: Built) -> list[str]:
    cut = [about for about in built.recordings if not about.unused]
    seconds, speech = sum(about.duration_s for about in cut), sum(about.speech_s for about in cut)
    lines = labelled(
        "cut",
        f"{len(cut)} of {len(built.recordings)} recordings, {seconds / 60:.1f} minutes, {speech / 60:.1f} of speech",
    )
    for about in built.recordings[:SHOWN]:
        lines += labelled("", _figures(about), hang=2)
        for told in about.told:
            lines += labelled("", f"- {told}", column=LABEL + 2, hang=2)
    if (more := len(built.recordings) - SHOWN) > 0:
        lines += labelled("", f"and {more} more")
    return lines


def _figures(about: About) -> str:
    if about.unused:
        return f"not used: {about.unused}"
    parts = [f"{about.num_clips} clips", f"{about.speech_s:.0f} of {about.duration_s:.0f} s are speech"]
    if about.loudness is not None:
        parts.append(f"{about.loudness:.1f} LUFS")
    if about.snr_db is not None:
        parts.append(f"{about.snr_db:.0f} dB above its pauses")
    return f"{about.path.name}: {', '.join(parts)}"


def _clip_lines(clips: list[CutClip], num_voices: int) -> list[str]:
    used = sum(clip.is_used for clip in clips)
    durations = sorted(clip.duration_s for clip in clips)
    middle = durations[len(durations) // 2]
    lines = labelled(
        "clips",
        f"{len(clips)} of {durations[0]:.1f} to {durations[-1]:.1f} s, the middle one {middle:.1f} s: {used} are used, "
        f"{sum(bool(clip.notes) for clip in clips)} have a note",
    )
    if any(clip.gain_db for clip in clips):
        gains = sorted(clip.gain_db for clip in clips)
        lines += labelled("", f"gains of {gains[0]:+.1f} to {gains[-1]:+.1f} dB stand in the table; no file is changed")
    drafts = sum(clip.origin == "draft" and not clip.dropped for clip in clips)
    bare = sum(not clip.text and not clip.dropped for clip in clips)
    dropped = sum(clip.dropped for clip in clips)
    if drafts:
        lines += labelled(
            "", f"{drafts} have a rough draft as text: correct them on the page; until then they are not used"
        )
    if bare:
        lines += labelled("", f"{bare} have no text: write it on the page; until then they are not used")
    if dropped:
        lines += labelled("", f"{dropped} are dropped")
    if num_voices > 1:
        counts = Counter(clip.speaker for clip in clips if clip.speaker)
        said = ", ".join(f"`{name}` {count}" for name, count in counts.most_common())
        lines += labelled(
            "", f"WARNING: {num_voices} voices are heard, or one that sounds unlike in its recordings: {said}"
        )
    return [terminal.on_one_line(line) for line in lines]


def _document(built: Built, page: Path) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "recordings": [{**asdict(about), "path": str(about.path)} for about in built.recordings],
        "clips": len(built.clips),
        "used": sum(clip.is_used for clip in built.clips),
        "voices": built.num_voices,
        "page": str(page),
    }
