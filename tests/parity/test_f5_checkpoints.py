"""Upstream F5 files of every kind: we restore what upstream's own loader restores, and go on as upstream went on."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowData, FlowExample
from ttstrain.families.flow.model import build_net
from ttstrain.families.flow.model.cfm import FlowDraws, spans
from ttstrain.families.flow.planner import num_tokens
from ttstrain.families.flow.task import FlowTask
from ttstrain.families.flow.upstream import F5Format
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import GroupRule, OptimConfig
from ttstrain.tensors import tensorfile
from ttstrain.tensors.loading import load_weights

MODELS = Path(__file__).resolve().parents[2] / "configs" / "models"
FILES = {
    "full": "model_10.pt",
    "ema_only_pt": "ema_only/model_10.pt",
    "ema_only_safetensors": "ema_only/model_10.safetensors",
    "old_step_style": "old_step_style/model_10.pt",
}


@pytest.fixture(scope="session")
def layouts(fixtures_dir: Path) -> Path:
    return fixtures_dir / "f5_ckpt_layouts"


@pytest.fixture
def config(fixtures_dir: Path, tmp_path: Path) -> FlowConfig:
    upstream = json.loads((fixtures_dir / "f5_train_trace" / "config.json").read_text())
    vocab = tmp_path / "vocab.txt"
    rows = json.loads((fixtures_dir / "f5_ckpt_layouts" / "config.json").read_text())["text_num_embeds"]
    vocab.write_text("".join(f"{token}\n" for token in upstream["vocab"]))
    assert len(upstream["vocab"]) == rows
    arch = {key: value for key, value in upstream["arch"].items() if key != "mel_dim"}
    return FlowConfig(**arch, vocab=str(vocab), tokenizer="custom")


@pytest.mark.parametrize("name", FILES)
def test_every_kind_restores_what_upstream_restores(layouts: Path, config: FlowConfig, name: str) -> None:
    loads = json.loads((layouts / "loads.json").read_text())[name]
    expected = load_file(layouts / "expected.safetensors")
    opened = open_checkpoint(layouts / FILES[name], task="flow")
    opened.check_model(config.model_dump(mode="json"))

    task = FlowTask(config)
    load_weights(task, opened.weights, source=str(opened.path))
    assert opened.ema is not None
    load_weights(FlowTask(config), opened.ema, source=str(opened.path))
    Ema(task, decay=0.9, start_step=0, every=1).load_state_dict({"weights": tensorfile.read_tree(opened.ema)})
    for key in ("transformer.proj_out.weight", "transformer.proj_out.bias"):
        assert torch.equal(task.state_dict()[key], expected[f"{name}.model.{key}"])
        assert torch.equal(opened.ema[key].read(), expected[f"{name}.ema.ema_model.{key}"])
    assert opened.ema_step == loads["ema_step"] == int(expected[f"{name}.ema.step"])
    assert (opened.step or 0) == loads["update"]
    assert len(opened.optimizer_state or {}) == loads["optimizer_state_entries"]
    if loads["optimizer_state_entries"]:
        assert [group.lr for group in opened.groups] == [loads["lr_in_optimizer"]]
        assert opened.schedule is not None
        assert [opened.schedule.lr_next] == loads["last_lr"]
        assert not opened.schedule.ended


@pytest.mark.parametrize("name", ["full", "old_step_style"])
def test_moments_carry_on_as_upstreams_run_did(
    fixtures_dir: Path, layouts: Path, config: FlowConfig, name: str
) -> None:
    """Take weights and moments of update 10, replay the recorded updates 11 to 15, and arrive where upstream did."""
    folder = fixtures_dir / "f5_train_trace"
    upstream = json.loads((folder / "config.json").read_text())
    trace = json.loads((folder / "trace.json").read_text())
    given = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    opened = open_checkpoint(layouts / FILES[name], task="flow")
    assert opened.step == 10

    data, task = FlowData(config), FlowTask(config)
    load_weights(task, opened.weights, source="model_10.pt")
    table = build_groups(
        task.optimized(), task.named_parameters(), OptimConfig(lr=upstream["lr"], decay_norms_and_biases=True)
    )
    optimizers = Optimizers.build(table, total_steps=len(trace), steps_per_epoch=5)
    optimizers.load_state_dict({"model": tensorfile.read_tree(opened.optimizer_state)})
    for k, step in list(enumerate(trace))[opened.step :]:
        batch = replay(data, upstream, step, given, k)
        (loss,) = task.losses(batch)
        loss.value.backward()
        optimizers.clip("model")
        lr = trace[k - 1]["lr_after_step"]
        for _, torch_group, _ in optimizers._optimizers["model"].torch_groups():
            torch_group["lr"] = lr
        optimizers.step("model")
        optimizers.zero_grad("model")
    for key, value in task.state_dict().items():
        if not key.endswith("to_k.bias"):  # its gradient is rounding only, which Adam blows up
            torch.testing.assert_close(value, expected[f"final.{key}"], rtol=0, atol=2e-5, msg=key)


def replay(data: FlowData, upstream: dict[str, Any], step: dict[str, Any], given: dict[str, Any], k: int) -> Any:
    examples = [
        FlowExample(
            id=str(item), mel=given[f"mel.{item}"].T, text=torch.tensor(data.vocab.encode(upstream["texts"][item]))
        )
        for item in step["batch"]
    ]
    batch = data.collate(examples)
    start, end = spans(
        batch.mel_lengths,
        fraction=given[f"step{k}.frac_lengths"],
        position=given[f"step{k}.span_rand"],
        kind="upstream",
    )
    draws = FlowDraws(
        span_start=start,
        span_end=end,
        drop_audio=torch.full((len(batch.ids),), step["drop_audio"]),
        drop_text=torch.full((len(batch.ids),), step["drop_text"]),
        noise=given[f"step{k}.x0"],
        time=given[f"step{k}.time"],
    )
    return replace(batch, draws=draws, weight=float((end - start).sum()))


# ---------------------------------------------------------------- which net


def official(fixtures_dir: Path, name: str) -> dict[str, torch.Tensor]:
    """Build the state dict of an official net without its memory: every tensor is a view of one number."""
    with gzip.open(fixtures_dir / "key_specs" / f"{name}.json.gz", "rt") as file:
        spec = json.load(file)
    entries = spec.get("tensors", spec.get("state_dict", spec))
    rows = entries.items() if isinstance(entries, dict) else [(entry[0], entry[1:]) for entry in entries]
    made = {}
    for key, entry in rows:
        shape = entry["shape"] if isinstance(entry, dict) else next(part for part in entry if isinstance(part, list))
        made[key if key.startswith("transformer.") else f"transformer.{key}"] = torch.ones(1).expand(shape or ())
    return made


def write_ema_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    average = {f"ema_model.{key}": value for key, value in tensors.items()}
    content = {"initted": torch.tensor(True), "step": torch.tensor(1_250_000), **average}
    torch.save({"ema_model_state_dict": content}, path)
    return path


@pytest.mark.parametrize(
    ("spec", "folder", "model", "version"),
    [
        ("F5TTS_v1_Base", "F5TTS_v1_Base", "F5TTS_v1_Base", "v1"),
        ("F5TTS_v1_Base", "F5TTS_v1_Base_no_zero_init", "F5TTS_v1_Base", "v1"),
        ("F5TTS_Base", "F5TTS_Base", "F5TTS_Base", "v0"),
        ("F5TTS_Base", "F5TTS_Base_bigvgan", "F5TTS_Base_bigvgan", "v0"),
        ("F5TTS_v1_Base", "hub/models--me--F5TTS_v1_Base_mine/snapshots/84e5a41", "F5TTS_v1_Base", "v1"),
        ("E2TTS_Base", "hub/models--SWivid--E2-TTS/snapshots/84e5a41/E2TTS_Base", "E2TTS_Base", "v0"),
        ("F5TTS_Small", "ckpts/F5TTS_Small_vocos_pinyin_mine", "F5TTS_Small", "v0"),
        ("F5TTS_v1_Small", "anything", "F5TTS_v1_Small or F5TTS_Small", "v0 or v1"),
        ("F5TTS_v1_Base", "F5TTS_Small", "F5TTS_v1_Base or F5TTS_Base", "v0 or v1"),  # a name the shapes belie
        ("E2TTS_Base", "anything", "E2TTS_Base", "v0"),
        ("E2TTS_Small", "anything", "E2TTS_Small", "v0"),
    ],
)
def test_official_nets_are_recognised(
    fixtures_dir: Path, tmp_path: Path, *, spec: str, folder: str, model: str, version: str
) -> None:
    path = write_ema_file(tmp_path / folder / "model_1250000.pt", official(fixtures_dir, spec))
    opened = open_checkpoint(path)
    assert (opened.model, opened.version, opened.kind) == (model, version, "base")
    named = "TTS" in folder and folder != "F5TTS_Small"
    flags = () if version != "v0 or v1" else ("text_mask_padding", "pe_attn_head")
    assert opened.unknown == (() if named else (*flags, "mel"))
    assert opened.config.get("mel") == (None if not named else "bigvgan" if "bigvgan" in folder else "vocos")
    heads = {"F5TTS_v1_Base": 16, "F5TTS_Base": 16, "E2TTS_Base": 16}.get(spec, 12)
    assert (opened.config["heads"], opened.config["dim_head"]) == (heads, 64)
    assert any("v0 or v1" in note for note in opened.notes) == bool(flags)
    assert any("vocos or bigvgan" in note for note in opened.notes) == (not named)


def test_settings_beside_the_file_tell_v0_from_v1(fixtures_dir: Path, tmp_path: Path) -> None:
    path = write_ema_file(tmp_path / "mine" / "model_last.pt", official(fixtures_dir, "F5TTS_Base"))
    settings = path.parent / "mine.yaml"
    mel = "{mel_spec_type: vocos}"
    settings.write_text(f"model: {{arch: {{text_mask_padding: False, pe_attn_head: 1}}, mel_spec: {mel}}}\n")
    assert open_checkpoint(path).model == "F5TTS_Base"
    settings.write_text(f"model: {{arch: {{text_mask_padding: True, pe_attn_head: null}}, mel_spec: {mel}}}\n")
    assert open_checkpoint(path).model == "F5TTS_v1_Base"
    settings.write_text(f"model: {{arch: {{dim: 1024}}, mel_spec: {mel}}}\n")
    assert open_checkpoint(path).version == "v0 or v1"


def test_early_settings_leave_the_flags_to_their_name(fixtures_dir: Path, tmp_path: Path) -> None:
    path = write_ema_file(tmp_path / "mine" / "model_last.pt", official(fixtures_dir, "F5TTS_Base"))
    arch = "{dim: 1024, depth: 22, heads: 16}"
    (path.parent / "early.yaml").write_text(f"model: {{name: F5TTS_Base, arch: {arch}}}\n")
    opened = open_checkpoint(path)
    assert (opened.model, opened.unknown) == ("F5TTS_Base", ("mel",))
    assert opened.sources["pe_attn_head"] == "`early.yaml`"
    (path.parent / "early.yaml").write_text("model: {name: F5TTS_Base, arch: {dim: 768}}\n")  # another net's
    assert open_checkpoint(path).version == "v0 or v1"


@pytest.mark.parametrize("content", ["{}", "[1]", "{not json", '{"exp_name": 3}', '{"exp_name": "E2TTS_Base"}'])
def test_what_the_finetuning_page_keeps_tells_v0_from_v1(fixtures_dir: Path, tmp_path: Path, content: str) -> None:
    path = write_ema_file(tmp_path / "mine" / "model_last.pt", official(fixtures_dir, "F5TTS_Base"))
    (path.parent / "setting.json").write_text(content)
    assert open_checkpoint(path).version == "v0 or v1"
    (path.parent / "setting.json").write_text('{"exp_name": "F5TTS_Base", "learning_rate": 1e-05}')
    opened = open_checkpoint(path)
    assert (opened.model, opened.version, opened.unknown) == ("F5TTS_Base", "v0", ())
    assert any("taken from `setting.json`" in note for note in opened.notes)


def test_witnesses_who_disagree_are_not_believed(fixtures_dir: Path, tmp_path: Path) -> None:
    path = write_ema_file(tmp_path / "F5TTS_v1_Base" / "model_last.pt", official(fixtures_dir, "F5TTS_Base"))
    (path.parent / "setting.json").write_text('{"exp_name": "F5TTS_Base"}')
    opened = open_checkpoint(path)
    assert opened.unknown == ("text_mask_padding", "pe_attn_head")
    assert opened.config["mel"] == "vocos"  # on which they agree
    dispute = next(note for note in opened.notes if note.startswith("conflicting `pe_attn_head`"))
    assert "`setting.json`" in dispute
    assert "the name `F5TTS_v1_Base`" in dispute


def test_a_contradiction_names_who_says_so(fixtures_dir: Path, tmp_path: Path) -> None:
    path = write_ema_file(tmp_path / "F5TTS_Base" / "model_1.pt", official(fixtures_dir, "F5TTS_Base"))
    with pytest.raises(CheckpointError, match="pe_attn_head: 1 by the name `F5TTS_Base`, None in the recipe"):
        open_checkpoint(path).check_model(FlowConfig().model_dump(mode="json"))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *(("f5_v1_base", "F5TTS_v1_Base"), ("f5_v0_base", "F5TTS_Base"), ("f5_v0_base_bigvgan", "F5TTS_Base")),
        *(("f5_v1_small", "F5TTS_v1_Small"), ("f5_v0_small", "F5TTS_Small")),
        *(("e2_base", "E2TTS_Base"), ("e2_small", "E2TTS_Small")),
    ],
)
def test_every_shipped_model_has_upstreams_tensors_and_flags(fixtures_dir: Path, name: str, spec: str) -> None:
    with gzip.open(fixtures_dir / "key_specs" / f"{spec}.json.gz", "rt") as file:
        upstream = json.load(file)
    shipped = yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8"))
    config = FlowConfig(**shipped["model"])
    stated = {key for key in FlowConfig.model_fields if key in shipped["model"]}
    assert stated >= {"backbone", "dim", "depth", "text_mask_padding", "pe_attn_head", "mel", "vocab", "tokenizer"}
    with torch.device("meta"):
        net = build_net(config, num_tokens=num_tokens(config))
    ours = {f"transformer.{key}": list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert ours == {key: value[0] for key, value in upstream["tensors"].items()}
    arch = upstream["config"]
    assert all(getattr(config, key) == arch[key] for key in arch.keys() & {"text_mask_padding", "pe_attn_head"})
    label = F5Format().label(config.model_dump(mode="json"))
    assert label.model == (f"{spec}_bigvgan" if "bigvgan" in name else spec)
    assert ("base" in shipped) == (name.endswith(("base", "bigvgan")))
    if "base" in shipped:
        assert shipped["base"].split("/")[-2] == label.model


def test_our_own_metadata_tell_v0_from_v1(layouts: Path, tmp_path: Path, config: FlowConfig) -> None:
    tensors = load_file(layouts / "ema_only" / "model_10.safetensors")
    about = json.dumps({"task": "flow", "model": config.model_dump(mode="json")})
    save_file(tensors, tmp_path / "x.safetensors", metadata={"ttstrain": about})
    opened = open_checkpoint(tmp_path / "x.safetensors")
    assert opened.version == "v1"
    assert opened.config["text_mask_padding"] is True
    assert opened.unknown == ()


# ---------------------------------------------------------------- wrappings users meet


def rewrap(layouts: Path, tmp_path: Path, kind: str) -> OpenedCheckpoint:
    full = torch.load(layouts / "model_10.pt", weights_only=True)
    online, average = full["model_state_dict"], full["ema_model_state_dict"]
    content: dict[str, Any] = {
        "plain .safetensors": online,
        "online in the EMA's place": {"ema_model_state_dict": online},
        "online only": {"model_state_dict": online},
        "saved under DDP": {**full, "model_state_dict": {f"module.{key}": value for key, value in online.items()}},
        "EMA saved under DDP": {
            "ema_model_state_dict": {key.replace("ema_model.", "ema_model.module."): v for key, v in average.items()}
        },
        "EMA without counters": {k: v for k, v in average.items() if k.startswith("ema_model.")},
        "compiled": {"model_state_dict": {f"_orig_mod.{key}": value for key, value in online.items()}},
    }[kind]
    if kind in ("plain .safetensors", "EMA without counters"):
        save_file(content, tmp_path / "x.safetensors")
        return open_checkpoint(tmp_path / "x.safetensors")
    torch.save(content, tmp_path / "x.pt")
    return open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("kind", "called", "averaged"),
    [
        ("plain .safetensors", "export", False),
        ("online in the EMA's place", "export", False),
        ("online only", "export", False),
        ("saved under DDP", "training", False),
        ("EMA saved under DDP", "base", True),
        ("EMA without counters", "base", True),
        ("compiled", "export", False),
    ],
)
def test_pruned_and_wrapped_files_hold_the_same_weights(
    layouts: Path, tmp_path: Path, config: FlowConfig, *, kind: str, called: str, averaged: bool
) -> None:
    opened = rewrap(layouts, tmp_path, kind)
    assert opened.kind == called
    original = open_checkpoint(layouts / "model_10.pt")
    assert original.ema is not None
    expected = original.ema if averaged else original.weights
    task = FlowTask(config)
    load_weights(task, opened.weights, source=kind)
    for key, value in task.state_dict().items():
        assert torch.equal(value, expected[key].read()), key


def finished_run(layouts: Path, path: Path, *, lr: float = 1e-4) -> Path:
    """Write a training file as upstream's trainer leaves it when the schedule is over, with torch's own schedulers."""
    full = torch.load(layouts / "model_10.pt", weights_only=True)
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([parameter], lr=lr)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-8, end_factor=1.0, total_iters=4),
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=1e-8, total_iters=6),
        ],
        milestones=[4],
    )
    for _ in range(10):
        optimizer.step()
        schedule.step()
    full["scheduler_state_dict"] = schedule.state_dict()
    full["optimizer_state_dict"]["param_groups"][0]["lr"] = optimizer.param_groups[0]["lr"]
    torch.save(full, path)
    return path


def test_a_schedule_that_has_ended_is_called_so(layouts: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(finished_run(layouts, tmp_path / "model_10.pt"))
    assert opened.schedule is not None
    assert opened.schedule.ended
    assert (opened.schedule.position, opened.schedule.total) == (10, 10)
    assert opened.schedule.lr_next == pytest.approx(1e-12, rel=1e-3)
    assert any("ended" in note and "1e-12" in note for note in opened.notes)


def test_moments_of_another_optimizer_are_left_out_and_said_so(layouts: Path, tmp_path: Path) -> None:
    full = torch.load(layouts / "model_10.pt", weights_only=True)
    for state in full["optimizer_state_dict"]["state"].values():
        state["state1"], state["absmax1"] = state.pop("exp_avg"), torch.ones(3)
    torch.save(full, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.optimizer_state is None
    assert any("optimizer state left out" in note for note in opened.notes)
    assert opened.kind == "training"


def test_a_vocab_beside_the_file_is_found_when_it_is_its_own(layouts: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes((layouts / "model_10.pt").read_bytes())
    (tmp_path / "vocab.txt").write_text("".join(f"{index}\n" for index in range(36)))
    assert open_checkpoint(tmp_path / "x.pt").vocab == tmp_path / "vocab.txt"
    (tmp_path / "vocab.txt").write_text("".join(f"{index}\n" for index in range(30)))
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.vocab is None
    assert any("30 tokens" in note for note in opened.notes)


def test_the_recipe_of_another_net_is_refused_by_the_differing_key(layouts: Path, config: FlowConfig) -> None:
    opened = open_checkpoint(layouts / "model_10.pt")
    model = config.model_copy(update={"heads": 4, "dim_head": 4}).model_dump(mode="json")
    with pytest.raises(CheckpointError, match=r"heads: 2 in the file, 4 in the recipe"):
        opened.check_model(model)


def test_another_vocabulary_is_refused_in_words(layouts: Path, config: FlowConfig, tmp_path: Path) -> None:
    (tmp_path / "longer.txt").write_text(" \n" + "".join(f"t{index}\n" for index in range(40)))
    task = FlowTask(config.model_copy(update={"vocab": str(tmp_path / "longer.txt")}))
    with pytest.raises(CheckpointError) as caught:
        load_weights(task, open_checkpoint(layouts / "model_10.pt").weights, source="model_10.pt")
    assert "vocabulary" in str(caught.value.hint)


def test_a_group_rule_over_upstreams_names_finds_its_moments(layouts: Path, config: FlowConfig) -> None:
    opened = open_checkpoint(layouts / "model_10.pt")
    task = FlowTask(config)
    rule = GroupRule(name="text", match=["transformer.text_embed.*"], lr=1e-4)
    optimizers = Optimizers.build(
        build_groups(task.optimized(), task.named_parameters(), OptimConfig(groups=[rule])),
        total_steps=10,
        steps_per_epoch=5,
    )
    optimizers.load_state_dict({"model": tensorfile.read_tree(opened.optimizer_state)})
    full = torch.load(layouts / "model_10.pt", weights_only=True)["optimizer_state_dict"]["state"]
    names = [name for name, _ in task.named_parameters()]
    restored = optimizers.state_dict()["model"]
    assert len(names) == len(full)
    assert all(torch.equal(restored[name]["exp_avg"], full[index]["exp_avg"]) for index, name in enumerate(names))
