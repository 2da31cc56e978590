"""A run's course by what its parts take, and what is kept of that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ttstrain.data import sampler
from ttstrain.errors import DataError
from ttstrain.forecast import ledger, timeline
from ttstrain.forecast.costs import Costs, Sizes, of_json
from ttstrain.forecast.forecast import Taken, compared, forecast, forecast_lines
from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose
from ttstrain.train import spent
from ttstrain.train.spent import Amount, Spent

FACTS = DataFacts(
    num_clips=100,
    hours=0.5,
    num_holdout=5,
    skipped={},
    fixed={},
    frames=(200,) * 100,
    batches_per_epoch=20,
    padding_share=0.0,
)
RECIPE = """
task: flow
extends: [models/f5_tiny]
base: package:small_f5
data: {path: speech, batch_frames: 1000}
train: {steps: 100, device: cpu}
eval: {every: 50}
sample: {every: 100, count: 2}
judge: {sentences: 4}
checkpoint: {every: 50}
guard: {snapshot_every: 25}
"""
SIZES = Sizes(memory=10**9, on_gpu=False, checkpoint=10**7, samples=10**5, rest=10**6, cache=10**6)
# A step has 1,000 frames, 5 clips of 200. Those that were measured had 500 and took half as long.
PARTS = {
    spent.START: Amount(1, 5.0, 4.0),
    spent.FIRST_STEPS: Amount(2, 4.0, 4.0, frames=1000),
    spent.STEP: Amount(10, 5.0, 5.0, frames=5000),
    spent.EVALUATION: Amount(2, 6.0, 6.0),
    spent.SAMPLES: Amount(2, 16.0, 16.0),
    spent.GENERATE: Amount(8, 8.0, 8.0),
    spent.LISTEN: Amount(8, 4.0, 4.0),
    spent.OPEN_EARS: Amount(1, 2.0, 2.0),
    spent.SAVE: Amount(1, 0.5, 0.5),
    spent.HOLD: Amount(1, 0.25, 0.25),
}
COSTS = Costs("trial", "quick", "2026-11-29T23:10:00+00:00", SIZES, PARTS)


def make_plan(folder: Path, *overrides: str, facts: DataFacts = FACTS) -> Plan:
    path = folder / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    composed = compose(path, [*overrides, f"data.cache_dir={folder / 'cache'}"])
    return resolve(parse(composed), origins=composed.origins, facts=facts, source_name=composed.name)


def test_the_parts_of_a_run_add_up_in_their_order(tmp_path: Path) -> None:
    course = timeline.follow(make_plan(tmp_path), COSTS)
    assert course is not None
    # Start 5, snapshot 0.25, evaluation 3. Samples: 4 sentences at 1 s, heard at 0.5 s, models 2 s, files 1 s.
    assert course.first_step == pytest.approx(5 + 0.25 + 3 + 4 * 1.5 + 2 + 1)
    # The first two steps took 3 s more than 1,000 frames do.
    assert course.parts[spent.STEP] == pytest.approx(100 * 1.0 + 3)
    assert course.parts[spent.EVALUATION] == pytest.approx(3 * 3)
    last = 8 * 1.5 + 1  # both raw and EMA weights say four sentences
    assert course.parts[spent.SAMPLES] == pytest.approx(9 + last)
    assert course.parts[spent.SAVE] == pytest.approx(2 * 0.5 + 4 * 0.25)
    assert course.samplings == 2


def test_the_mean_step_is_that_of_the_epochs_to_come(tmp_path: Path) -> None:
    # One of 400 frames and four of 300 are 3 or 4 micro-batches of at most 900, as chance sorts them.
    mixed = dataclasses.replace(FACTS, frames=(400, 300, 300, 300, 300), batches_per_epoch=2)
    plan = make_plan(tmp_path, "data.batch_frames=900", facts=mixed)
    epochs = [
        sampler.plan_epoch(mixed.frames, budget=900, max_clips=plan.recipe.data.max_clips, seed=0, epoch=epoch)
        for epoch in range(20)
    ]
    assert len({len(epoch) for epoch in epochs}) > 1 or len({tuple(map(len, epoch)) for epoch in epochs}) > 1
    padded = [len(batch) * max(mixed.frames[i] for i in batch) for epoch in epochs for batch in epoch]
    assert timeline.frames_per_step(plan) == pytest.approx(sum(padded) / len(padded))


def test_a_longer_run_takes_longer_by_its_steps_and_what_follows_them(tmp_path: Path) -> None:
    short, long = (timeline.follow(make_plan(tmp_path, f"train.steps={n}"), COSTS) for n in (100, 300))
    assert short is not None and long is not None
    samplings = 2 * (8 * 1.5 + 1)  # two more, and there is time to listen at each
    assert long.total - short.total == pytest.approx(200 * 1.0 + 4 * 3 + 4 * 0.5 + 8 * 0.25 + samplings)
    assert long.first_step == short.first_step


def test_the_judge_listens_between_as_often_as_a_tenth_of_the_time_allows(tmp_path: Path) -> None:
    def heard(*overrides: str) -> float:
        costs = dataclasses.replace(COSTS, parts={**PARTS, spent.LISTEN: Amount(8, 40.0, 40.0)})
        course = timeline.follow(make_plan(tmp_path, "sample.every=20", *overrides), costs)
        assert course is not None
        return course.parts[spent.SAMPLES]

    silent, short = heard("judge.between=0"), heard()
    assert short == pytest.approx(silent)  # 4 sentences take 44 s: more than a tenth of 100 steps
    assert heard("train.steps=2000", "sample.every=500") > heard(
        "judge.between=0", "train.steps=2000", "sample.every=500"
    )


def test_a_resumed_session_begins_where_it_stopped(tmp_path: Path) -> None:
    course = timeline.follow(make_plan(tmp_path), COSTS, from_step=60)
    assert course is not None
    assert course.first_step == pytest.approx(5.25)
    assert course.parts[spent.STEP] == pytest.approx(40 + 3)


def test_costs_that_lack_a_part_forecast_nothing(tmp_path: Path) -> None:
    parts = {name: amount for name, amount in PARTS.items() if name != spent.EVALUATION}
    assert timeline.follow(make_plan(tmp_path), dataclasses.replace(COSTS, parts=parts)) is None
    assert timeline.follow(make_plan(tmp_path, "eval.every=null"), dataclasses.replace(COSTS, parts=parts)) is not None


def test_what_is_shown_names_its_source_and_fits_the_screen(tmp_path: Path) -> None:
    found = forecast(make_plan(tmp_path), COSTS)
    assert found is not None
    lines = forecast_lines(found)
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    assert "from the trial of 12 steps, 29 Nov 23:10" in said
    assert "0:17 to the first step, 2:21 to the end" in said
    assert "1.00 GB of this machine's memory" in said
    checkpoints = make_plan(tmp_path).num_checkpoints * 10**7
    assert found.taken.disk == checkpoints + 10**5 + 10**6
    assert "--trial" in " ".join(forecast_lines(None))


def test_the_end_compares_forecast_and_run(tmp_path: Path) -> None:
    found = forecast(make_plan(tmp_path), COSTS)
    assert found is not None
    said = found.taken
    same = compared(found, said)
    assert len(same) == 3 and "time 2:21, took 2:21 (0 % less)" in same[1]
    slower = dataclasses.replace(said, total_s=2 * said.total_s)
    lines = compared(found, slower)
    assert "(100 % more)" in lines[1]
    assert lines[3].startswith("  processor ")
    assert max(map(len, lines)) <= 80


def test_costs_are_found_again_for_this_recipe_only(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert ledger.look_up(plan) is None
    ledger.keep(plan, COSTS)
    assert ledger.look_up(plan) == COSTS
    assert ledger.look_up(make_plan(tmp_path, "train.steps=7", "optim.lr=1e-5", "name=other")) == COSTS
    assert ledger.look_up(make_plan(tmp_path, "data.batch_frames=900")) is None
    newer = dataclasses.replace(COSTS, source="run", made="2026-11-30T01:00:00+00:00")
    ledger.keep(plan, newer)
    assert ledger.look_up(plan) == newer


@pytest.mark.parametrize(
    "damage", [{"version": 2}, {"source": "dream"}, {"sizes": {}}, {"parts": {"step": {"times": 1}}}, {"made": "today"}]
)
def test_costs_that_nobody_wrote_are_not_read(damage: dict[str, object], tmp_path: Path) -> None:
    written = json.loads(json.dumps(COSTS.to_json()))
    assert of_json(written) == COSTS
    with pytest.raises(DataError):
        of_json({**written, **damage})


def test_time_is_counted_to_its_part_and_the_first_steps_apart() -> None:
    here = Spent()
    for frames in (10, 20, 30, 40):
        with here.on_step():
            pass
        here.count_frames(frames)
    assert here.of(spent.FIRST_STEPS).times == 2 and here.of(spent.FIRST_STEPS).frames == 30
    assert here.of(spent.STEP).times == 2 and here.of(spent.STEP).frames == 70
    assert here.first_step is not None and here.first_step > 0
    with pytest.raises(ValueError, match="full"), here.on(spent.SAVE):
        raise ValueError("full")
    assert here.of(spent.SAVE).times == 1
    here.add(spent.LISTEN, wall=3.0, cpu=2.0, times=4)
    here.move(spent.LISTEN, spent.OPEN_EARS, wall=1.0, cpu=0.5)
    assert here.of(spent.LISTEN) == Amount(4, 2.0, 1.5) and here.of(spent.OPEN_EARS) == Amount(1, 1.0, 0.5)


def test_taken_is_written_as_json() -> None:
    took = Taken(first_step_s=1.0, total_s=2.0, cpu_s=1.5, memory=3, on_gpu=False, disk=4)
    assert took.to_json() == {
        "first_step_s": 1.0, "total_s": 2.0, "cpu_s": 1.5, "memory": 3, "on_gpu": False, "disk": 4
    }  # fmt: skip
