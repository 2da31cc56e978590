"""Syllables of Hanyu Pinyin as Opencpop's strict phonemes: an initial and a final that tells vowels written alike."""

from __future__ import annotations

from functools import cache

_INITIALS = ("zh", "ch", "sh", *"bpmfdtnlgkhjqxrzcsyw")
_AFTER_Y = {"an": "En", "e": "E", "u": "v", "ue": "ve", "uan": "van", "un": "vn"}
_AFTER_JQX = {"u": "v", "ue": "ve", "uan": "van", "un": "vn"}
_BARE = {"a": "AA", "e": "EE", "o": "OO"}


@cache
def split_syllable(syllable: str) -> tuple[str, str] | None:
    """Split a syllable without tone, `v` for `ü`: `zhi` to `zh ir`, `yan` to `y En`, `er` to `EE er`.

    Return None for what is no syllable of Mandarin, `ng` or `ê`.
    """
    initial = next((initial for initial in _INITIALS if syllable.startswith(initial)), "")
    final = syllable[len(initial) :]
    if not initial:
        return (_BARE[final[0]], final) if final[:1] in _BARE else None
    if initial in ("zh", "ch", "sh", "r") and final == "i":
        return initial, "ir"
    if initial in ("z", "c", "s") and final == "i":
        return initial, "i0"
    if initial == "y":
        return initial, _AFTER_Y.get(final, final)
    if initial in ("j", "q", "x"):
        return initial, _AFTER_JQX.get(final, final)
    return (initial, {"ue": "ve"}.get(final, final)) if final and final[0] in "aeiouv" else None
