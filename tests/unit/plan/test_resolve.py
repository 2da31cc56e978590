from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ttstrain import registry
from ttstrain.contract.task import DEFAULT_OPTIMIZER
from ttstrain.errors import RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.planner import FlowPlanner
from ttstrain.optim.groups import DEFAULT_GROUP, build_groups
from ttstrain.plan import resolve as resolving
from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.render import notes
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes

MakePlan = Callable[..., Plan]


def test_names_taken_from_modules_that_import_torch_agree_with_them() -> None:
    assert list(FlowPlanner(FlowConfig()).optimizers()) == [DEFAULT_OPTIMIZER]
    assert resolving.DEFAULT_GROUP == DEFAULT_GROUP


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("train.steps=123",), 123),
        (("train.epochs=3",), 60),
        (("train.epochs=0.01",), 1),
        (("train.epochs=3", "train.accumulate=3"), 20),
        (("train.epochs=2", "train.accumulate=3"), 14),
    ],
)
def test_a_set_length_is_taken_as_it_is(make_plan: MakePlan, overrides: tuple[str, ...], steps: int) -> None:
    assert make_plan(*overrides).steps == steps


def test_a_step_takes_micro_batches_of_every_process(make_plan: MakePlan) -> None:
    plan = make_plan("train.epochs=3", "train.accumulate=2", world_size=2)
    assert plan.steps_per_epoch == 5
    assert plan.steps == 15


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 32), (2, 16), (4, 8), (8, 4), (3, 11), (32, 1), (64, 1)])
def test_any_number_of_processes_makes_the_step_that_is_asked_for(
    make_plan: MakePlan, world_size: int, accumulate: int
) -> None:
    overrides = ("train.steps=600", "data.batch_frames=2048", "train.step_frames=65536")
    plan = make_plan(*overrides, world_size=world_size)
    assert plan.accumulate == accumulate
    assert plan.steps_per_epoch == pytest.approx(plan.facts.batches_per_epoch / (accumulate * world_size))


def test_a_step_smaller_than_what_is_taken_at_once_is_refused(make_plan: MakePlan) -> None:
    with pytest.raises(RecipeError, match="less than half"):
        make_plan("train.steps=600", "data.batch_frames=2048", "train.step_frames=65536", world_size=65)
    with pytest.raises(RecipeError, match="not both"):
        make_plan("train.steps=600", "train.step_frames=65536", "train.accumulate=2")


@pytest.mark.parametrize(
    ("hours", "batches", "steps"),
    [
        (1.0, 105, 5200),  # 50 passes, to two digits
        (10.0, 1050, 21000),  # 20 passes
        (1000.0, 106_000, 530_000),  # no fewer than 5 passes
        (0.001, 20, 4000),  # no more than 200 passes
        (0.1, 1, 400),  # no fewer than 400 steps
    ],
)
@pytest.mark.parametrize("override", ["train.steps=auto", "train.seed=0"])
def test_an_automatic_length_follows_the_hours_of_data(
    make_plan: MakePlan, hours: float, batches: int, steps: int, override: str
) -> None:
    assert make_plan(override, hours=hours, batches_per_epoch=batches).steps == steps


@pytest.mark.parametrize(("steps", "horizon"), [(1000, 100), (50, 10), (5, 5), (1, 1), (1_000_000, 10_000)])
def test_the_average_spans_a_tenth_of_the_run(make_plan: MakePlan, steps: int, horizon: int) -> None:
    plan = make_plan(f"train.steps={steps}")
    assert plan.ema_horizon == horizon
    assert plan.ema_decay == pytest.approx(1 - 1 / horizon)


