"""Which group a parameter lands in, and which recipes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ttstrain.errors import RecipeError
from ttstrain.optim.groups import FROZEN_BY_TASK, Group, GroupTable, build_groups, describe
from ttstrain.optim.settings import settings_of
from ttstrain.recipe.schema import Constant, GroupRule, OptimConfig, OptimizerOverride


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.out = nn.Linear(4, 2)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = Model()
        self.discriminator = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))

    def optimized(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}


def table_of(model: nn.Module, optimized: dict[str, nn.Module] | None = None, **optim: Any) -> GroupTable:
    return build_groups(optimized or {"model": model}, model.named_parameters(), OptimConfig(**optim))


def rule(name: str, *match: str, **settings: Any) -> GroupRule:
    return GroupRule(name=name, match=list(match), **settings)


def find(table: GroupTable, name: str, *, vectors: bool = False) -> Group:
    [group] = [g for g in table.groups if g.name == name and (g.parameters[0].ndim <= 1) is vectors]
    return group


def test_without_rules_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = Model()
    table = table_of(model, lr=3e-4, weight_decay=0.1)
    assert [group.key for group in table.groups] == ["model/default", "model/default"]
    decayed, plain = table.groups
    assert all(parameter.ndim > 1 for parameter in decayed.parameters)
    assert all(name.endswith("bias") or ".norm." in name for name in plain.names)
    assert (decayed.weight_decay, plain.weight_decay) == (0.1, 0.0)
    assert {group.lr for group in table.groups} == {3e-4}


def test_gains_of_any_shape_do_not_decay_and_layers_of_one_row_do() -> None:
    """GRN's are (1, 1, c), weight normalisation's (c, 1, 1); a linear layer with one output has weights (1, c)."""
    model = nn.Module()
    model.grn = nn.ParameterDict({"gamma": torch.zeros(1, 1, 8), "beta": torch.zeros(1, 1, 8)})
    model.normed = nn.ParameterDict({"weight_g": torch.ones(8, 1, 1), "weight_v": torch.ones(8, 4, 3)})
    model.scale = nn.Parameter(torch.ones(()))
    model.score = nn.Linear(8, 1)
    model.mix = nn.Conv1d(1, 1, 3)
    model.table = nn.Embedding(5, 1)
    decay = {name: g.weight_decay for g in table_of(model, weight_decay=0.1).groups for name in g.names}
    assert {name for name, value in decay.items() if value} == {
        "normed.weight_v", "score.weight", "mix.weight", "table.weight"
    }  # fmt: skip


def test_norms_and_biases_decay_when_told() -> None:
    assert {g.weight_decay for g in table_of(Model(), weight_decay=0.1, decay_norms_and_biases=True).groups} == {0.1}


def test_every_parameter_is_in_exactly_one_group_under_its_own_name() -> None:
    model = Gan()
    rules = [rule("text", "*.text.*", lr=1e-3), rule("attn", "*attn*", lr_scale=0.5)]
    table = table_of(model, model.optimized(), groups=rules)
    named = [pair for group in table.groups for pair in zip(group.names, group.parameters, strict=True)]
    assert len(named) == len({name for name, _ in named})
    assert {name: id(parameter) for name, parameter in named} == {
        name: id(parameter) for name, parameter in model.named_parameters()
    }


def test_the_first_rule_that_matches_wins() -> None:
    table = table_of(Model(), groups=[rule("first", "blocks.0.*"), rule("blocks", "blocks.*")])
    assert {name.split(".")[1] for name in find(table, "first").names} == {"0"}
    assert {name.split(".")[1] for name in find(table, "blocks").names} == {"1", "2"}


def test_rules_set_lr_scale_decay_betas_and_schedule() -> None:
    constant = Constant(warmup_steps=3)
    rules = [
        rule("text", "text.*", lr=7e-4, weight_decay=0.3, betas=(0.5, 0.6), schedule=constant),
        rule("out", "out.*", lr_scale=0.1),
    ]
    table = table_of(Model(), lr=1e-3, weight_decay=0.1, groups=rules)
    text, out, rest = find(table, "text"), find(table, "out"), find(table, "default")
    assert (text.lr, text.weight_decay, text.betas, text.schedule) == (7e-4, 0.3, (0.5, 0.6), constant)
    assert (out.lr, out.weight_decay, out.betas) == (pytest.approx(1e-4), 0.1, (0.9, 0.999))
    assert out.schedule == rest.schedule == OptimConfig().schedule
    assert rest.lr == 1e-3


def test_a_group_of_norms_alone_gets_the_weight_decay_it_asks_for() -> None:
    table = table_of(Model(), weight_decay=0.1, groups=[rule("norms", "*.norm.*", weight_decay=0.02)])
    assert find(table, "norms", vectors=True).weight_decay == 0.02
    assert find(table, "default", vectors=True).weight_decay == 0.0


def test_layer_decay_multiplies_the_lr_from_the_last_layer_down() -> None:
    table = table_of(Model(), lr=1e-3, groups=[rule("net", "blocks.*", "text.*", layer_decay=0.5)])
    lrs = {group.name: group.lr for group in table.groups}
    assert lrs == {
        "net": pytest.approx(1e-3),  # the embedding has no layer
        "net.0": pytest.approx(0.25e-3),
        "net.1": pytest.approx(0.5e-3),
        "net.2": pytest.approx(1e-3),
        "default": pytest.approx(1e-3),
    }
    assert set(find(table, "net.1", vectors=True).names) == {
        "blocks.1.attn.bias",
        "blocks.1.norm.weight",
        "blocks.1.norm.bias",
    }


def test_frozen_parameters_need_no_gradient_and_are_listed() -> None:
    model = Model()
    model.out.weight.requires_grad_(False)  # the task's own decision
    table = table_of(model, groups=[rule("text", "text.*", frozen=True)])
    assert table.frozen == ["text.weight", "out.weight"]
    assert not model.text.weight.requires_grad
    assert [(g.name, g.num_parameters) for g in table.frozen_groups] == [("text", 28), (FROZEN_BY_TASK, 8)]
    assert all("text" not in name for group in table.groups for name in group.names)


def test_a_range_of_frozen_steps_is_half_open() -> None:
    table = table_of(Model(), groups=[rule("text", "text.*", frozen=(10, 20))])
    text = find(table, "text")
    assert [text.frozen_at(step) for step in (9, 10, 19, 20)] == [False, True, True, False]
    assert text.parameters[0].requires_grad
    assert table.frozen == []


def test_overrides_of_one_optimizer_leave_the_other_alone() -> None:
    model = Gan()
    table = table_of(
        model,
        model.optimized(),
        lr=1e-4,
        groups=[rule("head", "*.1.weight", lr_scale=0.5)],
        optimizers={"discriminator": OptimizerOverride(lr=4e-4, kind="sgd", max_grad_norm=5.0)}
        | {"generator": OptimizerOverride(weight_decay=0.2)},
    )
    groups = {group.key: group for group in table.groups if group.parameters[0].ndim > 1}
    assert groups["discriminator/default"].lr == 4e-4
    assert groups["discriminator/head"].lr == pytest.approx(2e-4)  # rules see the whole task, LRs are the optimizer's
    assert groups["generator/default"].lr == 1e-4
    assert groups["generator/default"].weight_decay == 0.2
    assert groups["discriminator/default"].weight_decay == 0.01
    assert (table.settings["discriminator"].kind, table.settings["generator"].kind) == ("sgd", "adamw")
    assert (table.settings["discriminator"].max_grad_norm, table.settings["generator"].max_grad_norm) == (5.0, 1.0)


def test_describe_counts_every_parameter_once() -> None:
    model = Model()
    rules = [rule("text", "text.*", frozen=True), rule("out", "out.*", lr=1e-3, frozen=(0, 5))]
    rows = describe(table_of(model, groups=rules))
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.tensors for row in rows) == len(list(model.parameters()))
    frozen = {row.group: row.frozen for row in rows}
    assert frozen == {"out": "steps [0, 5)", "default": "", "text": "always"}


def test_embeddings_are_known_by_name() -> None:
    model = Gan()
    assert table_of(model, model.optimized()).embeddings == {"generator.text.weight"}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("rules", "message", "hint"),
    [
        ([rule("a", "text.weigth")], "`text.weigth` of group `a` matches no parameter", "`text.weight`"),
        ([rule("a", "text.*", "blocks.*.atn.*")], "matches no parameter", "attn"),
        ([rule("a", "blocks.*"), rule("b", "blocks.1.*")], "take every parameter of group `b`", "specific rule first"),
        ([rule("a", "text.*"), rule("a", "out.*")], "given twice", "one group"),
        ([rule("default", "text.*")], "taken", "optim.lr"),
        ([rule("a", "text.*", layer_decay=0.9)], "have no layer number", "text.weight"),
        ([rule("a", "*", frozen=True)], "optimizer `model` has no parameter to train", "frozen"),
        ([rule("net", "blocks.*", layer_decay=0.9), rule("net.1", "out.*")], "two groups are called", "rename"),
    ],
)
def test_rules_that_cannot_mean_what_they_say_are_refused(rules: list[GroupRule], message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=r".") as caught:
        table_of(Model(), groups=rules)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_rule_over_what_the_task_froze_is_refused() -> None:
    model = Model()
    model.text.requires_grad_(False)
    with pytest.raises(RecipeError, match="only parameters that the task never trains"):
        table_of(model, groups=[rule("text", "text.*", lr=1e-3)])
    assert table_of(model, groups=[rule("text", "text.*", frozen=True)]).frozen == ["text.weight"]


def test_an_override_of_an_optimizer_the_task_lacks_is_refused() -> None:
    model = Gan()
    with pytest.raises(RecipeError, match=r"optim\.optimizers\.discriminater") as caught:
        table_of(model, model.optimized(), optimizers={"discriminater": OptimizerOverride(lr=1e-4)})
    assert "`discriminator`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "key", "value"), [("adamw", "momentum", 0.5), ("sgd", "betas", (0.9, 0.9)), ("lion", "eps", 1e-6)]
)
def test_a_setting_that_the_optimizer_does_not_read_is_refused(kind: Any, key: str, value: Any) -> None:
    optim = OptimConfig(kind=kind, optimizers={"model": OptimizerOverride.model_validate({key: value})})
    with pytest.raises(RecipeError, match=f"`optim.optimizers.model.{key}` is not used by `{kind}`"):
        settings_of(optim, "model")


def test_betas_of_a_group_under_sgd_are_refused() -> None:
    with pytest.raises(RecipeError, match="which `sgd` does not have"):
        table_of(Model(), kind="sgd", groups=[rule("text", "text.*", betas=(0.5, 0.5))])


def test_a_trainable_parameter_without_an_optimizer_is_the_tasks_defect() -> None:
    model = Gan()
    with pytest.raises(ValueError, match=r"`discriminator\.0\.weight` belongs to no optimizer"):
        table_of(model, {"generator": model.generator})
    model.discriminator.requires_grad_(False)
    assert len(table_of(model, {"generator": model.generator}).frozen) == 4


def test_a_parameter_of_two_optimizers_is_the_tasks_defect() -> None:
    model = Gan()
    with pytest.raises(ValueError, match="several optimizers: all, generator"):
        table_of(model, {"all": model, "generator": model.generator})


def test_tied_weights_are_one_parameter() -> None:
    model = Model()
    model.head = nn.Linear(4, 7, bias=False)
    model.head.weight = model.text.weight
    names = [name for group in table_of(model).groups for name in group.names]
    assert "text.weight" in names
    assert "head.weight" not in names
