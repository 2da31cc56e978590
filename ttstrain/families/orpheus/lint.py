"""Checks before training: rows that are too long, unknown tags, texts that spell control tokens. No torch."""

from __future__ import annotations

import difflib
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ttstrain.contract.data import ClipFinding, Remark, Review
from ttstrain.families.orpheus.ids import NUM_SLOTS, TOKENS_PER_S
from ttstrain.families.orpheus.layout import OVERHEAD, num_frames, said
from ttstrain.families.orpheus.tokenizer import RowTokenizer, load_tokenizer

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip
    from ttstrain.families.orpheus.data_config import RowsConfig

# Angle brackets are tags; other brackets and asterisks only where a word in them resembles one.
_BRACKETS: Final = re.compile(r"<\s*([^<>]{1,30}?)\s*>|\[\s*(\w{1,30})\s*\]|\(\s*(\w{1,30})\s*\)|\*\s*(\w{1,30})\s*\*")
ALIKE: Final = 0.7  # difflib's ratio to `laugh`: `laughs` 0.91, `laughing` 0.77, `giggle` 0.36
FEW_OF_A_TAG: Final = 100  # samples a tag wants (upstream's author, issues 196 and 206)
ODD_PACE: Final = 3.0  # times the usual seconds per text token
ROWS_FOR_PACE: Final = 20
MOST_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class _Measured:
    clip: Clip
    text_tokens: int
    length: int  # of the whole row, before repeats are left out and before it is divided


def review(clips: Sequence[Clip], rows: RowsConfig) -> Review:
    """Check texts and lengths of clips. Raises CheckpointError if the tokenizer has no audio tokens."""
    tokenizer = load_tokenizer(rows.tokenizer)
    measured = [_measure(clip, tokenizer, rows) for clip in clips]
    findings = [
        *(finding for one in measured for finding in _of_row(one, tokenizer, rows)),
        *_unnamed_voices(clips, rows),
        *_odd_pace(measured),
    ]
    left_out = {finding.clip.id for finding in findings if finding.action == "skip"}
    kept = [one for one in measured if one.clip.id not in left_out]
    return Review(tuple(findings), tuple(_remarks(kept, rows)))


def _measure(clip: Clip, tokenizer: RowTokenizer, rows: RowsConfig) -> _Measured:
    text = tokenizer.count(said(clip.text, clip.speaker, rows.voice))
    return _Measured(clip, text, OVERHEAD + text + NUM_SLOTS * num_frames(clip))


# ---------------------------------------------------------------- one row


def _of_row(one: _Measured, tokenizer: RowTokenizer, rows: RowsConfig) -> Iterator[ClipFinding]:
    clip = one.clip
    control = tokenizer.spells_control(said(clip.text, clip.speaker, rows.voice))
    if control is not None:
        yield ClipFinding(clip, "skip", "control_token", f"the text spells the control token `{control}`")
        return
    if one.length > rows.max_tokens:
        why = f"{one.length:,} tokens, `model.rows.max_tokens` is {rows.max_tokens:,} ({_seconds(rows.max_tokens)})"
        if rows.too_long == "skip":
            yield ClipFinding(clip, "skip", "too_many_tokens", f"{why}: cut it at a pause, or set `too_long: split`")
            return
        yield ClipFinding(clip, "accept", "divided", f"{why}: divided at pauses between sentences")
    for written, meant in misspelled_tags(clip.text, rows.tags):
        hint = f"`<{meant}>` is meant?" if meant else "unknown emotion tag"
        yield ClipFinding(clip, "accept", "misspelled_tag" if meant else "unknown_tag", f"{written}: {hint}")
    if known_tags(clip.text, rows.tags) and not _BRACKETS.sub("", clip.text).strip(" .,!?-"):
        yield ClipFinding(
            clip, "accept", "tag_only", "the text is only a tag: such rows teach the model to invent words"
        )


def known_tags(text: str, tags: Sequence[str]) -> list[str]:
    """Return the tags in a text that the model knows, in order."""
    return [match[1] for match in re.finditer(r"<([^<>\s]+)>", text) if match[1] in tags]


def misspelled_tags(text: str, tags: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return bracketed words that are not known tags, each with the most similar known tag or None."""
    found: list[tuple[str, str | None]] = []
    for match in _BRACKETS.finditer(text):
        in_angles = match[1] is not None
        name = next(group for group in match.groups() if group is not None)
        if match[0] == f"<{name}>" and name in tags:
            continue
        close = difflib.get_close_matches(name.lower().strip("/ "), tags, n=1, cutoff=ALIKE)
        if close or in_angles:
            found.append((match[0], close[0] if close else None))
    return found


def _seconds(tokens: int) -> str:
    return f"about {tokens / TOKENS_PER_S:.0f} s"


# ---------------------------------------------------------------- rows beside each other


def _unnamed_voices(clips: Sequence[Clip], rows: RowsConfig) -> Iterator[ClipFinding]:
    """Note rows without a speaker among rows with one: they teach that a text without a name can have any voice."""
    if rows.voice != "auto" or not any(clip.speaker for clip in clips):
        return
    for clip in clips:
        if not clip.speaker:
            yield ClipFinding(clip, "accept", "no_voice", "no speaker, but other rows name theirs")


def _odd_pace(measured: Sequence[_Measured]) -> Iterator[ClipFinding]:
    """Note rows with several times more or less sound for a text token than usual."""
    paces = {i: one.clip.duration_s / one.text_tokens for i, one in enumerate(measured) if one.text_tokens}
    if len(paces) < ROWS_FOR_PACE:
        return
    usual = statistics.median(paces.values())
    for i, pace in paces.items():
        if not usual / ODD_PACE <= pace <= usual * ODD_PACE:
            why = f"{pace:.2f} s per text token, usual is {usual:.2f}: the text may not match the recording"
            yield ClipFinding(measured[i].clip, "accept", "token_pace", why)


# ---------------------------------------------------------------- all rows


def _remarks(kept: Sequence[_Measured], rows: RowsConfig) -> Iterator[Remark]:
    if not kept:
        return
    lengths = sorted(one.length for one in kept)
    text, seconds = sum(one.text_tokens for one in kept), sum(one.clip.duration_s for one in kept)
    pace = f"{seconds / text:.2f} s for a text token" if text else "no text at all"
    yield Remark(
        "tokens",
        f"{sum(lengths):,} in all, {lengths[0]:,} to {lengths[-1]:,} a row, median {statistics.median(lengths):,.0f} · "
        f"{pace} · at most {rows.max_tokens:,} ({_seconds(rows.max_tokens)})",
    )
    voices = Counter((one.clip.speaker if rows.voice == "auto" else rows.voice) or "" for one in kept)
    if set(voices) != {""}:
        named = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in voices.most_common(MOST_NAMED))
        more = f" and {len(voices) - MOST_NAMED} more" if len(voices) > MOST_NAMED else ""
        yield Remark("voices", f"{named}{more}")
    tags = Counter(tag for one in kept for tag in known_tags(one.clip.text, rows.tags))
    if tags:
        counts = ", ".join(f"<{tag}> {count}" for tag, count in tags.most_common())
        scarce = " · a tag wants 100 samples or more" if min(tags.values()) < FEW_OF_A_TAG else ""
        yield Remark("tags", counts + scarce)
