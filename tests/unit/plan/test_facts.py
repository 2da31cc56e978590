from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.contract.data import Clip
from ttstrain.data.forked import Forked
from ttstrain.data.split import DataSplit
from ttstrain.errors import DataError, RecipeError
from ttstrain.plan.facts import Findings, count_frames, gather_facts, report_texts
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import Recipe


def recipe(*overrides: str) -> Recipe:
    return parse(compose("from_scratch", overrides))


def clip(name: str, seconds: float) -> Clip:
    return Clip(id=name, path=Path(f"{name}.wav"), text="hello", duration_s=seconds, sample_rate=24_000)


def test_clips_are_counted_in_the_tasks_frames() -> None:
    clips = [clip("a", 1.0), clip("b", 2.0), clip("c", 2.0), clip("d", 30.0)]
    split = DataSplit(train=clips, held_out=[clip("e", 1.0)], replay=[], retained=[])
    facts = count_frames(recipe("data.batch_frames=400"), split, findings=Findings(skipped={"x": 2}))
    assert facts.frames == (94, 188, 188, 2813)  # 24,000 Hz in hops of 256, and one
    assert facts.overlong == ("d",)
    assert facts.num_clips == 3
    assert facts.hours == pytest.approx(5 / 3600)
    assert facts.num_holdout == 1
    assert facts.batches_per_epoch == 2  # 2 x 188 and 94, or 188 and 2 x 188
    assert facts.skipped == {"x": 2}


@pytest.mark.parametrize("held", [[], [0], [1], [0, 2]], ids=str)
def test_examples_of_unknown_symbols_are_training_clips_where_these_hold_any(held: list[int]) -> None:
    """Though the report is begun before it is known which clips are held out."""
    made = recipe("model.max_unknown=1")
    clips = [replace(clip(str(i), 1.0), text=text) for i, text in enumerate(["one ☃", "two ☃", "three ☂", "four"])]
    split = DataSplit([one for i, one in enumerate(clips) if i not in held], [clips[i] for i in held], [], [])
    begun = Forked(lambda: report_texts(made, clips), items=len(clips))
    facts = count_frames(made, split, findings=Findings(), texts=begun)
    assert facts == count_frames(made, split, findings=Findings())
    assert facts.texts is not None
    assert facts.texts.examples == {"☃": "two ☃" if 0 in held else "one ☃", "☂": "three ☂"}


def test_no_clip_fits_is_for_the_plan_to_refuse() -> None:
    split = DataSplit(train=[clip("a", 1.0)], held_out=[], replay=[], retained=[])
    facts = count_frames(recipe("data.batch_frames=50"), split, findings=Findings())
    assert (facts.num_clips, facts.batches_per_epoch, facts.hours) == (0, 0, 0.0)


def test_the_shipped_speech_is_found() -> None:
    facts = gather_facts(recipe("data.holdout=4"))
    assert facts.num_holdout == 4
    assert facts.num_clips + 4 == 96
    assert facts.hours == pytest.approx(5.1 / 60, rel=0.1)


def test_a_recipe_without_data_asks_for_them() -> None:
    with pytest.raises(RecipeError, match=r"`data.path` is not set") as caught:
        gather_facts(recipe("data.path=null"))
    assert "--data" in str(caught.value.hint)


def test_data_that_are_not_there_are_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        gather_facts(recipe(f"data.path={tmp_path / 'none'}"))
