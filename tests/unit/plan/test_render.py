from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ttstrain.layout import WIDTH
from ttstrain.plan.plan import Plan, StageFacts
from ttstrain.plan.render import draw, notes, plan_lines, recipe_yaml, render_plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, compose_run
from ttstrain.recipe.emit import emit, scalar
from ttstrain.recipe.yaml12 import read_document

MakePlan = Callable[..., Plan]

GROUPS = """
base: hf://SWivid/F5-TTS/F5TTS_v1_Base/model_1250000.safetensors
optim:
  lr: 1e-4
  groups:
    - {name: text, match: ["transformer.text_embed.*"], lr_scale: 5, schedule: {kind: wsd}}
    - {name: still, match: ["*.attn_norm.*"], frozen: true}
    - {name: transformer_blocks, match: ["*.ff.*"], frozen: [0, 10], layer_decay: 0.9}
"""


def screen(plan: Plan) -> str:
    return "\n".join(plan_lines(plan))


@pytest.mark.parametrize("recipe", ["", GROUPS, GROUPS.replace("transformer_blocks", "a_very_long_name_of_a_group")])
@pytest.mark.parametrize("kind", ["cosine", "cosine_restarts"])
def test_a_plan_fits_eighty_columns_and_one_screen(make_plan: MakePlan, recipe: str, kind: str) -> None:
    lines = plan_lines(make_plan("train.steps=100", f"optim.schedule.kind={kind}", recipe=recipe))
    assert max(len(line) for line in lines) <= WIDTH
    assert len(lines) <= 45
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.precision=fp32", "train.device=cuda"), "precision fp32 (fp32 on a GPU: in TF32)"),
        (("train.tf32=false", "train.device=auto"), "precision auto (fp32 on a GPU: without TF32)"),
        (("train.precision=fp32", "train.device=cpu"), "precision fp32"),
        (("train.precision=bf16", "train.device=cuda"), "precision bf16"),
    ],
)
def test_a_plan_says_what_fp32_is_on_a_gpu(make_plan: MakePlan, overrides: tuple[str, ...], said: str) -> None:
    lines = " ".join(screen(make_plan("train.steps=100", *overrides)).split())
    assert f"{said} every" in lines


def test_a_plan_says_what_matters(make_plan: MakePlan) -> None:
    said = screen(make_plan("train.steps=1000", "data.path=some/where", recipe=GROUPS))
    for fact in (
        "100 clips, 30.0 min · 5 held out · 2 skipped · 1 repaired",
        "skipped: 2 too_short",
        "100 to 298 frames a clip, median 200 · 5.0 % padding",
        "1,000 steps = 50.0 epochs of 20.0 steps",
        "a step is at most 3,200 frames",
        "every 100 evaluate, save",
        "5.00e-05 5.00e-04 5.00e-05",  # first, peak and last LR of a group at five times the peak
        "model/still                frozen",
        "frozen in steps 0 to 10",
        "× 0.9 per layer",
        "wsd: warmup over 50",
        "decay 0.99: averages over 100 steps, 10 % of the run",
        "command line: train.steps 1000, data.path some/where",
        "recipe: optim.lr 0.0001, optim.groups [3]",
    ):
        assert fact in said


