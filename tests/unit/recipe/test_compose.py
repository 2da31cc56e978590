from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe.compose import REMOVED, Composed, compose, compose_run, load_yaml, parse_override, with_flags


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def composed(folder: Path, text: str, *overrides: str) -> Composed:
    return compose(write(folder, text), overrides)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optim.lr=1e-5", ("optim", "lr"), 1e-5),
        ("+optim.lr=1e-5", ("optim", "lr"), 1e-5),
        ("++optim.lr = 1e-5", ("optim", "lr"), 1e-5),
        ("a.b=null", ("a", "b"), None),
        ("a.b=[x, 'y, z']", ("a", "b"), ["x", "y, z"]),
        ("data.path=/some/where=odd", ("data", "path"), "/some/where=odd"),
        ("name='a #b'", ("name",), "a #b"),
        ("name=''", ("name",), ""),
        ("name=0367", ("name",), "0367"),
        ("name=1e3", ("name",), "1e3"),
        ("name=null", ("name",), None),
        ("optim.groups.0.lr=2", ("optim", "groups", "0", "lr"), 2),
        ("~a.b", ("a", "b"), REMOVED),
    ],
)
def test_overrides_are_parsed(text: str, path: tuple[str, ...], value: object) -> None:
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["optim.lr", "=1", "~a.b=1", "a..b=1", "a b=1", "--lr=1", ""])
def test_what_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a `key=value`"):
        parse_override(text)


def test_an_empty_value_is_refused_since_a_shell_variable_may_be_unset() -> None:
    with pytest.raises(RecipeError, match="has no value") as caught:
        parse_override("optim.max_grad_norm=")
    assert "=null" in str(caught.value.hint)


def test_a_value_that_yaml_would_cut_is_refused() -> None:
    with pytest.raises(RecipeError, match="would be read as `a`"):
        parse_override("name=a #b")


def test_layers_go_over_each_other_and_remember_where_values_come_from(tmp_path: Path) -> None:
    write(tmp_path, "optim: {lr: 1, eps: 1}\ndata: {workers: 1, batch_frames: 1}\nmodel: {a: 1}\n", "one.yaml")
    write(tmp_path, "optim: {lr: 2}\ndata: {workers: 2}\n", "two.yaml")
    made = composed(
        tmp_path, "extends: [one.yaml, two.yaml]\noptim: {lr: 3}\nmodel: {b: [1, 2]}\n", "optim.lr=4", "run_dir=x"
    )
    assert made.values == {
        "optim": {"lr": 4, "eps": 1},
        "data": {"workers": 2, "batch_frames": 1},
        "model": {"a": 1, "b": [1, 2]},
        "run_dir": "x",
    }
    assert made.origins == {
        "optim.lr": "command line",
        "optim.eps": "one.yaml",
        "data.workers": "two.yaml",
        "data.batch_frames": "one.yaml",
        "model.a": "one.yaml",
        "model.b": "recipe",
        "run_dir": "command line",
    }
    assert made.places["data.workers"] == f"{tmp_path / 'two.yaml'}:2"


def test_shipped_configs_are_found_by_name(tmp_path: Path) -> None:
    made = composed(tmp_path, "extends: [models/f5_v1_base]\nmodel: {depth: 2}\n")
    assert made.origins["model.dim"] == "configs/models/f5_v1_base"
    assert made.origins["model.depth"] == "recipe"
    assert made.values["model"]["dim"] == 1024


def test_lists_are_replaced_not_merged(tmp_path: Path) -> None:
    write(tmp_path, "sample: {texts: [a, b, c]}\n", "one.yaml")
    assert composed(tmp_path, "extends: [one.yaml]\nsample: {texts: [d]}\n").values["sample"]["texts"] == ["d"]


def test_the_command_line_can_exchange_the_configs(tmp_path: Path) -> None:
    write(tmp_path, "model: {a: 1}\n", "one.yaml")
    write(tmp_path, "model: {b: 2}\n", "two.yaml")
    assert composed(tmp_path, "extends: [one.yaml]\n", "extends=[two.yaml]").values == {"model": {"b": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: models/f5_v1_base\n", "`extends` is a list"),
        ("extends: [models/f5_v1_base, models/f5_v1_base]\n", "names a config twice"),
        ("extends: [models/f5_v1_bse]\n", "no config `models/f5_v1_bse`"),
        ("extends: [quickstart]\n", "a recipe cannot extend a recipe"),
        ("extends: [chain.yaml]\n", "a config cannot extend another"),
        ("extends: [missing.yaml]\n", "no config file"),
    ],
)
def test_extending_is_one_level_deep(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "model: {a: 1}\nextends: [one.yaml]\n", "chain.yaml")
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        composed(tmp_path, text)
    assert caught.value.hint


def test_a_misspelt_config_is_told_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        composed(tmp_path, "extends: [models/f5_v1_bse]\n")
    assert "models/f5_v1_base" in str(caught.value.hint)


