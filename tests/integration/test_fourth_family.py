"""A family's folder is all that ttstrain needs of it: a toy CosyVoice trains, resumes, starts from upstream's files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fourth_family
import pytest
import torch
from click.testing import Result
from small_runs import checkpoint, cut_off, differences, finetune, metrics
from torch import Tensor
from typer.testing import CliRunner

from ttstrain.cli.main import app
from ttstrain.runs.resume import resume

STEPS = 8
KEPT = ("checkpoint={every: 2, keep_last: 99}",)
MODEL = "toy CosyVoice, llm 1 x 16, flow 1 x 16"
PLAN_WITHOUT_TORCH = (
    f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {fourth_family.PROGRAM}"
)
# Upstream's names, written out here: the family's own table is what is tested.
THEIR_NAMES = {
    "llm.marks.weight": "llm.llm_embedding.weight",
    "llm.head.weight": "llm.llm_decoder.weight",
    "llm.head.bias": "llm.llm_decoder.bias",
    "flow.code_embedding.weight": "flow.input_embedding.weight",
}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with fourth_family.known():
        yield


@pytest.fixture(scope="module")
def whole(known: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uninterrupted run from scratch, which speaks once at its end."""
    return finetune(fourth_family.RECIPE, tmp_path_factory.mktemp("whole"), "name=whole", *KEPT)


@pytest.fixture(scope="module")
def upstream(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run's last weights as the upstream trainer would have saved them."""
    weights: Mapping[str, Tensor] = checkpoint(whole, STEPS).state["task"]
    net = {"dim": 16, "depth": 1, "heads": 2}
    return write_upstream(
        tmp_path_factory.mktemp("upstream") / "toy_300.pt",
        model={THEIR_NAMES.get(name, name): tensor for name, tensor in weights.items()},
        config={"llm": net, "flow": net, "n_mels": 20, "levels": [4, 4, 4]},
    )


def write_upstream(path: Path, *, model: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    torch.save({"model": dict(model), "config": dict(config), "epoch": 3, "step": 300}, path)
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def the_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


# ---------------------------------------------------------------- training


def test_both_nets_learn_in_optimizers_of_their_own(whole: Path) -> None:
    rows = metrics(whole)
    first, last = (next(row for row in rows if row["step"] == step and "eval/loss/total" in row) for step in (0, STEPS))
    for name in ("total", "llm", "flow"):
        assert last[f"eval/loss/{name}"] < 0.95 * first[f"eval/loss/{name}"]
    trained = [row for row in rows if "train/loss/llm" in row]
    assert [row["step"] for row in trained] == list(range(1, STEPS + 1))
    norms = [row[f"optim/grad_norm/{name}"] for row in trained for name in ("llm", "flow")]
    assert all(norm > 0 for norm in norms)
    weights, owned = Counter[str](), Counter[str]()
    for name, tensor in checkpoint(whole, STEPS).state["task"].items():
        weights[name.partition(".")[0]] += tensor.numel()
    for group in checkpoint(whole, STEPS).meta.groups:
        owned[group.optimizer] += group.parameters
    assert owned == weights


def test_it_is_heard_while_it_trains(whole: Path) -> None:
    spoken = list((whole / "samples").rglob("*.wav"))
    assert spoken


@pytest.mark.parametrize("cut", [2, 6])
def test_a_run_that_was_cut_ends_bit_for_bit_as_the_whole(whole: Path, tmp_path: Path, cut: int) -> None:
    run = cut_off(Path(shutil.copytree(whole, tmp_path / "copy")), after=cut)
    assert resume(run, []) == run
    mine, theirs = checkpoint(run, STEPS), checkpoint(whole, STEPS)
    assert set(mine.state) >= {"task", "ema", "optimizers", "loader", "progress"}
    assert differences(mine.state, theirs.state) == []
    assert differences(mine.per_rank, theirs.per_rank) == []
    assert metrics(run) == metrics(whole)


# ---------------------------------------------------------------- upstream's files


def test_a_run_starts_with_the_weights_of_an_upstream_file(whole: Path, upstream: Path, tmp_path: Path) -> None:
    done = invoke(
        "finetune",
        fourth_family.RECIPE,
        "--base",
        upstream,
        "--run-dir",
        tmp_path,
        "train.steps=4",
        "optim={lr: 1e-3, optimizers: {flow: {lr: 1e-3}}}",
        "sample.every=null",
    )
    assert done.exit_code == 0, done.stderr
    assert f"base {upstream.name}: {MODEL}" in " ".join(done.output.split())
    start = next(row for row in metrics(the_run(tmp_path)) if row["step"] == 0)
    end = next(row for row in metrics(whole) if row["step"] == STEPS and "eval/loss/total" in row)
    names = [name for name in end if name.startswith("eval/loss/") and "ema" not in name]
    assert {name: start[name] for name in names} == {name: end[name] for name in names}


def test_an_upstream_file_of_another_net_is_refused(upstream: Path, tmp_path: Path) -> None:
    contents = torch.load(upstream, weights_only=True)
    done = invoke("plan", fourth_family.RECIPE, "--base", upstream, "model.levels=[4,4,2]")
    assert (done.exit_code, "levels: [4, 4, 4] in the file, [4, 4, 2] in the recipe" in done.stderr) == (4, True)
    del contents["model"]["flow.blocks.0.query.weight"]
    damaged = write_upstream(tmp_path / "toy.pt", model=contents["model"], config=contents["config"])
    done = invoke("plan", fourth_family.RECIPE, "--base", damaged)
    assert (done.exit_code, "lacks 1 tensors, such as `flow.blocks.0.query.weight`" in done.stderr) == (4, True)


@pytest.mark.parametrize(("fixture", "kind", "step"), [("upstream", "base", 300), ("whole", "training", STEPS)])
def test_checkpoints_of_both_are_inspected(request: pytest.FixtureRequest, fixture: str, kind: str, step: int) -> None:
    path: Path = request.getfixturevalue(fixture)
    done = invoke("inspect-ckpt", path, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    wanted = {"family": "cosy", "kind": kind, "model": MODEL, "step": step, "nonfinite": [], "damaged": []}
    assert {key: told[key] for key in wanted} == wanted
    assert {part["name"] for part in told["modules"]} == {"llm", "flow"}


# ---------------------------------------------------------------- an installation with one more folder


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fourth_family.install(tmp_path_factory.mktemp("installation"))


def test_a_plan_counts_its_parameters_without_torch(installation: Path, whole: Path) -> None:
    done = fourth_family.run(installation, "plan", fourth_family.RECIPE, program=PLAN_WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    size = sum(tensor.numel() for tensor in checkpoint(whole, STEPS).state["task"].values())
    assert f"{size:,} parameters" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_its_folder_alone_is_found_by_worker_processes_too(installation: Path, whole: Path, tmp_path: Path) -> None:
    done = fourth_family.run(
        installation,
        "finetune",
        fourth_family.RECIPE,
        "data.features=disk",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.workers=1",
        "sample.every=null",
        f"run_dir={tmp_path / 'runs'}",
    )
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path / "runs")
    assert differences(checkpoint(run, STEPS).state["task"], checkpoint(whole, STEPS).state["task"]) == []