def test_a_set_decay_is_kept_and_an_average_can_be_left_out(make_plan: MakePlan) -> None:
    assert make_plan("train.steps=1000", "ema.decay=0.995").ema_horizon == 200
    off = make_plan("ema.enabled=false")
    assert (off.ema_decay, off.ema_horizon, off.memory["ema"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("steps", "every"), [(1, 1), (9, 1), (100, 10), (500, 50), (600, 50), (4100, 200), (5000, 500), (80_000, 1000)]
)
def test_automatic_intervals_are_round(make_plan: MakePlan, steps: int, every: int) -> None:
    plan = make_plan(f"train.steps={steps}")
    assert plan.eval_every == plan.save_every == every


def test_set_intervals_are_kept(make_plan: MakePlan) -> None:
    plan = make_plan(
        "train.steps=1000", "eval.every=7", "sample.every=8", "checkpoint.every=9", "guard.snapshot_every=11"
    )
    assert (plan.eval_every, plan.sample_every, plan.save_every, plan.snapshot_every) == (7, 8, 9, 11)


def test_nothing_is_evaluated_or_spoken_without_held_out_clips(make_plan: MakePlan) -> None:
    plan = make_plan(num_holdout=0)
    assert (plan.eval_every, plan.sample_every) == (None, None)
    assert make_plan("sample.texts=[Hello]", num_holdout=0).sample_every is not None
    assert make_plan("sample.count=0").sample_every is None
    assert make_plan("eval.every=null").eval_every is None


GROUPS = """
optim:
  lr: 1e-4
  weight_decay: 0.1
  groups:
    - {name: text, match: ["transformer.text_embed.*"], lr_scale: 5, weight_decay: 0}
    - {name: head, match: ["transformer.proj_out.*"], lr: 3e-6, schedule: {kind: constant}}
    - {name: still, match: ["*.attn_norm.*"], frozen: true}
    - {name: late, match: ["*.ff.*"], frozen: [0, 10], layer_decay: 0.9}
"""


def test_groups_get_their_peak_lr_decay_and_schedule(make_plan: MakePlan) -> None:
    groups = {group.key: group for group in make_plan(recipe=GROUPS).groups}
    assert list(groups) == ["model/text", "model/head", "model/still", "model/late", "model/default"]
    assert groups["model/text"].lr == pytest.approx(5e-4)
    assert groups["model/text"].weight_decay == 0
    assert groups["model/head"].lr == 3e-6
    assert groups["model/head"].schedule.kind == "constant"
    assert groups["model/still"].frozen is True
    assert groups["model/late"].frozen == (0, 10)
    assert groups["model/late"].layer_decay == 0.9
    assert groups["model/default"].lr == 1e-4
    assert groups["model/default"].weight_decay == 0.1


def test_a_rule_for_everything_leaves_no_default_group(make_plan: MakePlan) -> None:
    plan = make_plan(recipe="optim: {groups: [{name: all, match: ['*']}]}\n")
    assert [group.name for group in plan.groups] == ["all"]


def test_several_optimizers_each_have_their_own_lr_and_the_groups_they_hold(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = {"generator": ("*text_embed*", "*.attn.*"), "discriminator": ("*.ff.*",)}
    monkeypatch.setattr(FlowPlanner, "optimizers", lambda _: owned)
    recipe = """
optim:
  lr: 1e-4
  optimizers: {discriminator: {lr: 2e-4, weight_decay: 0}}
  groups: [{name: text, match: ["*text_embed*"], lr_scale: 5}]
"""
    groups = {group.key: group for group in make_plan(recipe=recipe).groups}
    assert list(groups) == ["generator/text", "generator/default", "discriminator/default"]
    assert groups["generator/text"].lr == pytest.approx(5e-4)
    assert groups["generator/default"].lr == 1e-4
    assert groups["discriminator/default"].lr == 2e-4
    assert groups["discriminator/default"].weight_decay == 0


def test_an_optimizer_that_the_task_does_not_have_is_refused(make_plan: MakePlan) -> None:
    with pytest.raises(RecipeError, match=r"`optim.optimizers.modle`: the task has no such optimizer") as caught:
        make_plan(recipe="optim: {optimizers: {modle: {lr: 1e-4}}}\n")
    assert caught.value.hint == "did you mean `model`?"


@pytest.mark.parametrize("recipe", [entry.name for entry in list_recipes() if entry.name.startswith("smoke/")])
def test_a_plan_lists_the_groups_that_the_run_has(recipe: str, facts: DataFacts) -> None:
    parsed = parse(compose(recipe, ["optim.groups=[{name: first, match: ['*.0.*']}]"]))
    spec = registry.find_task(parsed.task)
    plan = resolve(parsed, origins={}, facts=facts)
    task = spec.build(parsed.model)
    table = build_groups(task.optimized(), task.named_parameters(), parsed.optim)
    assert [group.key for group in plan.groups] == list(dict.fromkeys(group.key for group in table.groups))


def test_every_value_has_an_origin(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=100", recipe="optim: {lr: 1e-4}\n")
    assert plan.origins["optim.lr"] == "recipe"
    assert plan.origins["train.steps"] == "command line"
    assert plan.origins["model.dim"] == "configs/models/f5_tiny"
    assert plan.origins["model.cfm.span"] == "default"
    assert plan.origins["guard.max_skips"] == "default"


@pytest.mark.parametrize(
    ("override", "moments"), [("adamw", 8), ("sgd", 4), ("lion", 4), ("adamw8bit", 2), ("schedule_free_adamw", 8)]
)
def test_memory_and_disk_are_counted_from_the_parameters(make_plan: MakePlan, override: str, moments: int) -> None:
    plan = make_plan("train.steps=1000", f"optim.kind={override}")
    count = plan.parameters.total
    assert plan.memory["weights"] == plan.memory["gradients"] == plan.memory["ema"] == 4 * count
    assert plan.memory["moments"] == moments * count
    assert plan.memory["snapshot"] == (8 + moments) * count  # on the host
    assert plan.memory_bytes == (12 + moments) * count + plan.memory["activations"]
    assert plan.num_checkpoints == 3  # the last two and the best
    assert plan.disk_bytes == 3 * (8 + moments) * count


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (("checkpoint.every=100",), 3),
        (("checkpoint.every=1000",), 1),
        (("checkpoint.every=100", "checkpoint.best=null"), 2),
        (("checkpoint.every=100", "checkpoint.keep_every=200"), 8),
        (("checkpoint.every=100", "checkpoint.keep_last=50"), 10),
    ],
)
def test_checkpoints_are_counted_as_the_store_keeps_them(
    make_plan: MakePlan, overrides: tuple[str, ...], kept: int
) -> None:
    assert make_plan("train.steps=1000", *overrides).num_checkpoints == kept


def test_a_plan_is_json(make_plan: MakePlan) -> None:
    plan = make_plan("train.steps=100", recipe=GROUPS)
    written: dict[str, Any] = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert written["steps"] == 100
    assert written["groups"][3]["frozen"] == [0, 10]
    assert written["data"]["median_frames"] == 200
    assert written["origins"]["optim.lr"] == "recipe"
    assert written["recipe"]["optim"]["lr"] == 1e-4


@pytest.mark.parametrize(("task", "key"), [("gpt", "vae"), ("vae", "gpt")])
def test_without_the_other_net_no_samples_are_planned_and_the_plan_says_so(
    make_plan: MakePlan, task: str, key: str
) -> None:
    head = f"extends: [models/gpt_sovits_tiny_{task}]\ntask: gpt_sovits/{task}\ndata: {{path: x}}\n"
    plan = make_plan("train.steps=50", "sample.every=5", head=head)
    assert plan.sample_every is None
    assert f"generating speech needs `model.{key}`, which is not set" in " ".join(notes(plan))
    assert make_plan("train.steps=50", "sample.every=5", f"model.{key}=s.pth", head=head).sample_every == 5
    for asked in ("judge.enabled=true", "checkpoint.best=judge"):
        with pytest.raises(RecipeError, match=f"generates none without `model.{key}`"):
            make_plan("train.steps=50", "sample.every=5", asked, head=head)
