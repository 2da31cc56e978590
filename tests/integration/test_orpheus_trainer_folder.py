"""A run of transformers' Trainer goes on here: its weights, its moments by name, its step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_orpheus import CONFIG, NET, write_all
from small_runs import checkpoint, ttstrain
from torch import Tensor
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.planner import OrpheusPlanner
from ttstrain.families.orpheus.rows import pack, row_of
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import OptimConfig
from ttstrain.runs.resume import resume
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import read_tree

LR, STEPS, SAVED = 1e-3, 4, 2


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Six rows of different lengths, which remember in which order they were asked for."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.tokens = [torch.randint(NET["vocab_size"], (12 + 5 * i,), generator=generator) for i in range(6)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.asked.append(i)
        return {"input_ids": self.tokens[i], "labels": self.tokens[i].clone()}


class Watch(TrainerCallback):
    """Copies the optimizer's moments, by the model's own names, when the first checkpoint is saved."""

    def __init__(self) -> None:
        self.moments: dict[str, dict[str, Tensor]] = {}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == SAVED:
            optimizer = kwargs["optimizer"].optimizer if hasattr(kwargs["optimizer"], "optimizer") else None
            states = (optimizer or kwargs["optimizer"]).state
            for name, parameter in kwargs["model"].named_parameters():
                self.moments[name] = {key: value.clone() for key, value in states[parameter].items()}


@dataclass(frozen=True)
class Trained:
    folder: Path
    rows: Rows
    moments: Mapping[str, Mapping[str, Tensor]]
    log: list[dict[str, float]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("orpheus"))


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out, rows, watch = tmp_path_factory.mktemp("trainer"), Rows(), Watch()
    trainer = Trainer(
        model=LlamaForCausalLM.from_pretrained(recipe.parent / "model", dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(out),
            per_device_train_batch_size=1,
            max_steps=STEPS,
            save_steps=SAVED,
            logging_steps=1,
            learning_rate=LR,
            weight_decay=0.1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        callbacks=[watch],
    )
    trainer.train()
    # As upstream's script: no tokenizer is saved with a checkpoint; with 28,943 ids one has to lie there.
    for folder in out.glob("checkpoint-*"):
        shutil.copy(recipe.parent / "model" / "tokenizer.json", folder)
    return Trained(out, rows, watch.moments, [entry for entry in trainer.state.log_history if "grad_norm" in entry])


@pytest.fixture(scope="module")
def opened(trained: Trained) -> OpenedCheckpoint:
    return open_checkpoint(resolve_base(str(trained.folder / f"checkpoint-{SAVED}")), task="orpheus")


def learned_whole(tokens: Tensor) -> OrpheusBatch:
    return pack([row_of("row", tokens, CONFIG.ids)])


def test_moments_belong_to_the_parameters_that_they_were_taken_of(opened: OpenedCheckpoint, trained: Trained) -> None:
    assert opened.optimizer_state is not None
    assert opened.optimizer_state.keys() == {f"net.{name}" for name in trained.moments}
    for name, expected in trained.moments.items():
        found = read_tree(opened.optimizer_state[f"net.{name}"])
        assert found.keys() == expected.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_where_it_stood_is_known(opened: OpenedCheckpoint, trained: Trained) -> None:
    assert (opened.kind, opened.step, opened.notes) == ("training", SAVED, ())
    assert opened.schedule is not None
    assert (opened.schedule.total, opened.schedule.ended) == (STEPS, False)
    # The LR that the next step of the uninterrupted run was seen to use.
    assert opened.schedule.lr_next == pytest.approx(trained.log[SAVED]["learning_rate"])
    assert [(group.name, group.weight_decay) for group in opened.groups] == [("decay", 0.1), ("no_decay", 0.0)]
    assert sum(group.parameters for group in opened.groups) == OrpheusPlanner(CONFIG).num_parameters()


def test_going_on_ends_where_the_trainer_ended(opened: OpenedCheckpoint, trained: Trained) -> None:
    task = OrpheusTask(CONFIG)
    load_weights(task, task.fitted(opened).weights, source="checkpoint")
    config = OptimConfig(lr=LR, weight_decay=0.1, betas=(0.9, 0.999), max_grad_norm=1.0, schedule={"kind": "constant"})
    named = list(task.named_parameters())
    table = build_groups(task.optimized(), named, config)
    optimizers = Optimizers.build(table, total_steps=100, steps_per_epoch=6.0)
    assert opened.optimizer_state is not None
    optimizers.load_state_dict({"model": read_tree(opened.optimizer_state)})
    for step in range(SAVED, STEPS):
        logged = trained.log[step]
        (loss,) = task.losses(learned_whole(trained.rows.tokens[trained.rows.asked[step]]))
        assert loss.value.item() == pytest.approx(logged["loss"], rel=1e-4)
        loss.value.backward()
        norm = optimizers.clip("model")
        assert float(norm) == pytest.approx(logged["grad_norm"], rel=1e-3)
        optimizers.set_lr(50, factor=logged["learning_rate"] / LR)
        optimizers.step("model")
        optimizers.zero_grad("model")
    expected = load_file(trained.folder / f"checkpoint-{STEPS}" / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(task.state_dict()[f"net.{name}"], value, rtol=0, atol=2e-6)


# ---------------------------------------------------------------- the command


def test_the_command_goes_on_with_it(trained: Trained, recipe: Path, tmp_path: Path) -> None:
    folder = trained.folder / f"checkpoint-{SAVED}"
    done = ttstrain(
        "resume", folder, "--recipe", recipe, f"run_dir={tmp_path}", "name=on", "train.steps=4", "checkpoint.every=1"
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert f"20 weights, optimizer state, step {SAVED}" in told
    assert "reset: " in told
    after = checkpoint(tmp_path / "on", SAVED + 1).state["optimizers"]["model"]
    assert {float(state["step"]) for state in after.values()} == {SAVED + 1.0}


def test_a_recipe_is_asked_for(trained: Trained) -> None:
    with pytest.raises(RecipeError, match="name the recipe that continues it"):
        resume(trained.folder / f"checkpoint-{SAVED}", [])


def test_adapters_do_not_go_on_with_whole_weights(trained: Trained, recipe: Path, tmp_path: Path) -> None:
    overrides = [f"run_dir={tmp_path}", "lora={rank: 2}", "train.steps=4"]
    with pytest.raises(RecipeError, match="would train adapters") as caught:
        resume(trained.folder / f"checkpoint-{SAVED}", overrides, recipe=str(recipe))
    assert "--base" in str(caught.value.hint)


# ---------------------------------------------------------------- what is missing or wrong


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder / f"checkpoint-{SAVED}", tmp_path / "checkpoint"))


def test_optimizer_state_that_lies_elsewhere_is_said_to_start_empty(copied: Path, recipe: Path, tmp_path: Path) -> None:
    (copied / "optimizer.pt").unlink()
    found = open_checkpoint(resolve_base(str(copied)))
    assert (found.kind, found.step, found.optimizer_state) == ("training", SAVED, None)
    assert "optimizer state starts empty" in found.notes[0]


def test_another_optimizer_s_moments_are_not_taken_for_adamw_s(copied: Path) -> None:
    state = torch.load(copied / "optimizer.pt", weights_only=True)
    for own in state["state"].values():
        own["momentum"] = own.pop("exp_avg_sq")
    torch.save(state, copied / "optimizer.pt")
    found = open_checkpoint(resolve_base(str(copied)))
    assert found.optimizer_state is None
    assert "has no AdamW state" in found.notes[0]


def test_groups_that_are_not_a_trainer_s_are_said(copied: Path) -> None:
    state = torch.load(copied / "optimizer.pt", weights_only=True)
    state["param_groups"][0]["params"].pop()
    torch.save(state, copied / "optimizer.pt")
    found = open_checkpoint(resolve_base(str(copied)))
    assert found.optimizer_state is None
    assert "optimizer state left out" in found.notes[0]


class Harmful:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


def test_a_pickle_that_would_run_code_is_refused(copied: Path) -> None:
    torch.save(Harmful(), copied / "optimizer.pt")
    with pytest.raises(CheckpointError, match="unsafe"):
        open_checkpoint(resolve_base(str(copied)))


def test_a_state_that_cannot_be_read_is_an_error(copied: Path) -> None:
    (copied / "trainer_state.json").write_text(json.dumps({"step": 2}))
    with pytest.raises(CheckpointError, match=r"trainer_state\.json` cannot be read"):
        open_checkpoint(resolve_base(str(copied)))
