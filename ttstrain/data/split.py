"""Which clips are held out: a pure function of the clips and a seed. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.config.recipe import DataConfig
from ttstrain.data.manifest import Clip
from ttstrain.errors import DataError

MOST_HELD_OUT = 64  # by a share; a number of clips is taken at its word


@dataclass(frozen=True, slots=True)
class Split:
    """Clips to learn from and clips to be measured on."""

    train: list[Clip]
    held_out: list[Clip]


@dataclass(frozen=True, slots=True)
class DataSplit:
    """Every clip's part in a run."""

    train: list[Clip]
    held_out: list[Clip]
    replay: list[Clip]  # drawn from anew for every epoch
    retained: list[Clip]  # held out of the replay data
    num_shared: int = 0  # clips of the replay data left out because the data hold the same recording


def split_data(clips: Sequence[Clip], replay: Sequence[Clip], data: DataConfig, *, seed: int) -> DataSplit:
    """Divide the clips of a run. A recording of the data is never replayed: nothing held out is trained on."""
    own = split_holdout(clips, data.holdout, seed)
    if data.replay is None:
        return DataSplit(own.train, own.held_out, [], [])
    known = {clip.digest for clip in clips if clip.digest}
    others = [clip for clip in replay if clip.digest not in known]
    if not others:
        raise DataError(
            "no clip is left to replay: all are in the data themselves" if replay else "no clip is left to replay",
            hint="`data.replay.path` names other recordings than `data.path`",
        )
    split = split_holdout(others, data.replay.holdout, seed, key="data.replay.holdout")
    return DataSplit(own.train, own.held_out, split.train, split.held_out, len(replay) - len(others))


def split_holdout(clips: Sequence[Clip], holdout: float, seed: int, *, key: str = "data.holdout") -> Split:
    """Hold clips out, chosen by a hash of their content or id: adding other clips moves hardly any.

    `holdout` is a number of clips (int) or a share (float), as the recipe's `key` says. Byte-equal recordings stay on
    one side.
    """
    wanted = holdout if isinstance(holdout, int) else min(MOST_HELD_OUT, max(1, round(holdout * len(clips))))
    if wanted >= len(clips):
        if isinstance(holdout, int) and holdout > 0:
            raise DataError(
                f"`{key}={holdout}` leaves nothing of {len(clips)} clips to train on",
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