def test_dropping_a_key_gives_its_default_back(tmp_path: Path) -> None:
    made = composed(tmp_path, "optim: {lr: 1, eps: 2}\n", "~optim.lr")
    assert made.values == {"optim": {"eps": 2}}
    assert made.origins == {"optim.eps": "recipe"}
    with pytest.raises(RecipeError, match=re.escape("nothing sets `optim.kind`")):
        composed(tmp_path, "optim: {lr: 1}\n", "~optim.kind")


SCHEDULE = "optim: {schedule: {kind: cosine_restarts, warmup_steps: 7, t_0: 50, eta_min: 1e-7}}\n"


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_of_schedule_drops_only_the_keys_it_does_not_know(tmp_path: Path, order: int) -> None:
    overrides = ["optim.schedule.kind=cosine", "optim.schedule.end_factor=0.5"][::order]
    made = composed(tmp_path, SCHEDULE, *overrides)
    assert made.values["optim"]["schedule"] == {"kind": "cosine", "warmup_steps": 7, "end_factor": 0.5}
    assert "optim.schedule.t_0" not in made.origins


def test_a_recipe_changes_the_kind_of_a_configs_schedule(tmp_path: Path) -> None:
    write(tmp_path, SCHEDULE, "one.yaml")
    made = composed(tmp_path, "extends: [one.yaml]\noptim: {schedule: {kind: constant}}\n")
    assert made.values["optim"]["schedule"] == {"kind": "constant", "warmup_steps": 7}


def test_a_key_that_does_not_fit_the_kind_beside_it_is_kept_to_be_refused(tmp_path: Path) -> None:
    made = composed(tmp_path, SCHEDULE, "optim.schedule.kind=constant", "optim.schedule.end_factor=0.5")
    assert made.values["optim"]["schedule"]["end_factor"] == 0.5


@pytest.mark.parametrize(
    ("recipe", "override", "train"),
    [
        ("train: {epochs: 3}\n", "train.steps=10", {"steps": 10}),
        ("train: {steps: 10}\n", "train.epochs=2.5", {"epochs": 2.5}),
        ("train: {steps: 10}\n", "train.epochs=null", {"steps": 10, "epochs": None}),
    ],
)
def test_a_length_in_steps_and_one_in_epochs_displace_each_other(
    tmp_path: Path, recipe: str, override: str, train: dict[str, Any]
) -> None:
    assert composed(tmp_path, recipe, override).values["train"] == train


def test_both_lengths_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape("`train.steps` or `train.epochs`, not both")):
        composed(tmp_path, "task: flow\n", "train.steps=1", "train.epochs=1")
    assert composed(tmp_path, "train: {steps: 1, epochs: 1}\n").values["train"] == {"steps": 1, "epochs": 1}


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    recipe = "optim: {groups: [{name: a, lr: 1}, {name: b, lr: 1}]}\n"
    made = composed(tmp_path, recipe, "optim.groups.1.lr=2")
    assert [group["lr"] for group in made.values["optim"]["groups"]] == [1, 2]
    assert made.origins == {"optim.groups": "recipe", "optim.groups.1.lr": "command line"}
    with pytest.raises(RecipeError, match="the list has 2 elements"):
        composed(tmp_path, recipe, "optim.groups.2.lr=2")


def test_a_value_is_no_section(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is `1`, not a section"):
        composed(tmp_path, "optim: {lr: 1}\n", "optim.lr.x=2")


def test_option_flags_are_taken_literally(tmp_path: Path) -> None:
    made = with_flags(composed(tmp_path, "task: flow\n"), data=Path("1e5 #x"), base=["null"])
    assert made.values["data"] == {"path": "1e5 #x"}
    assert made.values["base"] == "null"
    assert made.origins["data.path"] == made.origins["base"] == "command line"
    with pytest.raises(RecipeError, match="set by an option and by"):
        with_flags(composed(tmp_path, "task: flow\n", "data.path=a"), data=Path("b"))


def test_a_runs_recipe_keeps_the_origins_its_plan_recorded(tmp_path: Path) -> None:
    write(tmp_path, "optim: {lr: 1, eps: 2, kind: sgd}\n", "recipe.yaml")
    made = compose_run(tmp_path, ["optim.kind=lion"], origins={"optim.lr": "configs/models/x", "optim.eps": "default"})
    assert made.origins == {"optim.lr": "configs/models/x", "optim.eps": "default", "optim.kind": "command line"}


def test_a_runs_recipe_extends_nothing(tmp_path: Path) -> None:
    write(tmp_path, "task: flow\n", "recipe.yaml")
    with pytest.raises(RecipeError, match="so `extends` has no effect"):
        compose_run(tmp_path, ["extends=[models/f5_tiny]"], origins={})


def test_a_run_is_named_after_its_recipe(tmp_path: Path) -> None:
    assert compose("smoke/flow").name == "smoke-flow"
    assert composed(tmp_path, "task: flow\n").name == "r"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_yaml(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load_yaml(tmp_path / "bom.yaml") == {"name": "a"}
