"""How often a minute of speech makes a voice: its arms are recipes that exist, and runs are judged as it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
ARMS = ("ours", "no-warmup", "no-clipping", "one-lr", "none-of-them", "upstream")


@pytest.fixture(scope="module")
def rate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    try:
        import success_rate

        yield success_rate
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("half", [False, True])
def test_every_arm_is_a_recipe_on_small_nets(rate: ModuleType, arm: str, half: bool) -> None:
    for training in rate.arms(10.0, half=half)[arm].runs:
        given = [rate.SMALL[training.task], *rate.STEP, *rate.QUIET, *training.overrides, "base=null"]
        recipe = parse(compose(training.recipe, given))
        assert recipe.task.endswith(training.task)
        assert recipe.data.holdout == 4
        assert recipe.sample.every is None
        upstream = arm == "upstream"
        assert (recipe.optim.max_grad_norm is None) is (upstream or arm in ("no-clipping", "none-of-them"))
        assert (recipe.guard.max_rollbacks == 0) is upstream
        assert recipe.train.precision == ("fp16" if upstream and half else "fp32")


def write(
    folder: Path, totals: Sequence[float | None], *, kl: Sequence[float] = (), norms: Sequence[float] = ()
) -> Path:
    rows: list[dict[str, Any]] = []
    for step, total in enumerate(totals):
        row = {"step": step, "eval/loss/total": total}
        if kl:
            row["eval/loss/kl"] = kl[step]
        if step:
            row |= {"train/loss/gpt": 1.0, "guard/skipped": 0}
        if step and norms:
            row["optim/grad_norm/model"] = norms[step - 1]
        rows.append(row)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("totals", "kl", "ended", "expected"),
    [
        ([4.0, 3.0, 3.5], [1.0, 0.9, 0.8], True, (True, True, True)),
        ([4.0, 3.97, 3.98], [], True, (True, False, True)),  # less than 1 %
        ([4.0, 3.0, 4.3], [], True, (True, True, False)),  # learnt, and then lost it
        ([4.0, 3.0, 3.0], [1.0, 0.1, 0.01], True, (True, True, False)),  # the latent says nothing any more
        ([4.0, 3.0, 3.0], [0.04, 0.02, 0.01], True, (True, True, True)),  # it never said much
        ([4.0, 3.0, None], [], True, (False, False, False)),
        ([4.0, 3.0, 3.0], [], False, (False, False, False)),  # given up
        ([4.0], [], True, (False, False, False)),
    ],
)
def test_a_run_is_judged_by_its_metrics(
    rate: ModuleType,
    tmp_path: Path,
    *,
    totals: list[float | None],
    kl: list[float],
    ended: bool,
    expected: tuple[bool, ...],
) -> None:
    found = rate.verdict({"joint": rate.judge(write(tmp_path / "run", totals, kl=kl), ended=ended)})
    assert (found["finite"], found["learns"], found["holds"]) == expected
    assert found["succeeds"] is all(expected)


@pytest.mark.parametrize("joint", [True, False])
def test_two_nets_learn_together_and_hold_each(rate: ModuleType, tmp_path: Path, *, joint: bool) -> None:
    courses = {"gpt": [4.0, 4.0, 4.3], "vae": [60.0, 50.0, 50.0]}
    keys = {"joint": ("gpt", "vae")} if joint else {"gpt": ("gpt",), "vae": ("vae",)}
    parts = {}
    for task, nets in keys.items():
        rows = [
            {
                "step": step,
                "eval/loss/total": sum(courses[net][step] for net in nets),
                **({f"eval/loss/{net}": courses[net][step] for net in nets} if joint else {}),
            }
            for step in range(3)
        ]
        (tmp_path / task).mkdir()
        (tmp_path / task / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        parts[task] = rate.judge(tmp_path / task, ended=True)
    # The GPT is 7 % worse in the end, which the sum does not show.
    assert rate.verdict(parts) == {"finite": True, "learns": True, "holds": False, "succeeds": False}


def test_gradient_norms_are_kept_by_optimizer(rate: ModuleType, tmp_path: Path) -> None:
    found = rate.judge(write(tmp_path / "run", [4.0, 3.0, 3.0], norms=[1.23456, 2.0]), ended=True)
    assert found["grad_norms"] == {"model": [1.235, 2.0]}


def test_the_table_counts_runs_and_compares_the_norms_of_common_seeds(
    rate: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arm: str, seed: int, *, norm: float, gpt: float) -> dict[str, Any]:
        task = {"held_out": {"gpt": [4.0, gpt], "vae": [50.0, 40.0]}, "grad_norms": {"model": [norm, None]}}
        good = gpt < 4.2
        return {
            **{"arm": arm, "lr_factor": 1.0, "seed": seed, "finite": True, "succeeds": good},
            "tasks": {"joint": task},
        }

    runs = [
        run("ours", 0, norm=1.0, gpt=4.0),
        run("ours", 1, norm=9.0, gpt=5.0),
        run("no-warmup", 0, norm=2.0, gpt=4.1),
    ]
    rate.show({"runs": runs})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "ours", "1", "of", "2", "+12.5", "%", "-20.0", "%"] in lines
    assert ["1", "no-warmup", "1", "of", "1", "+2.5", "%", "-20.0", "%"] in lines
    assert lines[-1][-7:] == ["1", "with", "warmup,", "2", "without", "(-50", "%)"]


def test_results_of_other_data_are_not_added_to(rate: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"about": {"data": "a", "steps": 60}, "runs": []}))
    assert rate._read(path, {"data": "a", "steps": 60})["runs"] == []
    with pytest.raises(SystemExit, match="give another --results"):
        rate._read(path, {"data": "b", "steps": 60})
