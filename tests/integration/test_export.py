"""An export holds what the checkpoint holds, in upstream's layout, or it does not come to be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import checkpoint, finetune, metrics, ttstrain, write_clips, write_recipe
from torch import Tensor

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import read_meta, write_meta
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.export import Source, TrainerState
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.export import choose as engine_export
from ttstrain.export.choose import gather
from ttstrain.export.write import export
from ttstrain.families.flow import export_texts
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.export import as_upstream_reads, vocab_bytes
from ttstrain.families.flow.task import FlowTask
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.settings import PACKAGES
from ttstrain.recipe.schema import OptimizerKind
from ttstrain.runs.resume import resume
from ttstrain.tensors import tensorfile

STEPS = 8


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("runs"), "name=small", "eval.every=4")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def average_of(run: Path, step: int) -> dict[str, Tensor]:
    average: dict[str, Tensor] = checkpoint(run, step).state["ema"]["weights"]
    return average


def without_prefix(path: Path) -> dict[str, Tensor]:
    return {
        key.removeprefix("ema_model."): tensor
        for key, tensor in load_file(path).items()
        if key not in ("initted", "step")
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, tensor in expected.items() if not torch.equal(found[key], tensor)] == []


# ---------------------------------------------------------------- which weights


@pytest.mark.parametrize(("online", "average", "expected"), [(0.5, 0.4, "ema"), (0.4, 0.5, "online")])
def test_the_lower_held_out_loss_wins_and_both_are_told(
    copied: Path, tmp_path: Path, online: float, average: float, expected: str
) -> None:
    last = copied / "checkpoints" / f"step-{STEPS:08d}"
    measured = {"eval/loss/total": online, "eval/ema_loss/total": average}
    write_meta(last, read_meta(last).model_copy(update={"metrics": measured}))
    source = gather(last)
    assert source.chosen == expected
    assert f"online {online:.4f}, ema {average:.4f}" in source.reasons[0]
    exported = export(source, tmp_path / "out")
    held = average_of(copied, STEPS) if expected == "ema" else checkpoint(copied, STEPS).state["task"]
    assert_equal(without_prefix(exported.folder / f"model_{STEPS}.safetensors"), held)
    assert f"| held-out loss, ema | {average:.4f} |" in (exported.folder / "README.md").read_text()


def test_an_average_of_checkpoints_is_exported_and_is_a_base(run: Path, recipe: Path, tmp_path: Path) -> None:
    steps = (2, STEPS)
    members = [run / "checkpoints" / f"step-{step:08d}" for step in steps]
    shown = ttstrain("average", *members, "-o", tmp_path / "mean")
    assert (shown.returncode, shown.stderr) == (0, "")
    first, second = (checkpoint(run, step).state["task"] for step in steps)
    expected = {name: (0.5 * (first[name].double() + second[name])).float() for name in first}
    exported = export(gather(tmp_path / "mean"), tmp_path / "out")
    assert_equal(without_prefix(exported.folder / f"model_{STEPS}.safetensors"), expected)
    fresh = finetune(recipe, tmp_path / "runs", "name=from_mean", f"base={tmp_path / 'mean'}", "train.steps=3")
    assert (fresh / "checkpoints" / "step-00000003").is_dir()


def test_the_figures_come_from_the_runs_own_evaluation(run: Path) -> None:
    row = next(row for row in metrics(run) if row["step"] == STEPS and "eval/loss/total" in row)
    source = gather(run / "checkpoints" / f"step-{STEPS:08d}")
    assert source.losses == {"online": row["eval/loss/total"], "ema": row["eval/ema_loss/total"]}


def test_without_an_evaluation_the_average_is_taken_where_its_horizon_fits(run: Path, copied: Path) -> None:
    source = gather(run / "checkpoints" / "step-00000003")
    assert (source.chosen, source.losses) == ("online", {})
    assert "no held-out loss was measured at step 3" in source.reasons[0]
    folder = copied / "checkpoints" / "step-00000003"
    meta = read_meta(folder)
    for decay, expected in ((0.99, "ema"), (0.9999, "online")):
        ema = meta.ema.model_copy(update={"decay": decay})
        write_meta(folder, meta.model_copy(update={"step": 1000, "ema": ema}))
        assert gather(folder).chosen == expected
    write_meta(folder, meta.model_copy(update={"step": 1000, "ema": meta.ema.model_copy(update={"decay": 0.99})}))
    assert "averages over 100 steps" in gather(folder).reasons[0]


def test_weights_that_are_asked_for_are_taken(run: Path) -> None:
    last = run / "checkpoints" / f"step-{STEPS:08d}"
    for wanted, expected in (("online", checkpoint(run, STEPS).state["task"]), ("ema", average_of(run, STEPS))):
        assert_equal(dict(gather(last, weights=wanted).weights), expected)  # type: ignore[arg-type]


def test_weights_alone_leave_the_moments_on_the_disk(copied: Path) -> None:
    last = copied / "checkpoints" / f"step-{STEPS:08d}"
    whole = gather(last)
    file = last / "optimizers.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="optimizers"):
        gather(last)
    found = gather(last, training=False)
    assert found.training is None
    assert_equal(dict(found.weights), dict(whole.weights))


def test_a_run_stands_for_its_best_checkpoint(copied: Path) -> None:
    (copied / "checkpoints" / "best").write_text("step-00000004\n")
    assert gather(copied).step == 4


def test_blends_are_measured_as_the_run_measured_them(run: Path) -> None:
    """The ends of the line between weights and average have the losses that training logged for them."""
    last = run / "checkpoints" / f"step-{STEPS:08d}"
    recorded = gather(last).losses
    source = gather(last, compare=True)
    assert len(source.losses) == 4
    for name in ("online", "ema"):
        assert source.losses[name] == pytest.approx(recorded[name], rel=1e-5)
    best = min(source.losses, key=lambda name: source.losses[name])
    assert source.chosen == best
    own, average = checkpoint(run, STEPS).state["task"], average_of(run, STEPS)
    share = {"online": 0.0, "blend 0.5": 0.5, "ema": 1.0, "blend 1.5": 1.5}[best]
    for key, tensor in source.weights.items():
        torch.testing.assert_close(tensor, own[key] + share * (average[key] - own[key]), rtol=0, atol=1e-6)


def test_what_a_schedule_free_optimizer_stands_for_is_exported(recipe: Path, tmp_path: Path) -> None:
    run = finetune(
        recipe, tmp_path, "name=free", "optim.kind=schedule_free_adamw", "train.steps=4", "ema.enabled=false"
    )
    held = checkpoint(run, 4).state
    moments = held["optimizers"]["model"]
    weights = gather(run / "checkpoints" / "step-00000004").weights
    for key, trained in held["task"].items():
        if key in moments:  # x = y + (1 - 1 / beta1) (z - y), Defazio et al. 2024
            expected = trained + (1 - 1 / 0.9) * (moments[key]["z"] - trained)
            torch.testing.assert_close(weights[key], expected, rtol=0, atol=1e-6)
    assert any(not torch.equal(weights[key], held["task"][key]) for key in moments)
    (note,) = [note for note in open_checkpoint(run).notes if "schedule-free" in note]
    assert "evaluations used the averaged ones" in note


def test_adapters_are_merged(recipe: Path, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tuned = finetune(
        recipe, tmp_path, "name=tuned", f"base={run}", "lora={rank: 2, alpha: 4}", "train.steps=4", "optim.lr=1e-2"
    )
    source = gather(tuned / "checkpoints" / "step-00000004", weights="online")
    held = checkpoint(tuned, 4).state["task"]
    key = "transformer.transformer_blocks.0.attn.to_q"
    down, up, base = (next(t for n, t in held.items() if n.startswith(key) and part in n) for part in
                      ("lora_A", "lora_B", "base_layer.weight"))  # fmt: skip
    torch.testing.assert_close(source.weights[f"{key}.weight"], base + 2.0 * (up @ down), rtol=0, atol=1e-6)
    exported = export(source, tmp_path / "out", formats=["inference", "training"])
    plain_keys = checkpoint(run, STEPS).state["task"].keys()
    assert without_prefix(exported.folder / "model_4.safetensors").keys() == plain_keys
    assert any("adapters are merged" in note for note in exported.notes)


# ---------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def everything(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = gather(run / "checkpoints" / f"step-{STEPS:08d}")
    out = tmp_path_factory.mktemp("out") / "all"
    return export(source, out, formats=["inference", "half", "plain", "training"]).folder


def test_the_weights_lie_as_upstream_publishes_them(everything: Path, fixtures_dir: Path) -> None:
    """Names apart, the file is what upstream's average writes; the settings are in its metadata."""
    found = tensorfile.read_header(everything / f"model_{STEPS}.safetensors").tensors
    theirs = tensorfile.read_header(fixtures_dir / "f5_ckpt_layouts" / "ema_only" / "model_10.safetensors").tensors
    for key in ("initted", "step"):
        assert (found[key].dtype, found[key].shape) == (theirs[key].dtype, theirs[key].shape)
    assert {tensor.dtype for key, tensor in found.items() if key.startswith("ema_model.")} == {torch.float32}
    assert {key for key in found if not key.startswith("ema_model.transformer.")} == {"initted", "step"}
    assert "ema_model.transformer.rotary_embed.inv_freq" in found
    state = load_file(everything / f"model_{STEPS}.safetensors")
    assert bool(state["initted"])
    assert int(state["step"]) == 0, "a large counter would pin the average of whoever fine-tunes from the file"
    with safe_open(everything / f"model_{STEPS}.safetensors", "pt") as file:
        told = json.loads(file.metadata()["ttstrain"])
    assert told["model"]["text_mask_padding"] is True
    assert told["step"] == STEPS