def test_the_console_shows_the_same_lines(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=100", recipe=GROUPS)
    stream = io.StringIO()
    render_plan(plan, Console(file=stream, width=80, force_terminal=False))
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == plan_lines(plan)


def test_curves_are_drawn_in_eighths() -> None:
    assert draw([0, 0.25, 0.5, 0.75, 1], height=2) == ["   ▄█", " ▄███"]
    assert draw([1e-9], height=1) == ["▁"]  # not nothing: the first updates of a warmup do move


def test_the_curve_rises_and_falls_where_the_schedule_does(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=580", "optim.schedule={kind: linear, warmup_steps: 290, end_factor: 0}")
    top = next(line for line in plan_lines(plan) if line.strip().startswith("peak "))
    assert top.index(max(top[15:])) - 15 in (28, 29)  # the middle of 58 columns


def noted(plan: Plan) -> str:
    return " ".join(notes(plan))


def test_notes_say_what_to_look_at(make_plan: MakePlan) -> None:
    assert "FROM SCRATCH" in noted(make_plan())
    assert "FROM SCRATCH" not in noted(make_plan(recipe=GROUPS))
    assert "1 clip is longer than `data.batch_frames` 297 and left out, 1 % of the speech" in noted(
        make_plan("data.batch_frames=297", overlong=("long-one",))
    )
    assert "long-one. `data.batch_frames=298` is enough for them" in noted(
        make_plan("data.batch_frames=297", overlong=("long-one",))
    )
    assert "30 % of the frames are padding" in noted(make_plan(padding_share=0.3))
    assert "one step holds more than all training data" in noted(make_plan("train.accumulate=30"))
    assert "each clip is trained on 400 times" in noted(make_plan(batches_per_epoch=1))
    assert "no evaluation" in noted(make_plan("eval.every=null"))
    assert "the only evaluation is at the end" in noted(make_plan("train.steps=10", "eval.every=20"))
    assert "reached at step 900" in noted(make_plan("train.steps=500", "ema.decay=0.99"))


@pytest.mark.parametrize(
    "value",
    [
        1e-5, 1e22, 0.1, 3.0, -0.0, 5, True, False, None, "", "no", "Yes", "null", "~", "1e-5", "010", "1:30", ".5",
        "a: b", "a #b", "- a", "'q'", '"q"', "back\\slash", "tab\there", "line\nbreak", " space ", "größer", "音声",
        "😀", "\x7f", "\u2028", "[x]", "{x}", "*x", "&x", "!x", "%x", "@x", "`x`", "x,y", "hf://a/b", "C:\\x", "=",
        "2024-01-02",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["value", "list", "rules"])
def test_what_is_written_reads_back_equal_by_both_generations_of_yaml(value: Any, shape: str) -> None:
    content = {"value": value, "list": [value, value], "rules": [{"a": value, "b": {"c": [value]}}, {"a": 1}]}[shape]
    text = emit({"key": content, "section": {"inner": content}, "empty": {}, "none": []}, lambda key: f"from {key}")
    wanted = {"key": content, "section": {"inner": content}, "empty": {}, "none": []}
    assert read_document(text, source="x").values == wanted
    assert yaml.safe_load(text) == wanted


def test_small_numbers_are_numbers_to_every_reader() -> None:
    assert scalar(1e-5) == "1.0e-05"


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (("train.steps=100",), {}),
        (("train.epochs=3",), {"steps": 60, "epochs": None}),
        (("train.steps=auto",), {"steps": 1300, "epochs": None}),
    ],
)
def test_the_resolved_recipe_reads_back_as_the_same_plan(
    make_plan: MakePlan, tmp_path: Path, overrides: tuple[str, ...], changed: dict[str, int]
) -> None:
    plan = make_plan(*overrides, "sample.texts=['Yes: no #1', 音声]", recipe=GROUPS)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe_yaml(plan), encoding="utf-8")
    composed = compose_run(run, origins=plan.origins)
    again = resolve(
        parse(composed), origins=composed.origins, facts=plan.facts, world_size=plan.world_size, source_name=plan.name
    )
    train = plan.recipe.train.model_copy(update=changed)
    assert again.recipe == plan.recipe.model_copy(update={"train": train})
    same = {"steps", "warmup_steps", "ema_decay", "groups", "eval_every", "save_every", "snapshot_every", "origins"}
    for name in same:
        assert getattr(again, name) == getattr(plan, name), name


def test_the_resolved_recipe_runs_as_a_recipe_of_its_own(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("train.steps=100", recipe=GROUPS)
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_yaml(plan), encoding="utf-8")
    composed = compose(path)
    again = resolve(parse(composed), origins=composed.origins, facts=plan.facts)
    assert again.groups == plan.groups


