from __future__ import annotations

from dataclasses import dataclass

import pytest
from toys import Gan, Regression

from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.schedule import lr_at
from ttstrain.optim.stages import Curriculum, Stage
from ttstrain.optim.without_schedule import check_never_frozen
from ttstrain.recipe.schema import Constant, Cosine, CosineRestarts, Exponential, GroupRule, OptimConfig, Schedule

PLAIN = Constant(warmup_steps=0)


@dataclass(frozen=True)
class Layer:
    optimizer: str = "model"
    rule: str = "default"
    lr: float = 1e-3
    schedule: Schedule = PLAIN


def stage(name: str, steps: int, **changes: object) -> Stage:
    return Stage(name, steps=steps, steps_per_epoch=10.0, **changes)  # type: ignore[arg-type]


def lrs(curriculum: Curriculum, steps: int, layer: Layer = Layer()) -> list[float]:
    return [curriculum.lr_of(layer, step) for step in range(steps)]


@pytest.mark.parametrize(
    "schedule", [Cosine(warmup_steps=3), CosineRestarts(t_0=4, eta_min=1e-5), Exponential(gamma=0.5)]
)
def test_each_stage_is_a_run_of_its_own_to_the_schedule(schedule: Schedule) -> None:
    layer = Layer(schedule=schedule)
    curriculum = Curriculum([stage("a", 20), stage("b", 30, lr_scale=0.5)])
    alone = {"total_steps": 20, "steps_per_epoch": 10.0, "base_lr": 1e-3}
    assert lrs(curriculum, 20, layer) == [lr_at(schedule, step=step, **alone) for step in range(20)]
    alone = {"total_steps": 30, "steps_per_epoch": 10.0, "base_lr": 5e-4}
    assert lrs(curriculum, 50, layer)[20:] == [lr_at(schedule, step=step, **alone) for step in range(30)]


def test_a_run_of_one_part_is_what_it_was() -> None:
    layer = Layer(schedule=Cosine())
    alone = {"total_steps": 50, "steps_per_epoch": 10.0, "base_lr": 1e-3}
    assert lrs(Curriculum([stage("", 50)]), 60, layer) == [lr_at(Cosine(), step=step, **alone) for step in range(60)]


def test_factors_multiply_and_find_groups_by_name_pattern_or_optimizer() -> None:
    scaled = stage("a", 1, lr_scale=0.5, group_lr_scale={"te*": 0.1, "generator/text": 3.0})
    assert scaled.peak_lr(Layer(rule="text")) == pytest.approx(0.5 * 0.1 * 1e-3)
    assert scaled.peak_lr(Layer(optimizer="generator", rule="text")) == pytest.approx(0.5 * 0.1 * 3 * 1e-3)
    assert scaled.peak_lr(Layer()) == pytest.approx(0.5e-3)


def test_an_early_end_moves_the_later_stages_and_nothing_before_it() -> None:
    stages = [stage("a", 10), stage("b", 5, lr_scale=0.1), stage("c", 5, lr_scale=0.01)]
    curriculum, planned = Curriculum(stages), Curriculum(stages)
    assert curriculum.end_stage(4).start == 4
    assert curriculum.total_steps == 14
    assert lrs(curriculum, 4) == lrs(planned, 4)
    assert lrs(curriculum, 14)[4:] == lrs(planned, 20)[10:]
    assert [curriculum.at(step).index for step in (0, 3, 4, 8, 9, 13, 99)] == [0, 0, 1, 1, 2, 2, 2]


def test_a_resumed_curriculum_stands_where_it_stood() -> None:
    stages = [stage("a", 10), stage("b", 5), stage("c", 5)]
    curriculum = Curriculum(stages)
    curriculum.end_stage(4)
    resumed = Curriculum([stage("a", 99), stage("b", 7), stage("d", 5)])
    resumed.load_state_dict(curriculum.state_dict())
    assert (resumed.current.stage.name, resumed.current.start, resumed.total_steps) == ("b", 4, 16)


@pytest.mark.parametrize("names", [["b", "a"], ["a"], ["x", "b"]])
def test_finished_stages_must_be_there(names: list[str]) -> None:
    curriculum = Curriculum([stage("a", 10), stage("b", 5)])
    curriculum.end_stage(10)
    with pytest.raises(CheckpointError, match="has already finished the stages `a`"):
        Curriculum([stage(name, 5) for name in names]).load_state_dict(curriculum.state_dict())


def test_catching_up_passes_complete_stages_only() -> None:
    curriculum = Curriculum([stage("a", 10), stage("b", 5), stage("c", 5)])
    curriculum.catch_up(9)
    assert curriculum.current.stage.name == "a"
    curriculum.catch_up(15)
    assert (curriculum.current.stage.name, curriculum.current.start) == ("c", 15)
    curriculum.catch_up(99)
    assert curriculum.current.stage.name == "c"


def test_groups_of_one_optimizer_can_be_frozen() -> None:
    task = Gan()
    table = build_groups(task.optimized(), task.named_parameters(), OptimConfig())
    curriculum = Curriculum([stage("warm", 2, frozen=("generator/*",)), stage("both", 2)])
    optimizers = Optimizers.build_staged(table, curriculum=curriculum, seed=0)
    assert optimizers.set_lr(1)["generator/default"] == 0.0
    assert (bool(optimizers.params("generator")), bool(optimizers.params("discriminator"))) == (False, True)
    optimizers.set_lr(2)
    assert optimizers.params("generator")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": ("txt",)}, "names `txt`"),
        ({"group_lr_scale": {"speaker": 2.0}}, "names `speaker`"),
        ({"only": ("other/default",)}, "names `other/default`"),
        ({"frozen": ("*",)}, "freezes every parameter group"),
    ],
)
def test_names_that_are_not_there_and_stages_that_train_nothing_are_refused(
    changes: dict[str, object], message: str
) -> None:
    task = Regression()
    table = build_groups(task.optimized(), task.named_parameters(), OptimConfig())
    with pytest.raises(RecipeError, match=message.replace("*", r"\*")):
        Optimizers.build_staged(table, curriculum=Curriculum([stage("s", 2, **changes)]), seed=0)


def test_schedule_free_refuses_a_stage_that_freezes() -> None:
    task = Regression()
    rule = GroupRule(name="first", match=["net.0.*"])
    table = build_groups(task.optimized(), task.named_parameters(), OptimConfig(groups=[rule]))
    check_never_frozen(table.groups, [stage("a", 2)])
    with pytest.raises(RecipeError, match="group `first` with a stage that freezes it"):
        check_never_frozen(table.groups, [stage("a", 2), stage("b", 2, only=("default",))])
