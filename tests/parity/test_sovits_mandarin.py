"""Plain Mandarin sentences keep the phonemes that upstream gives them, tones of third tones included.

`data/mandarin.jsonl` holds 89 sentences, of which 29 have characters with several readings in places that our rules
must leave alone, and what upstream's `text/chinese2.py` at 48b1a016 makes of them with jieba and pypinyin, without its
g2pW. It reads the 地 of 慢慢地 as `d i5` or `d i4`; a person says `d e5`, and so do we.
"""

from __future__ import annotations

import json
from pathlib import Path

from ttstrain.families.gpt_sovits.text.front_end import phonemize

ROWS = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "mandarin.jsonl").read_text("utf-8").splitlines()
]
PARTICLE = {("i5", "e5"), ("i4", "e5")}


def test_plain_mandarin_has_upstreams_phonemes() -> None:
    others: list[tuple[str, str]] = []
    total = 0
    for row in ROWS:
        wanted, read = row["phones"].split(), phonemize(row["text"], "zh", version="v2").phones
        assert len(wanted) == len(read), row["text"]
        total += len(wanted)
        others += [pair for pair in zip(wanted, read, strict=True) if pair[0] != pair[1]]
    assert total == 2287
    assert set(others) <= PARTICLE
    assert len(others) == 4
