from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ttstrain.contract.data import Clip
from ttstrain.data.choice import check_choices, choose_ids, chosen
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import StageConfig, StageData

CLIPS = [
    Clip(
        id=f"{speaker}_{number}",
        path=Path("x.wav"),
        text="a",
        speaker=speaker,
        language="de" if speaker == "ben" else "en",
        duration_s=float(number),
        sample_rate=24000,
    )
    for speaker in ("anna", "ben")
    for number in (1, 2, 3)
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["anna_1", "anna_2", "anna_3", "ben_1", "ben_2", "ben_3"]),
        ({"speakers": ["ben"]}, ["ben_1", "ben_2", "ben_3"]),
        ({"languages": ["en"], "min_s": 2}, ["anna_2", "anna_3"]),
        ({"max_s": 1}, ["anna_1", "ben_1"]),
        ({"clips": ["*_2", "anna_?"], "max_s": 2}, ["anna_1", "anna_2", "ben_2"]),
    ],
)
def test_every_key_must_let_a_clip_pass(wanted: dict[str, Any], expected: list[str]) -> None:
    assert [clip.id for clip in chosen(CLIPS, StageData(**wanted))] == expected
    stages = [StageConfig(name="s", steps=1, data=StageData(**wanted))]
    check_choices(stages, CLIPS, [])
    assert choose_ids(CLIPS, stages) == {"s": frozenset(expected)}


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ({"speakers": ["bem"]}, "`stages.0.data.speakers`: no clip has `bem`", "did you mean `ben`?"),
        ({"languages": ["zh"]}, "no clip has `zh`", "there are `de`, `en`"),
        ({"clips": ["z*"]}, "pattern `z*` matches no clip", "ids look like `anna_1`"),
        (
            {"speakers": ["ben"], "clips": ["anna*"]},
            "leaves stage `s` nothing to train on",
            "`speakers` lets 3 of 6 clips pass, `clips` lets 3 of 6 clips pass, all of them together none",
        ),
    ],
)
def test_what_chooses_nothing_is_refused(wanted: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_choices([StageConfig(name="s", steps=1, data=StageData(**wanted))], CLIPS, [])
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