def test_half_precision_halves_the_file_and_rounds_each_weight(everything: Path, run: Path, tmp_path: Path) -> None:
    """Positions are no weights: they stay as they are. Alone, the file lies where a base is looked for."""
    whole = without_prefix(everything / "model_8.safetensors")
    inside = without_prefix(everything / "half" / "model_8.safetensors")
    assert inside.keys() == whole.keys()
    assert {key for key, tensor in inside.items() if tensor.dtype == torch.float32} == {
        "transformer.rotary_embed.inv_freq"
    }
    assert_equal(inside, {key: tensor.to(inside[key].dtype) for key, tensor in whole.items()})
    alone = export(gather(run), tmp_path / "half", formats=["half"])
    assert alone.use[0].startswith("f5-tts_infer-cli")
    assert_equal(without_prefix(tmp_path / "half" / "model_8.safetensors"), inside)
    assert (tmp_path / "half" / "model_8.safetensors").stat().st_size < 0.55 * sum(
        tensor.nbytes for tensor in whole.values()
    )
    told = json.loads(ttstrain("inspect-ckpt", tmp_path / "half", "--json").stdout)
    assert told["dtypes"] == {"float16": len(whole) - 1, "float32": 1}
    assert resolve_base(str(tmp_path / "half")) == tmp_path / "half" / "model_8.safetensors"