def test_every_value_of_the_resolved_recipe_names_its_origin(make_plan: MakePlan) -> None:
    text = recipe_yaml(make_plan("train.epochs=3", recipe="optim: {lr: 1e-4}\n"))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["lr"].endswith("# recipe")
    assert lines["dim"].endswith("# configs/models/f5_tiny")
    assert lines["max_skips"].endswith("# default")
    assert lines["steps"].startswith("  steps: 60 ")
    assert lines["steps"].endswith("# 3 epochs")
    assert lines["warmup_steps"].endswith("# default: 3")  # what `auto` comes to


def test_a_longer_resume_follows_from_the_resolved_recipe(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("train.steps=100")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe_yaml(plan), encoding="utf-8")
    composed = compose_run(run, ["train.steps=1000"], origins=plan.origins)
    longer = resolve(parse(composed), origins=composed.origins, facts=plan.facts)
    assert (longer.steps, longer.warmup_steps, longer.ema_horizon) == (1000, 50, 100)
    assert longer.origins["train.steps"] == "command line"


STAGES = """
optim:
  lr: 1e-4
  groups: [{name: text, match: ["*text_embed*"], lr_scale: 5}]
stages:
  - {name: general, steps: 600}
  - {name: target, epochs: 20, lr_scale: 0.3, data: {speakers: [anna]}, early_stop: {patience: 4}}
  - {name: a_stage_with_a_very_long_name_that_wraps, steps: 100, only: [text], lr_scale: 0.1}
"""
FOUND = (
    StageFacts(num_clips=95, hours=0.5, num_holdout=5, batches_per_epoch=20),
    StageFacts(num_clips=30, hours=0.1, num_holdout=2, batches_per_epoch=5),
    StageFacts(num_clips=95, hours=0.5, num_holdout=5, batches_per_epoch=20),
)


def test_a_plan_shows_each_stage_with_its_clips_and_learning_rates(make_plan: MakePlan) -> None:
    plan = make_plan("data.path=some/where", recipe=STAGES, stages=FOUND)
    lines = plan_lines(plan)
    assert max(len(line) for line in lines) <= WIDTH
    said = " ".join(" ".join(lines).split())
    for fact in (
        "800 steps = 3 stages, 55.0 epochs of their clips",
        "1 general, steps 0-600: 30.0 epochs of 95 clips, 30.0 min, 5 held out",
        "2 target, steps 600-700: 20.0 epochs of 30 clips, 6.0 min, 2 held out, ends early after 4 evaluations",
        "3 a_stage_with_a_very_long_name_that_wraps, steps 700-800: 5.0 epochs",
        "model/text 1.50e-05 1.50e-04 1.50e-05",  # warmup from a tenth, 0.3 of the peak, and down to a tenth
        "model/default frozen",
        "with `checkpoint.best=eval/stage/total`, on those of the last stage",
    ):
        assert fact in said, fact
    assert said.count("step 800") == 2  # a curve for each group


def test_a_plan_for_scripts_lists_the_stages(make_plan: MakePlan) -> None:
    general, target, last = make_plan("data.path=x", recipe=STAGES, stages=FOUND).to_json()["stages"]
    assert (general["name"], general["first_step"], general["steps"], general["num_clips"]) == ("general", 0, 600, 95)
    assert target["lrs"] == pytest.approx({"model/text": 1.5e-4, "model/default": 3e-5})
    assert last["lrs"] == pytest.approx({"model/text": 5e-5, "model/default": 0.0})


def test_a_resolved_recipe_holds_the_length_of_every_stage(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("data.path=x", recipe=STAGES, stages=FOUND)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(plan), encoding="utf-8")
    again = parse(compose_run(tmp_path, origins=plan.origins))
    assert [(stage.steps, stage.epochs) for stage in again.stages] == [(600, None), (100, None), (100, None)]
    assert again.train.steps is None
    assert again.stages[1].data.speakers == ["anna"]
    resolved = resolve(again, origins=plan.origins, facts=plan.facts)
    assert resolved.stages[1].early_stop == plan.stages[1].early_stop
    assert resolved.steps == plan.steps
