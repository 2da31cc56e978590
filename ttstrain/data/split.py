"""Which clips are held out: a pure function of the clips and a seed. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.data.manifest import Clip
from ttstrain.errors import DataError

MOST_HELD_OUT = 64  # by a share; a number of clips is taken at its word


@dataclass(frozen=True, slots=True)
class Split:
    """Clips to learn from and clips to be measured on."""

    train: list[Clip]
    held_out: list[Clip]


def split_holdout(clips: Sequence[Clip], holdout: float, seed: int) -> Split:
    """Hold clips out, chosen by a hash of their content or id: adding other clips moves hardly any.

    `holdout` is a number of clips (int) or a share (float). Byte-equal recordings stay on one side.
    """
    wanted = holdout if isinstance(holdout, int) else min(MOST_HELD_OUT, max(1, round(holdout * len(clips))))
    if wanted >= len(clips):
        if isinstance(holdout, int) and holdout > 0:
            raise DataError(
                f"`data.holdout={holdout}` leaves nothing of {len(clips)} clips to train on",
                hint="hold out fewer, or 0",
            )
        wanted = 0
    ranked: dict[str, list[Clip]] = {}
    for clip in clips:
        draw = hashlib.sha256(f"{seed}/{clip.digest or clip.id}".encode()).hexdigest()
        ranked.setdefault(draw, []).append(clip)
    held: set[str] = set()
    for draw in sorted(ranked):
        if len(held) >= wanted:
            break
        if len(held) + len(ranked[draw]) < len(clips):
            held |= {clip.id for clip in ranked[draw]}
    return Split([clip for clip in clips if clip.id not in held], [clip for clip in clips if clip.id in held])
