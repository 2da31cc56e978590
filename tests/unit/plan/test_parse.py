from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field

from ttstrain.errors import RecipeError
from ttstrain.plan.complaints import known_keys, nearest_key
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import Recipe, Section


def parsed(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(text if "task:" in text else f"task: flow\n{text}\n", encoding="utf-8")
    return parse(compose(path, overrides))


def test_numbers_written_as_people_write_them(tmp_path: Path) -> None:
    recipe = parsed(tmp_path, "optim: {lr: 1e-5}", "train.steps=1e4")
    assert recipe.optim.lr == 1e-5
    assert recipe.train.steps == 10_000


def test_the_model_section_comes_back_complete(tmp_path: Path) -> None:
    model = parsed(tmp_path, "model: {depth: 3, cfm: {span: inclusive}}").section()
    assert model["depth"] == 3
    assert model["dim"] == 1024
    assert model["cfm"]["span"] == "inclusive"
    assert model["cfm"]["drop"] == "batch"


def test_a_schedule_without_a_kind_is_the_default_kind(tmp_path: Path) -> None:
    assert parsed(tmp_path, "optim: {schedule: {warmup_steps: 3}}").optim.schedule.kind == "cosine"


def test_home_folders_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parsed(tmp_path, "data: {path: ~/speech}").data.path == "/home/someone/speech"


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("optim: {lrr: 1}", "optim.lrr", "optim.lr"),
        ("optim: {warmup: 3}", "optim.warmup", "optim.schedule.warmup_steps"),
        ("optim: {learning_rate: 1e-5}", "optim.learning_rate", "optim.lr"),
        ("batch_size: 5", "batch_size", "data.batch_frames"),
        ("optim: {schedule: {kind: cosine, end_factr: 1}}", "optim.schedule.end_factr", "optim.schedule.end_factor"),
        ("optim: {groups: [{name: a, match: [x], lr_scal: 1}]}", "optim.groups.0.lr_scal", "optim.groups.0.lr_scale"),
        ("optim: {optimizers: {gen: {epss: 1}}}", "optim.optimizers.gen.epss", "optim.optimizers.gen.eps"),
        ("modle: {}", "modle", "model"),
        ("model: {dimm: 3}", "model.dimm", "model.dim"),
        ("model: {cfm: {spam: x}}", "model.cfm.spam", "model.cfm.span"),
        ("dim: 3", "dim", "model.dim"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(
    tmp_path: Path, text: str, key: str, near: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(tmp_path, text)
    assert caught.value.message == f"{tmp_path / 'r.yaml'}:2: unknown key `{key}`"
    assert caught.value.hint == f"did you mean `{near}`?"


@pytest.mark.parametrize("key", ["sample_rate", "data.sample_rate", "samplerate", "model.data_path"])
def test_a_key_is_not_answered_with_another_thing_that_shares_a_word(tmp_path: Path, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(compose(write_recipe(tmp_path), [f"{key}=24000"]))
    assert caught.value.hint == "`ttstrain schema` lists the keys"


def write_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("task: flow\nextends: [models/f5_tiny]\n", encoding="utf-8")
    return path


def test_a_key_that_resembles_none_points_to_the_schema(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(tmp_path, "qqqqq: 1")
    assert "ttstrain schema" in str(caught.value.hint)


def test_an_unknown_key_of_the_command_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape("command line: unknown key `optim.lrr`")):
        parsed(tmp_path, "", "optim.lrr=1")


def test_an_unknown_key_of_a_config_names_the_config(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("\noptim: {lrr: 1}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=re.escape(f"{tmp_path / 'mine.yaml'}:2: unknown key `optim.lrr`")):
        parsed(tmp_path, "extends: [mine.yaml]")


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(tmp_path, "data: {fromat: 1}\ntrain: {steps: fast}")
    assert "unknown key `data.fromat`" in caught.value.message
    assert "`train.steps` is `fast`" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {steps: fast}", "`train.steps` is `fast`: it should be a whole number, or 'auto'"),
        ("train: {steps: 0}", "`train.steps` is `0`: it should be greater than or equal to 1"),
        ("train: {steps: true}", "`steps` is neither true nor false"),
        ("train: {steps: 1, epochs: 2}", "give `steps` or `epochs`, not both"),
        ("data:", "`data` is a section with keys of its own, not `null`"),
        ("data: {holdout: 1.5}", "`data.holdout` is `1.5`"),
        ("optim: {lr: .nan}", "`optim.lr` is `nan`"),
        ("optim: {lr: .inf}", "`optim.lr` is `inf`"),
        ("optim: {lr: 0}", "`optim.lr` is `0`: it should be greater than 0"),
        ("optim: {schedule: {kind: cosin}}", "`optim.schedule.kind` is `cosin`: expected one of"),
        ("optim: {schedule: {kind: constant, end_factor: 0.1}}", "unknown key `optim.schedule.end_factor`"),
        ("optim: {groups: [{name: a}]}", "`optim.groups.0.match` is missing"),
        ("optim: {groups: [{name: a, match: [x], lr: 1, lr_scale: 1}]}", "give `lr` or `lr_scale`, not both"),
        ("optim: {groups: [{name: a, match: [x], frozen: [5, 5]}]}", "wants 0 <= from < to"),
        ("model: {dim: 100}", "`model`: `dim` must be a multiple of 16"),
        ("model: {backbone: dit, skip_connect_type: add}", "`skip_connect_type` is for `backbone: unett` only"),
        ("name: ../elsewhere", "`name` is `../elsewhere`: it should be a plain name"),
        ("name: a/b", "`name` is `a/b`: it should be a plain name"),
        ("ema: {decay: 1}", "`ema.decay` is `1`"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        parsed(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'r.yaml'}:2: ")


def test_a_missing_task_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="`task` is missing"):
        parse(compose(path))


def test_an_unknown_task_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown task `flw`") as caught:
        parsed(tmp_path, "task: flw\n")
    assert "flow" in str(caught.value.hint)


class Inner(Section):
    depth: int = 1


class Outer(Section):
    width: int | None = None
    inner: Inner = Inner()
    many: list[Inner] = Field(default_factory=list)
    named: dict[str, Inner] = Field(default_factory=dict)


def test_known_keys_cover_nested_sections() -> None:
    assert known_keys(Outer) == [
        "width",
        "inner",
        "inner.depth",
        "many",
        "many.*.depth",
        "named",
        "named.*.depth",
    ]
    assert nearest_key("named.x.dept", known_keys(Outer)) == "named.x.depth"


@pytest.mark.parametrize("text", ["data: {format: wav}", "data: {replay: {path: x, format: wav}}"])
def test_a_layout_of_data_that_no_family_knows_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:2: `data\.(?:replay\.)?format` is `wav`: it should be") as caught:
        parsed(tmp_path, text)
    for name in ("'auto'", "'ljspeech'", "'f5_csv'", "'gpt_sovits_list'", "'f5_project' or 'gpt_sovits_project'"):
        assert name in caught.value.message
    assert caught.value.hint == "`ttstrain schema` says what each key takes"


@pytest.mark.parametrize("name", ["f5_csv", "gpt_sovits_list", "f5_project", "gpt_sovits_project", "parquet"])
def test_families_layouts_of_data_are_known(tmp_path: Path, name: str) -> None:
    assert parsed(tmp_path, f"data: {{format: {name}, replay: {{path: x, format: {name}}}}}").data.format == name
