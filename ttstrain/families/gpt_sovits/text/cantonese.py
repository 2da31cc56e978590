"""Cantonese phonemes: ToJyutping's Jyutping of each character, in two parts with a Y before each, the tone at the end.

Upstream takes the longest beginning that it counts as an initial, vowels included: `aai1` is `Yaa Yi1`. A syllable that
is no longer than that says its last letter again: `m4` is `Ym Ym4`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttstrain.families.gpt_sovits.text.mixed import read_mixed
from ttstrain.families.gpt_sovits.text.reading import Reading, load

# `aa` comes before initials that begin with it, as in upstream's list; of the others the longest match counts.
_FIRST = re.compile("aa|a[iptku]?|ong|o[nuik]?|ung|uk|e|kw|gw|ng|[bcdfghjklmnpstwyz]")


def read(text: str, version: str) -> Reading:
    """Read a sentence; `normalized` has its characters, Latin words and five marks. Equal for v2 and later."""
    del version
    return read_mixed(text, _phones, simplify=False)


def _phones(run: str) -> Sequence[Sequence[str]]:
    library = load("ToJyutping", language="yue")
    return [
        [part for syllable in (jyutping or "").split() for part in _parts(syllable)]
        for _, jyutping in library.get_jyutping_list(run)
    ]


def _parts(syllable: str) -> Sequence[str]:
    letters, tone = syllable[:-1], syllable[-1]
    found = _FIRST.match(letters)
    if found is None:
        return ()
    first = found[0]
    return f"Y{first}", f"Y{letters[len(first) :] or first[-1]}{tone}"