def test_a_weight_that_half_precision_cannot_hold_is_refused(source: Source, tmp_path: Path) -> None:
    key = "transformer.proj_out.bias"
    weights = {**source.weights, key: torch.full_like(source.weights[key], 1e6)}
    with pytest.raises(CheckpointError, match=f"not finite in half precision, such as `{key}`"):
        export(replace(source, weights=weights), tmp_path / "out", formats=["half"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("told_by", ["metadata", "model.yaml"])
def test_an_option_that_no_tensor_shows_is_read_from_an_export(tmp_path: Path, told_by: str) -> None:
    option = "text_embedding_average_upsampling"
    small = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 16, "text_dim": 16, "vocab": "package:english"}
    config = FlowConfig(**small, tokenizer="custom", **{option: True})  # type: ignore[arg-type]
    weights = FlowTask(config).state_dict()
    spread = Source(tmp_path, "spread", "flow", config, 1, weights, "online", ("test",))
    file = export(spread, tmp_path / "out").folder / "model_1.safetensors"
    if told_by == "model.yaml":
        save_file(load_file(file), file)  # without the metadata, as other tools write it
    opened = open_checkpoint(file)
    assert opened.config[option] is True
    opened.check_model(config.model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=f"{option}: True by .*, False in the recipe"):
        opened.check_model({**config.model_dump(mode="json"), option: False})


def test_the_training_file_is_built_like_upstreams(everything: Path, fixtures_dir: Path) -> None:
    ours = torch.load(everything / "training" / "model_last.pt", weights_only=True)
    theirs = torch.load(fixtures_dir / "f5_ckpt_layouts" / "model_10.pt", weights_only=True)
    assert shape_of(ours) == shape_of(theirs)
    assert ours["update"] == STEPS


def shape_of(tree: Any) -> Any:
    """Reduce a training file to its keys and types; how many weights there are, and how large, is the net's."""
    if isinstance(tree, Tensor):
        return (tree.dtype, tree.ndim > 0)
    if isinstance(tree, dict):
        numbered = all(isinstance(key, int) for key in tree)
        named = any("transformer." in str(key) for key in tree)
        if numbered or named:
            plain = {key: shape_of(value) for key, value in tree.items() if not named or "transformer." not in str(key)}
            kinds = {str(shape_of(value)) for key, value in tree.items() if numbered or "transformer." in str(key)}
            return (None if numbered else plain, kinds - {str((torch.float32, False))})
        return {key: shape_of(value) for key, value in tree.items()}
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return [shape_of(value) for value in tree]
    return type(tree).__name__


def test_the_moments_are_numbered_as_upstream_registers_parameters(
    everything: Path, run: Path, fixtures_dir: Path
) -> None:
    theirs = list(torch.load(fixtures_dir / "f5_ckpt_layouts" / "model_10.pt", weights_only=True)["model_state_dict"])
    ours = torch.load(everything / "training" / "model_last.pt", weights_only=True)
    names = [name for name in ours["model_state_dict"] if "inv_freq" not in name]
    depth_one = [name for name in theirs if ".transformer_blocks.1." not in name and "inv_freq" not in name]
    assert names == depth_one
    moments = checkpoint(run, STEPS).state["optimizers"]["model"]
    for index, name in enumerate(names):
        assert torch.equal(ours["optimizer_state_dict"]["state"][index]["exp_avg"], moments[name]["exp_avg"])


def test_an_export_is_a_base_that_tells_its_settings(everything: Path) -> None:
    opened = open_checkpoint(everything)
    assert opened.path.name == f"model_{STEPS}.safetensors"
    assert opened.unknown == ()
    assert opened.vocab == everything / "vocab.txt"


def test_our_resume_goes_on_with_an_exported_training_file(everything: Path, recipe: Path, tmp_path: Path) -> None:
    """As a project of upstream's: a folder of checkpoints, of which the one with most updates is taken."""
    ckpts = Path(shutil.copytree(everything / "training", tmp_path / "ckpts" / "small"))
    shutil.copy(everything / f"model_{STEPS}.safetensors", ckpts / f"pretrained_model_{STEPS}.safetensors")
    again = resume(ckpts, [f"run_dir={tmp_path}", "name=again", "train.steps=10"], recipe=str(recipe))
    assert [row["step"] for row in metrics(again) if "train/loss/model" in row] == [9, 10]
    step = checkpoint(again, 10).state["optimizers"]["model"]["transformer.proj_out.weight"]["step"]
    assert float(step) == 10


def training_of(source: Source, run: Path, kind: str) -> TrainerState:
    """Return what a run with another optimizer would hand over: its optimizer state is those of a real first step."""
    loaded, recipe = checkpoint(run, STEPS), engine_export._recipe_of(run)
    recipe = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"kind": kind})})
    task = engine_export._build_task(source.task, source.config, None)
    table = build_groups(task.optimized(), task.named_parameters(), recipe.optim)
    optimizers = Optimizers.build(table, total_steps=10, steps_per_epoch=10)
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step("model")
    changed = replace(loaded, state={**loaded.state, "optimizers": optimizers.state_dict()})
    weights = source.training
    assert weights is not None
    candidates = engine_export._Candidates(weights.raw, weights.ema)
    found = engine_export._training(task, changed, candidates, recipe)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", get_args(OptimizerKind))
