"""What an evaluation measures: the weights that the optimizer stands for, and their average, each as it is."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from toys import Regression, make_batch, make_run

from ttstrain.optim.settings import PACKAGES
from ttstrain.recipe.schema import OptimConfig, OptimizerKind
from ttstrain.train.evaluate import evaluate
from ttstrain.train.step import train_step


def trained(kind: str) -> Any:
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind][0])
    torch.manual_seed(0)
    optim = OptimConfig.model_validate({"kind": kind, "lr": 1e-2, "schedule": {"kind": "constant", "warmup_steps": 0}})
    run = make_run(Regression(), optim=optim, ema_decay=0.9)
    for seed in range(6):
        train_step(run, [make_batch(8, seed=seed)])
    return run


@pytest.mark.parametrize("kind", get_args(OptimizerKind))
def test_the_average_is_evaluated_as_it_is_whatever_the_optimizer(kind: str) -> None:
    run, held_out = trained(kind), make_batch(20, seed=99)
    before = {name: tensor.clone() for name, tensor in run.task.state_dict().items()}
    average = Regression()
    average.load_state_dict(run.ema.state_dict()["weights"])
    values = evaluate(run, [[held_out]])
    assert values["eval/ema_loss/total"] == pytest.approx(
        float(average.evaluate(held_out, torch.Generator())["total"].detach())
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.task.state_dict().items())


def test_schedule_free_is_evaluated_on_the_weights_it_stands_for() -> None:
    run, held_out = trained("schedule_free_adamw"), make_batch(20, seed=99)
    values = evaluate(run, [[held_out]])
    with run.optimizers.evaluating():
        expected = float(F.mse_loss(run.task.net(held_out.x), held_out.y))
    assert values["eval/loss/total"] == pytest.approx(expected)
    assert float(F.mse_loss(run.task.net(held_out.x), held_out.y).detach()) != pytest.approx(expected, rel=1e-3)
