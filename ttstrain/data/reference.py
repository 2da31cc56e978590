"""Chooses the reference recording for generated speech: one clip of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from ttstrain.contract.data import Clip

REFERENCE_S = (2.0, 10.0)  # a voice is recognisable in 2 s, and a longer prompt only costs time


def choose_reference(clips: Sequence[Clip], *, apart_from: Clip | None) -> Clip | None:
    """Choose the reference clip: the first of a suitable length, by the same speaker if possible."""
    others = [clip for clip in clips if apart_from is None or clip.id != apart_from.id]
    same = [clip for clip in others if apart_from is not None and clip.speaker == apart_from.speaker]
    low, high = REFERENCE_S
    for pool in (same, others):
        for clip in pool:
            if low <= clip.duration_s <= high:
                return clip
    # None is handy: the one that misses by least.
    return min(same or others, key=lambda clip: max(low - clip.duration_s, clip.duration_s - high), default=None)
