"""A run of adapters through everything a run goes through: plan, train, cut, resume, inspect, and be a base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import RECIPE, checkpoint, differences, finetune, metrics, ttstrain, write_clips, write_recipe

from ttstrain import registry
from ttstrain.checkpoint.inspect import diff, inspect, list_tensors
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.modules import lora
from ttstrain.recipe.schema import LoraConfig
from ttstrain.runs.resume import resume
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import read_tree

STEPS = 6
LORA = ("lora={rank: 4, alpha: 8, dropout: 0.1}", f"train.steps={STEPS}")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"), text=RECIPE)


@pytest.fixture(scope="module")
def base(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that has left its initialisation, where zeros would hide an adapter's effect."""
    return finetune(recipe, tmp_path_factory.mktemp("base"), "name=base", "optim.lr=1e-2")


@pytest.fixture(scope="module", params=["lora", "dora"])
def adapted(request: pytest.FixtureRequest, recipe: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dora = "true" if request.param == "dora" else "false"
    last = base / "checkpoints" / "last"
    options = (*LORA, f"lora.dora={dora}", "optim.lr=2e-2", f"base={last}")
    return finetune(recipe, tmp_path_factory.mktemp(request.param), "name=adapted", *options)


def test_only_adapters_move(adapted: Path, base: Path) -> None:
    start, end = checkpoint(base, 8).state["task"], checkpoint(adapted, STEPS).state["task"]
    kept = {lora.plain_name(name): tensor for name, tensor in end.items() if not lora.is_adapter(name)}
    assert differences(kept, start) == []
    ups = [tensor for name, tensor in end.items() if ".lora_B." in name]
    assert len(ups) == 6
    assert all(tensor.abs().sum() > 0 for tensor in ups)
    assert set(checkpoint(adapted, STEPS).state["optimizers"]["model"]) <= {
        lora.plain_name(name) for name in end if lora.is_adapter(name)
    }


def test_a_run_starts_where_its_base_ended(adapted: Path, base: Path) -> None:
    last = [row for row in metrics(base) if "eval/loss/total" in row][-1]
    first = next(row for row in metrics(adapted) if "eval/loss/total" in row)
    assert first["eval/loss/total"] == pytest.approx(last["eval/loss/total"], rel=1e-5)


def test_a_cut_run_ends_bit_for_bit_as_the_whole(adapted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(adapted, tmp_path / "copy"))
    root = run / "checkpoints"
    for step in range(4, STEPS + 1):
        shutil.rmtree(root / f"step-{step:08d}")
    (root / "last").write_text("step-00000003\n")
    (root / "best").unlink(missing_ok=True)
    resume(run, [])
    assert differences(checkpoint(run, STEPS).state, checkpoint(adapted, STEPS).state) == []
    assert differences(checkpoint(run, STEPS).per_rank, checkpoint(adapted, STEPS).per_rank) == []
    assert metrics(run) == metrics(adapted)


def test_the_plan_counts_what_is_trained(adapted: Path) -> None:
    plan = json.loads((adapted / "plan.json").read_text())
    state = checkpoint(adapted, STEPS).state["task"]
    adapters = sum(tensor.numel() for name, tensor in state.items() if lora.is_adapter(name))
    buffers = sum(tensor.numel() for name, tensor in state.items() if name.endswith("inv_freq"))
    assert plan["num_trained"] == plan["num_adapters"] == adapters
    assert plan["num_parameters"] == sum(tensor.numel() for tensor in state.values()) - buffers
    assert plan["memory"]["gradients"] == plan["memory"]["ema"] == 4 * adapters


@pytest.mark.parametrize("averaged", [False, True])
def test_opened_as_weights_it_is_the_merged_net(adapted: Path, averaged: bool) -> None:
    opened = open_checkpoint(adapted, task="flow")
    plan = json.loads((adapted / "plan.json").read_text())["recipe"]
    spec = registry.find_task("flow")
    config = spec.read_model(plan["model"])
    merged, wrapped = spec.build(config), spec.build(config)
    lora.add_lora(wrapped, LoraConfig.model_validate(plan["lora"]), default_targets=spec.planner(config).lora_targets())
    state = checkpoint(adapted, STEPS).state
    load_weights(wrapped, state["ema"]["weights"] if averaged else state["task"], source="test")
    load_weights(merged, opened.ema if averaged and opened.ema is not None else opened.weights, source="test")
    assert set(merged.state_dict()) == set(opened.weights)
    ours = lora.merged_state_dict(wrapped)
    assert set(ours) == set(opened.weights)
    assert all(
        torch.equal(ours[name], tensor)
        for name, tensor in read_tree(opened.ema if averaged else opened.weights).items()
    )
    x, cond, text = torch.randn(2, 30, 100), torch.randn(2, 30, 100), torch.randint(0, 200, (2, 12))
    lengths, time = torch.tensor([30, 30]), torch.full((2,), 0.4)
    with torch.no_grad():
        nets = [task.eval().transformer for task in (merged, wrapped)]
        outputs = [net(x, cond, net.text_embed(text, num_frames=30, lengths=lengths), time) for net in nets]
    assert float(outputs[1].abs().max()) > 1e-2
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_as_a_base_it_is_merged_on_the_fly(adapted: Path, recipe: Path, tmp_path: Path) -> None:
    last = adapted / "checkpoints" / "last"
    run = finetune(recipe, tmp_path, "train.steps=1", f"base={last}", "optim.schedule.warmup_steps=0")
    assert set(checkpoint(run, 1).state["task"]) == set(open_checkpoint(adapted).weights)
    before = [row for row in metrics(adapted) if "eval/loss/total" in row][-1]
    assert metrics(run)[0]["eval/loss/total"] == pytest.approx(before["eval/loss/total"], rel=1e-5)


def test_inspection_shows_the_net_and_names_the_adapters(adapted: Path, base: Path) -> None:
    found, of_base = inspect(adapted), inspect(base)
    assert (found.kind, found.parameters, found.tensors) == ("training", of_base.parameters, of_base.tensors)
    assert any("of rank 4, alpha 8, on 6 layers" in note for note in found.notes)
    assert found.groups[0].parameters < found.parameters / 3
    assert found.ema.distance is not None
    moved = {change.name for change in diff(base, adapted).changed}
    assert len(moved) == 6 and all(".attn.to_" in name or ".ff." in name for name in moved)
    ups = list_tensors(adapted, "adapter/*.lora_B.weight")
    assert len(ups) == 6
    assert all(up.rms for up in ups)


def test_groups_go_by_plain_names(recipe: Path, base: Path, tmp_path: Path) -> None:
    groups = "optim.groups=[{name: up, match: ['*.lora_B.*'], lr_scale: 16}, {name: text, match: ['*text_embed*']}]"
    options = (*LORA, groups, "lora.unfrozen=['*text_embed.text_embed.weight']", f"base={base}", "train.steps=3")
    run = finetune(recipe, tmp_path, *options)
    rows = metrics(run)
    assert rows[-1]["optim/lr/model/up"] == pytest.approx(16 * rows[-1]["optim/lr/model/default"])
    assert rows[-1]["optim/lr/model/text"] == rows[-1]["optim/lr/model/default"]
    start, end = checkpoint(base, 8).state["task"], checkpoint(run, 3).state["task"]
    table = "transformer.text_embed.text_embed.weight"
    assert not torch.equal(start[table], end[table])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("lora.targets=['*.attn.to_w']",), "matches nothing"),
        (("lora.unfrozen=['*embedd*']",), "matches nothing"),
        (("base=null",), "`lora` needs a base"),
        (("optim.groups=[{name: adaln, match: ['*attn_norm*']}]",), "only parameters that the task never trains"),
    ],
)
def test_what_cannot_be_adapted_is_refused(
    recipe: Path, base: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        finetune(recipe, tmp_path, *LORA, *(() if options[0].startswith("base") else (f"base={base}",)), *options)


def test_lengths_of_rows_of_zeros_are_refused(recipe: Path, tmp_path: Path) -> None:
    fresh = finetune(recipe, tmp_path / "fresh", "train.steps=1", "optim.lr=1e-20", "optim.schedule.warmup_steps=0")
    options = (*LORA, "lora.dora=true", "lora.targets=['*.attn_norm.linear']")
    with pytest.raises((CheckpointError, RecipeError), match="all zeros"):
        finetune(recipe, tmp_path, *options, f"base={fresh}")


def test_two_processes_train_the_same_adapters(recipe: Path, base: Path, tmp_path: Path) -> None:
    done = ttstrain("finetune", recipe, *LORA, f"base={base}", "name=two", f"run_dir={tmp_path}", "--nproc", "2")
    assert done.returncode == 0, done.stderr  # every checkpoint compares the processes' weights
    state = checkpoint(tmp_path / "two", STEPS).state["task"]
    assert all(tensor.abs().sum() > 0 for name, tensor in state.items() if ".lora_B." in name)