def test_every_optimizer_s_training_can_be_gone_on_with_or_is_refused(
    kind: str, source: Source, run: Path, tmp_path: Path
) -> None:
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind][0])
    changed = replace(source, training=training_of(source, run, kind))
    if kind in ("lion", "adan", "scaled_adam", "sgd"):
        with pytest.raises(RecipeError, match=f"the run's optimizer is `{kind}`"):
            export(changed, tmp_path / "out", formats=["training"])
        assert export(changed, tmp_path / "weights").files  # weights alone are given all the same
        return
    exported = export(changed, tmp_path / "out", formats=["training"])
    assert exported.proven[0].startswith(f"training: torch's AdamW makes update {STEPS + 1} from it, at LR ")
    assert any("starts empty" in note for note in exported.notes) == (kind != "adamw")


def test_a_training_file_that_adamw_cannot_take_is_not_kept(source: Source, tmp_path: Path) -> None:
    assert source.training is not None
    for changes, said in (
        ({"step": None}, "KeyError: 'step'"),
        ({"exp_avg": torch.zeros(3)}, r"`exp_avg` of `.*` is \(3,\), not"),
        ({"step": torch.tensor(500.0)}, "the optimizer counts"),
    ):
        moments = {
            name: {key: value for key, value in {**state, **changes}.items() if value is not None}
            for name, state in source.training.optimizer_state.items()
        }
        spoilt = replace(source, training=replace(source.training, optimizer_state=moments))
        with pytest.raises(CheckpointError, match=said):
            export(spoilt, tmp_path / "out", formats=["training"])
        assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the vocab


