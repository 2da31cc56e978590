"""Checkpoints of adapters: what they hold, and how they become whole over a base that may be moved, changed or gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import checkpoint, cut_off, differences, finetune, metrics, ttstrain, write_base

from ttstrain.checkpoint import base_record, store
from ttstrain.checkpoint.averaging import average
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.meta import read_meta
from ttstrain.checkpoint.upstream import load_own, open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.export.choose import gather
from ttstrain.export.write import export
from ttstrain.modules import lora
from ttstrain.runs.resume import resume

STEPS = 4
OUT = {"transformer.proj_out.weight", "transformer.proj_out.bias"}  # trained beside the adapters
LORA = ("lora={rank: 2, alpha: 4, unfrozen: ['*proj_out*']}", f"train.steps={STEPS}", "optim.lr=2e-2", "name=adapted")
PER_TRAINED = 4 * (1 + 1 + 2)  # bytes: weight, EMA weight and AdamW's two moments, all in fp32
HEADERS = 25_000  # bytes of JSON and of safetensors headers in the files that hold tensors
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base in `net` and a run of adapters over it, both named by relative paths."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        recipe = write_base(root)
        finetune(recipe, Path("runs"), *LORA, "base=net")
    return root


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """A copy of that folder elsewhere; its original is out of the way, so nothing of it can be found."""
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    root.rename(root.with_name("away"))
    yield copy  # type: ignore[misc]
    root.with_name("away").rename(root)


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return root / "runs" / "adapted"


def last(run: Path) -> Path:
    return run / "checkpoints" / f"step-{STEPS:08d}"


def make_whole(folder: Path) -> None:
    """Rewrite a checkpoint as it was before adapters were kept apart from their base."""
    loaded = load_own(folder)
    meta = loaded.meta.model_copy(update={"base": None})
    texts = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    store.save(folder, loaded.state, meta, per_rank=loaded.per_rank, texts=texts)


def test_a_checkpoint_is_as_large_as_what_is_trained(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    trained, frozen = plan["num_trained"], plan["num_parameters"] - plan["num_trained"]
    held = store.load(last(run)).state
    buffers = {name for name in held["task"] if name.endswith("inv_freq")}
    names = {lora.plain_name(name) for name in held["task"]} - buffers
    assert names == OUT | {name for name in names if lora.is_adapter(name)}
    assert held["ema"]["weights"].keys() == held["task"].keys()
    assert sum(tensor.numel() for name, tensor in held["task"].items() if name not in buffers) == trained
    size = sum(file.stat().st_size for stem in ("weights", "ema", "optimizers") for file in last(run).glob(f"{stem}.*"))
    assert PER_TRAINED * trained <= size < PER_TRAINED * trained + HEADERS
    assert size < 4 * frozen  # the whole weights alone
    assert plan["disk_bytes"] // plan["num_checkpoints"] == plan["memory"]["snapshot"] == PER_TRAINED * trained


def test_it_is_whole_over_its_base(root: Path, run: Path) -> None:
    task, net = load_own(last(run)).state["task"], store.load(root / "net").state["task"]
    kept = {lora.plain_name(name): tensor for name, tensor in task.items() if not lora.is_adapter(name)}
    assert differences(kept, net) == sorted(OUT)
    average = load_own(last(run)).state["ema"]["weights"]
    assert differences({name: average[name] for name in task if "base_layer" in name}, {}) != []
    assert differences(
        {name: average[name] for name in task if "base_layer" in name},
        {name: task[name] for name in task if "base_layer" in name},
    ) == []  # fmt: skip


def test_exported_it_is_what_a_whole_checkpoint_exports(copied: Path) -> None:
    run = copied / "runs" / "adapted"
    found = {}
    for name in ("apart", "whole"):
        for weights in ("online", "ema"):
            folder = export(gather(run, weights=weights), copied / name / weights).folder  # type: ignore[arg-type]
            found[name, weights] = {
                f"{file.name}/{key}": tensor
                for file in folder.glob("*.safetensors")
                for key, tensor in load_file(file).items()
            }
        totals = base_record.checksum(open_checkpoint(last(run)).weights)
        found[name, "base"] = {"checksum": totals}  # as a base it is the same one
        shutil.rmtree(copied / "net", ignore_errors=name == "whole") if name == "whole" else make_whole(last(run))
    for weights in ("online", "ema", "base"):
        assert found["apart", weights]
        assert differences(found["apart", weights], found["whole", weights]) == []


def test_a_whole_checkpoint_goes_on_and_stays_whole(copied: Path, root: Path) -> None:
    run = cut_off(copied / "runs" / "adapted", after=2)
    make_whole(run / "checkpoints" / "step-00000002")
    expected = load_own(
        root.with_name("away") / "runs" / "adapted" / "checkpoints" / last(run).name, base=[str(copied / "net")]
    )
    shutil.rmtree(copied / "net")
    data = f"data.path={copied / 'speech'}"
    with pytest.raises(RecipeError, match="is whole: it needs no base"):
        resume(run, [data], base=["net"])
    resume(run, [data])
    assert read_meta(last(run)).base is None
    assert differences(store.load(last(run)).state, expected.state) == []


def test_run_and_base_may_be_moved_together(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = copied / "runs" / "adapted"
    before = checkpoint(run, STEPS)
    assert before.base is not None and before.base.path == copied / "net"
    cut_off(run, after=2)
    rows = metrics(run)
    resume(run, [f"data.path={copied / 'speech'}"])
    assert differences(checkpoint(run, STEPS).state, before.state) == []
    assert read_meta(last(run)).base.places == (str(copied / "net"),)  # type: ignore[union-attr]
    assert metrics(run) == rows


def test_a_base_that_is_gone_is_named_with_the_way_to_its_new_place(copied: Path, tmp_path: Path) -> None:
    run = cut_off(copied / "runs" / "adapted", after=2)
    (copied / "net").rename(tmp_path / "elsewhere")
    data = f"data.path={copied / 'speech'}"
    refused = ttstrain("resume", run, data)
    assert refused.returncode == 4
    assert "holds adapters, and the base `net`" in refused.stderr
    assert f"ttstrain resume {run} --base FILE" in refused.stderr
    for read in (gather, open_checkpoint):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            read(run)
    found = inspect(run)
    assert any(note.startswith("WARNING: only what it holds itself is shown") for note in found.notes)
    assert found.kind == "training" and found.parameters == 3_300  # `OUT`
    resume(run, [data], base=[str(tmp_path / "elsewhere")])
    assert gather(run).base == str(tmp_path / "elsewhere")  # and now every command finds it
    assert open_checkpoint(run).weights


@pytest.mark.parametrize("named", [False, True])
def test_a_base_that_has_changed_is_refused(copied: Path, named: bool) -> None:
    run = cut_off(copied / "runs" / "adapted", after=2)
    loaded = store.load(copied / "net")
    loaded.state["task"]["transformer.proj_out.bias"][0] += 1
    store.save(
        copied / "net", loaded.state, loaded.meta, texts={"vocab": "a"} if "vocab" in loaded.meta.model else None
    )
    refused = ttstrain("resume", run, f"data.path={copied / 'speech'}", *(["--base", copied / "net"] if named else []))
    assert refused.returncode == 4
    assert "is not the base that" in refused.stderr and "another checksum" in refused.stderr
    assert ("give the weights that the run started from" in refused.stderr) == named


def test_what_reads_checkpoints_reads_it(root: Path, run: Path, tmp_path: Path) -> None:
    found, of_base = inspect(run), inspect(root / "net")
    assert (found.parameters, found.tensors) == (of_base.parameters, of_base.tensors)
    assert any("the other weights are those of the base `net`" in note for note in found.notes)
    with pytest.raises(CheckpointError, match="the mean of adapters"):
        average([last(run), run / "checkpoints" / "step-00000002"], tmp_path / "mean")
    blended, net = gather(run, blend=0.0), store.load(root / "net").state["task"]
    assert differences(blended.weights, {name: net[name] for name in blended.weights}) == []
