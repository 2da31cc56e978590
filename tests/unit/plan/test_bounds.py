"""Every number of a recipe has two bounds, so that no value hangs a plan or overflows in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ttstrain import registry
from ttstrain.errors import RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.plan.refuse import check_measured
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose, compose_run
from ttstrain.recipe.schema import Recipe
from ttstrain.recipe.yaml12 import read_document


def parse_text(text: str) -> Recipe:
    return Recipe.model_validate({"task": "flow", **read_document(text, source="r.yaml").values})


MakePlan = Callable[..., Plan]
SCHEMAS = [Recipe, *(spec.config for spec in registry.tasks().values())]


def numbers(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield at, node
        for key, value in node.items():
            if key not in ("default", "description"):
                yield from numbers(value, f"{at}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers(value, f"{at}/{index}")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_number_has_a_lower_and_an_upper_bound(schema: type[Recipe]) -> None:
    found = dict(numbers(schema.model_json_schema()))
    assert len(found) > 5
    open_ended = [
        at
        for at, node in found.items()
        if not (node.keys() & {"minimum", "exclusiveMinimum"} and node.keys() & {"maximum", "exclusiveMaximum"})
    ]
    assert open_ended == []


@pytest.mark.parametrize(
    "override",
    [
        *("optim.lr=75", "optim.lr=1e39", "optim.betas=[0.9,1.5]", "optim.betas=[-0.1,0.9]", "optim.weight_decay=1e9"),
        *("train.seed=-1", "train.seed=1000000000000000000000", "train.steps=1000000000000000000", "train.epochs=1e99"),
        *("train.accumulate=1000000000", "data.workers=10000", "data.holdout=0.99", "data.max_s=1e300"),
        *("model.depth=1000000000", "model.dim=1000000000", "model.sampling.steps=1000000000"),
        *("model.cfm.frac_lengths=[0.0,0.0]", "ema.start_step=1000000000000", "guard.window=1000000000000"),
        *(f"name={'x' * 300}", f"name={'語' * 100}", "optim.groups=[{name: " + "x" * 300 + ", match: ['*']}]"),
        *("optim.groups=[{name: a, match: ['*'], betas: [0.9, 1.0]}]", "optim.optimizers={model: {betas: [0.9, 2]}}"),
    ],
)
def test_what_cannot_go_well_is_refused_by_name(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("task: flow\nextends: [models/f5_tiny]\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        parse(compose(path, [override]))
    assert override.split("=", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1] in caught.value.message


def test_a_name_as_long_as_a_folder_may_be_is_taken(make_plan: MakePlan) -> None:
    assert make_plan(f"name={'語' * 66}").name == "語" * 66


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (("base=x.pt", "optim.lr=0.0075"), "0.005"),
        (("base=x.pt", "optim.groups=[{name: a, match: ['*text*'], lr_scale: 1000}]"), "0.005"),
        (("base=x.pt", "lora={}", "optim.lr=0.075"), "0.05"),
        (("base=x.pt", "optim={kind: muon, lr: 0.2}"), "0.05"),
        (("optim.lr=0.5",), "0.1"),
    ],
)
def test_an_lr_that_no_net_survives_is_refused(make_plan: MakePlan, overrides: tuple[str, ...], kept: str) -> None:
    with pytest.raises(RecipeError, match=f"above {kept}, training"):
        make_plan("train.steps=100", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("base=x.pt", "optim.lr=3e-3"),
        ("base=x.pt", "lora={}", "optim.lr=2e-2"),
        ("base=x.pt", "optim={kind: scaled_adam, lr: 0.06}"),
        ("base=x.pt", "optim={kind: muon, lr: 0.02}"),
        ("optim.lr=2e-2",),
    ],
)
def test_a_high_lr_that_someone_uses_is_taken(make_plan: MakePlan, overrides: tuple[str, ...]) -> None:
    assert make_plan("train.steps=100", *overrides).groups


@pytest.mark.parametrize("base", [(), ("base=x.pt",)])
def test_new_rows_need_a_base_and_steps_after_them(make_plan: MakePlan, base: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="first" if not base else "is 100 steps, but the whole run has only"):
        make_plan("train.steps=100", "model.first_new_rows=100", *base)


def test_a_plan_of_the_longest_run_takes_no_time(make_plan: MakePlan) -> None:
    assert make_plan("train.steps=100000000", "optim.schedule.kind=cosine_restarts").steps == 100_000_000


def test_passes_that_make_too_many_steps_are_refused(make_plan: MakePlan) -> None:
    with pytest.raises(RecipeError, match=r"200,000,000,\d* steps|the run would have"):
        make_plan("train.epochs=1000000", batches_per_epoch=2_000_000)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.best=eval/los/total", "which no evaluation of this run measures"),
        ("checkpoint.best=train/loss/total", "which no evaluation of this run measures"),
        ("checkpoint.best=total", "which no evaluation of this run measures"),
        ("checkpoint.best=eval/retention/total", "it needs `data.replay` with clips held out"),
        ("train.early_stop={metric: loss}", "`train.early_stop.metric` is `loss`"),
        ("train.early_stop={metric: eval/ema_retention/total}", "it needs `data.replay`"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused_with_those_it_gives(
    make_plan: MakePlan, override: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan("train.steps=100", override)
    assert message in caught.value.message
    assert "`eval/loss/<loss>`, `eval/ema_loss/<loss>`, such as `eval/loss/total`" in str(caught.value.hint)


def test_metrics_that_an_evaluation_gives_are_taken(make_plan: MakePlan) -> None:
    assert make_plan("train.steps=100", "checkpoint.best=eval/ema_loss/total")
    replay = "data.replay={path: x}"
    assert make_plan("train.steps=100", replay, "train.early_stop={metric: eval/retention/total}")


def test_a_run_that_trains_nothing_is_refused_in_its_own_words(make_plan: MakePlan) -> None:
    with pytest.raises(RecipeError, match="every parameter group is frozen: nothing would be trained"):
        make_plan("train.steps=100", "optim.groups=[{name: all, match: ['*'], frozen: true}]")


@pytest.mark.parametrize("order", [("~train.steps", "train.epochs=3"), ("train.epochs=3", "~train.steps")])
def test_one_length_is_dropped_and_the_other_given(make_plan: MakePlan, order: tuple[str, str]) -> None:
    made = make_plan(*order, recipe="train: {steps: 100}\n")
    assert (made.steps, made.recipe.train.epochs) == (60, 3)


@pytest.mark.parametrize("override", ["name=other", "run_dir=x", "base=/no/such", "~base", "task=orpheus"])
def test_what_a_resume_cannot_change_is_refused(tmp_path: Path, override: str) -> None:
    (tmp_path / "recipe.yaml").write_text("task: flow\nname: a\nbase: b\nrun_dir: runs\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"cannot change after a run has started"):
        compose_run(tmp_path, [override], origins={})
    assert compose_run(tmp_path, ["train.steps=6"], origins={}).values["train"] == {"steps": 6}


def test_metrics_that_the_first_evaluation_lacks_are_refused_with_those_it_gave() -> None:
    recipe = parse_text("checkpoint: {best: eval/loss/totl}\n")
    measured = {"eval/loss/total": 1.0, "eval/loss/t0": 1.0, "ema/distance": 0.0}
    with pytest.raises(RecipeError, match=r"`checkpoint.best` is `eval/loss/totl`, and evaluations measure") as caught:
        check_measured(recipe, {"checkpoint.best": "recipe"}, measured)
    assert "`eval/loss/t0`, `eval/loss/total`" in caught.value.message
    assert caught.value.hint == "did you mean `eval/loss/total`?"
    check_measured(recipe, {}, measured)  # a default may stay unused: only what is replayed is held out, say
    stop = parse_text("train: {early_stop: {metric: eval/loss/typo}}\n")
    with pytest.raises(RecipeError, match=r"`train.early_stop.metric` is `eval/loss/typo`"):
        check_measured(stop, {}, measured)
    staged = parse_text("stages: [{name: a, steps: 3, early_stop: {}}, {name: b, steps: 3}]\n")
    check_measured(staged, {}, measured)  # `eval/stage/total` has the losses of `eval/loss/`