@pytest.mark.parametrize("content", [b" \na\nb\n", b" \r\na\r\nb\r\n"])
def test_a_vocab_is_copied_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.txt").write_bytes(content)
    assert vocab_bytes(FlowConfig(vocab=str(tmp_path / "v.txt"))) == (content, ())


@pytest.mark.parametrize("content", [b" \na\nb", b"\xef\xbb\xbf \na\nb\n"])
def test_a_vocab_that_upstream_would_misread_is_mended_and_that_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.txt").write_bytes(content)
    mended, notes = vocab_bytes(FlowConfig(vocab=str(tmp_path / "v.txt")))
    assert mended == b" \na\nb\n"
    assert len(notes) == 1
    assert as_upstream_reads(mended) == (" ", "a", "b")


# ---------------------------------------------------------------- refusals


@pytest.fixture
def source(run: Path) -> Source:
    return gather(run / "checkpoints" / f"step-{STEPS:08d}")


def test_what_reads_back_differently_is_not_kept(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tensorfile.write

    def spoilt(path: Path, tensors: dict[str, Tensor], **others: Any) -> Any:
        key = "ema_model.transformer.proj_out.bias"
        return whole(path, {**tensors, key: tensors[key] + 1e-3}, **others)

    monkeypatch.setattr(tensorfile, "write", spoilt)
    with pytest.raises(CheckpointError, match=r"when it is read back: `transformer.proj_out.bias`"):
        export(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert store.load(source.checkpoint).meta.step == STEPS


def test_settings_that_would_make_the_weights_speak_otherwise_are_not_kept(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_texts.arch
    monkeypatch.setattr(export_texts, "arch", lambda config: {**right(config), "text_mask_padding": False})
    with pytest.raises(CheckpointError, match="text_mask_padding"):
        export(source, tmp_path / "out", formats=["inference"])
    with pytest.raises(CheckpointError, match="forward pass differs"):
        export(source, tmp_path / "out", formats=["training"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_touched(source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty"):
        export(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_given_is_refused(run: Path, source: Source, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no format `onnx`"):
        export(source, tmp_path / "out", formats=["onnx"])
    without = finetune(recipe, tmp_path, "name=without", "ema.enabled=false", "train.steps=4", "eval.every=null")
    assert gather(without).chosen == "online"
    with pytest.raises(CheckpointError, match="no EMA weights"):
        gather(without, weights="ema")
    exported = export(source, tmp_path / "out")
    with pytest.raises(RecipeError, match="model settings are unknown"):
        gather(exported.folder)
    again = gather(exported.folder, recipe=str(recipe))
    assert again.chosen == "ema"
    with pytest.raises(RecipeError, match="no training state to resume from"):
        export(again, tmp_path / "again", formats=["training"])


def test_the_command_line_says_what_was_taken_and_how_to_use_it(run: Path, tmp_path: Path) -> None:
    done = ttstrain("export", run, "-o", tmp_path / "out", "--format", "inference", "--format", "plain", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"model.yaml", "vocab.txt", "README.md"} < set(told["files"])
    assert told["checked"]["tensors"] == 2 * len(checkpoint(run, STEPS).state["task"])
    assert told["use"][0].startswith("f5-tts_infer-cli ")
    assert str(tmp_path / "out" / "model.yaml") in told["use"][0]
    nowhere = ttstrain("export", tmp_path / "nowhere", "-o", tmp_path / "new")
    assert (nowhere.returncode, "does not exist" in nowhere.stderr) == (4, True)
    again = ttstrain("export", run, "-o", tmp_path / "out")
    assert again.returncode == 2
    assert "hint: nothing is overwritten" in again.stderr
