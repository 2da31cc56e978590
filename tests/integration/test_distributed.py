"""Several processes train what one process trains, decide together, and never leave each other hanging."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import ranked
import torch
import torch.distributed as dist
from processes import Processes
from small_runs import checkpoint, command, differences, metrics, ttstrain, write_clips, write_recipe
from toys import Counting, Gan, Joint, Regression

from ttstrain.errors import DataError, OutOfMemoryError, PeerError, Preempted, RecipeError
from ttstrain.optim.settings import PACKAGES
from ttstrain.recipe.schema import OptimizerKind
from ttstrain.train.distributed import Ranks

TwoRanks = Callable[..., list[Any]]
STEPS = 6


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("task_class", [Regression, Joint, Gan, Counting])
def test_two_ranks_train_what_one_process_trains_on_the_same_clips(two: TwoRanks, task_class: type) -> None:
    alone = ranked.train_toy_alone(task_class, STEPS)
    ranks = two(ranked.train_toy, task_class, STEPS)
    assert differences(ranks[0].weights, ranks[1].weights) == []
    for rank in ranks:
        for mine, expected in [(rank.weights, alone.weights), (rank.average, alone.average)]:
            for name, tensor in expected.items():
                torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-6)
        for report, single in zip(rank.reports, alone.reports, strict=True):
            assert report.losses == pytest.approx(single.losses, rel=1e-6)
            assert report.metrics == pytest.approx(single.metrics, rel=1e-6)
            assert report.grad_norms == pytest.approx(single.grad_norms, rel=1e-5)
            assert report.group_norms == pytest.approx(single.group_norms, rel=1e-5)
            assert (report.num_frames, report.num_clips) == (single.num_frames, single.num_clips)
        assert {**rank.progress, "micro_batches": 0} == {**alone.progress, "micro_batches": 0}
        assert rank.progress["micro_batches"] == 2 * alone.progress["micro_batches"]
    assert any(norm > ranked.OPTIM.max_grad_norm for norm in alone.reports[0].grad_norms.values())


@pytest.mark.parametrize("task_class", [Gan, Counting])
def test_a_rank_with_a_single_micro_batch_trains_along(two: TwoRanks, task_class: type) -> None:
    """When its first optimizer steps, it has not met the other's loss yet, which the other rank has."""
    alone = ranked.train_unevenly_alone(task_class, STEPS)
    ranks = two(ranked.train_unevenly, task_class, STEPS)
    assert differences(ranks[0].weights, ranks[1].weights) == []
    for rank in ranks:
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(rank.weights[name], tensor, rtol=0, atol=1e-6)
        for report, single in zip(rank.reports, alone.reports, strict=True):
            assert report.losses == pytest.approx(single.losses, rel=1e-6)
            assert report.metrics == pytest.approx(single.metrics, rel=1e-6)


def test_every_optimizer_keeps_the_ranks_alike_bit_for_bit(two: TwoRanks) -> None:
    """Whatever its kind, the weights' dtype and the precision, and though each rank draws its own noise."""
    known = get_args(OptimizerKind)
    kinds = [kind for kind in known if kind not in PACKAGES or find_spec(PACKAGES[kind][0]) is not None]
    cases = [(kind, torch.float32, precision) for kind in kinds for precision in ("fp32", "bf16")]
    cases += [("adamw", torch.bfloat16, "fp32"), ("adamw", torch.bfloat16, "bf16")]
    first, second = two(ranked.train_with_each, cases, STEPS)
    for case, one, other in zip(cases, first, second, strict=True):
        assert len(one["moved"]) == 6, case
        assert one == other, case


def test_a_weight_that_no_rank_uses_stays_as_it_is_and_one_that_some_use_moves(two: TwoRanks) -> None:
    alone = ranked.train_toy_alone(ranked.Sparse, STEPS)
    ranks = two(ranked.train_toy, ranked.Sparse, STEPS)
    torch.manual_seed(3)
    untouched = ranked.Sparse().state_dict()
    for rank in ranks:
        assert torch.equal(rank.weights["never.weight"], untouched["never.weight"])
        assert not torch.equal(rank.weights["rare.weight"], untouched["rare.weight"])
        assert rank.moments["model"]["never.weight"] == {}
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(rank.weights[name], tensor, rtol=0, atol=1e-6)
        for name, moments in alone.moments["model"].items():
            assert moments.get("step") == rank.moments["model"][name].get("step"), name


@pytest.mark.parametrize("sizes", [(3, 5, 4, 1, 2), (7,)], ids=["uneven", "fewer batches than ranks"])
def test_a_shared_evaluation_is_the_evaluation_of_one_process(two: TwoRanks, sizes: tuple[int, ...]) -> None:
    alone = ranked.evaluate_with(Ranks(), Regression, sizes)
    shared = two(ranked.evaluate_toy, Regression, sizes)
    assert shared[0] == shared[1] == pytest.approx(alone, rel=1e-6)


def test_objects_and_sums_reach_every_rank(two: TwoRanks) -> None:
    for found in two(ranked.exchange):
        assert [own["rank"] for own in found["gathered"]] == [0, 1]
        assert found["gathered"][1]["tensor"].tolist() == [1, 1]
        assert found["broadcast"]["rank"] == 0
        assert found["sum"].tolist() == [3]
        assert (found["same"], found["drifted"]) == ([], ["apart"])
        assert found["drifted between cards of two kinds"] == ["far"]


def test_gpus_are_connected_before_anything_fills_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[torch.device] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: sums.append(tensor.device))
    Ranks(world_size=2).connect(torch.device("cpu"))
    assert sums == []
    monkeypatch.setattr(torch, "zeros", lambda *_, device: SimpleNamespace(device=device))
    Ranks(world_size=2).connect(torch.device("cuda", 1))
    Ranks().connect(torch.device("cuda", 1))
    assert sums == [torch.device("cuda", 1)]


# ---------------------------------------------------------------- the guard


def test_nan_on_one_rank_makes_both_skip(two: TwoRanks) -> None:
    ranks = two(ranked.meet_poison, Regression, math.nan, 3)
    for rank in ranks:
        assert rank["refused"] == {"model": "non_finite_loss"}
        assert differences(rank["after"], rank["before"]) == []
    assert [incident[0] for incident in ranks[0]["incidents"]] == ["skip"]
    assert ranks[0]["incidents"][0][1] == sorted(f"clip-{seed}-{i}" for seed in (2, 3) for i in range(4))
    assert ranks[1]["incidents"] == []  # the main rank writes
    assert differences(ranks[0]["end"], ranks[1]["end"]) == []
    assert ranks[0]["guard"] == ranks[1]["guard"]


@pytest.mark.parametrize(
    ("task_class", "poison", "max_skips", "stepped"),
    [(Regression, math.nan, 1, []), (Gan, math.inf, 3, ["discriminator"])],
    ids=["skips spent", "generator refused after its discriminator stepped"],
)
def test_both_ranks_go_back_together(
    two: TwoRanks, task_class: type, poison: float, max_skips: int, stepped: list[str]
) -> None:
    ranks = two(ranked.meet_poison, task_class, poison, max_skips)
    for rank in ranks:
        assert rank["stepped"] == stepped
        assert differences(rank["after"], rank["held"]) == []
        assert differences(rank["before"], rank["held"]) != []
        assert rank["guard"]["rollbacks"] == 1
    assert [(action, restored) for action, _, restored in ranks[0]["incidents"]] == [("rollback", 1)]
    assert differences(ranks[0]["end"], ranks[1]["end"]) == []


def test_memory_that_runs_out_on_one_rank_makes_both_take_smaller_pieces(two: TwoRanks) -> None:
    alone = ranked.train_toy_alone(Joint, 3)
    ranks = two(ranked.meet_memory, Joint, 6, 1)
    assert differences(ranks[0]["weights"], ranks[1]["weights"]) == []
    for rank in ranks:
        assert (rank["taken"], rank["limit"]) == ([True, True, True], 3)
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(rank["weights"][name], tensor, rtol=0, atol=1e-6)
    assert [len(rank["notes"]) for rank in ranks] == [1, 0]


def test_half_a_step_of_one_rank_is_taken_back_by_both(two: TwoRanks) -> None:
    ranks = two(ranked.meet_memory, Gan, 2, 0)
    assert differences(ranks[0]["weights"], ranks[1]["weights"]) == []
    for rank in ranks:
        assert (rank["taken"], rank["limit"]) == ([False, True, True], 1)
    assert "back to step 0" in ranks[0]["notes"][0]


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


@pytest.fixture(scope="module")
def finished(two: TwoRanks, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two ranks' uninterrupted run of 8 steps; it keeps a checkpoint of every step."""
    return two(ranked.finetune_and_tell, recipe, f"run_dir={tmp_path_factory.mktemp('whole')}", "name=whole")


def test_ranks_end_with_the_same_weights_and_the_same_best(finished: list[dict[str, Any]]) -> None:
    one, other = finished
    assert one["folder"] == other["folder"]
    assert differences(one["weights"], other["weights"]) == []
    assert differences(one["weights"], checkpoint(one["folder"], 8).state["task"]) == []
    assert one["best"] == other["best"]
    assert one["progress"] == other["progress"]
    assert not torch.equal(one["rng"], other["rng"])  # each rank draws noise of its own


def test_one_rank_writes_and_counts_for_all(finished: list[dict[str, Any]], recipe: Path, tmp_path: Path) -> None:
    run = finished[0]["folder"]
    assert [folder.name for folder in run.parent.iterdir()] == ["whole"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(9))
    # one process with twice the accumulation reads the same stream
    alone = ranked.finetune(recipe, f"run_dir={tmp_path}", "name=alone", "train.accumulate=4")
    whole, single = checkpoint(run, 8), checkpoint(alone, 8)
    assert whole.state["progress"] == single.state["progress"]
    assert whole.state["loader"] == single.state["loader"]
    assert len(whole.per_rank) == 2
    first = json.loads((alone / "metrics.jsonl").read_text().splitlines()[0])
    assert rows[0]["eval/loss/total"] == pytest.approx(first["eval/loss/total"], rel=1e-6)


def cut(run: Path, folder: Path, *, at: int) -> Path:
    """Copy a run as it was at a step."""
    shutil.copytree(run, folder)
    for step in range(at + 1, 9):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    (folder / "checkpoints" / "last").write_text(f"step-{at:08d}\n")
    (folder / "checkpoints" / "best").unlink()
    return folder


def test_as_many_ranks_go_on_bitwise(two: TwoRanks, finished: list[dict[str, Any]], tmp_path: Path) -> None:
    run = cut(finished[0]["folder"], tmp_path / "run", at=3)
    assert two(ranked.resume, run) == [run, run]
    whole, resumed = checkpoint(finished[0]["folder"], 8), checkpoint(run, 8)
    assert differences(resumed.state, whole.state) == []
    assert differences(resumed.per_rank, whole.per_rank) == []


def test_another_number_of_ranks_goes_on_from_the_same_clips(
    two: TwoRanks, recipe: Path, finished: list[dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = cut(finished[0]["folder"], tmp_path / "run", at=3)
    ranked.resume(run, "train.steps=9")  # on one process: 12 micro-batches, then 2 in each of steps 4 to 9
    assert "random generators are newly seeded: saved by 2 processes, resumed by 1" in capfd.readouterr().err
    two(ranked.resume, run, "train.steps=10")  # 4 more
    alone = ranked.finetune(recipe, f"run_dir={tmp_path}", "name=alone", "train.steps=14", "eval.every=null")
    for step, micro_batches, processes in [(4, 14, 1), (9, 24, 1), (10, 28, 2)]:
        resumed, single = checkpoint(run, step), checkpoint(alone, micro_batches // 2)
        assert resumed.state["loader"] == single.state["loader"]
        assert {**resumed.state["progress"], "step": 0} == {**single.state["progress"], "step": 0}
        assert len(resumed.per_rank) == processes


def test_one_rank_checks_the_data_and_each_computes_its_share_of_the_features(
    two: TwoRanks, recipe: Path, tmp_path: Path
) -> None:
    place = [f"run_dir={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}", "train.steps=3"]
    main, other = two(ranked.finetune_counting, recipe, *place)
    assert (main, other) == ({"audits": 1, "features": 4}, {"audits": 0, "features": 4})


def test_ranks_stop_early_together(two: TwoRanks, recipe: Path, tmp_path: Path) -> None:
    stop = "train.early_stop={patience: 2, min_delta: 100}"
    results = two(ranked.finetune_and_tell, recipe, f"run_dir={tmp_path}", stop)
    assert [result["progress"]["step"] for result in results] == [6, 6]  # the first evaluation is better than none


def test_nan_on_one_rank_of_a_whole_run_is_one_incident(two: TwoRanks, recipe: Path, tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "name=n", "guard.max_skips=1", "guard.snapshot_every=2", "train.accumulate=1"]
    run, same = two(ranked.finetune_poisoned, 1, 4, recipe, *place)
    assert run == same == tmp_path / "n"
    (written,) = (run / "incidents").iterdir()
    incident = json.loads(written.read_text())
    assert (incident["step"], incident["action"], incident["restored_step"]) == (3, "rollback", 2)
    assert incident["clips"]
    assert checkpoint(run, 8).state["loader"]["excluded"] == []  # one failure is no proof


# ---------------------------------------------------------------- stopping and failing


def test_a_signal_to_one_rank_stops_all_after_that_step(two: TwoRanks, recipe: Path, tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "name=s", "checkpoint.every=100", "eval.every=null"]
    main, other = two(ranked.finetune_signalled, signal.SIGTERM, 1, 3, recipe, *place)
    assert (type(main), type(other)) == (Preempted, PeerError)
    assert (other.exit_code, other.told) == (75, True)
    assert [folder.name for folder in (tmp_path / "s" / "checkpoints").glob("step-*")] == ["step-00000003"]


@pytest.mark.parametrize(("ask", "measured"), [("finetune_signalled", True), ("finetune_signalled_twice", False)])
def test_a_signal_to_one_rank_in_the_last_step_lets_all_evaluate_what_is_saved(
    two: TwoRanks, recipe: Path, tmp_path: Path, *, ask: str, measured: bool
) -> None:
    place = [f"run_dir={tmp_path}", "name=s", "checkpoint.every=100"]
    main, other = two(getattr(ranked, ask), signal.SIGTERM, 1, 8, recipe, *place)
    run = tmp_path / "s"
    assert main == other == run
    saved = checkpoint(run, 8)
    assert ("eval/loss/total" in saved.meta.metrics) == measured
    assert ("eval/loss/total" in metrics(run)[-1]) == measured
    assert saved.state["progress"].get("owes_evaluation", False) != measured


@pytest.mark.parametrize("on_rank", [0, 1])
def test_a_wish_to_stop_that_one_rank_sees_stops_all(two: TwoRanks, recipe: Path, tmp_path: Path, on_rank: int) -> None:
    place = [f"run_dir={tmp_path}", "name=s"]
    results = two(ranked.finetune_stopped, on_rank, 5, tmp_path / "s", recipe, *place)
    assert [result["progress"]["step"] for result in results] == [5, 5]
    assert not (tmp_path / "s" / "STOP").exists()


@pytest.mark.parametrize("on_rank", [0, 1])
@pytest.mark.parametrize("where", ["device", "build"])
def test_a_rank_that_fails_before_training_lets_the_others_go(
    two: TwoRanks, recipe: Path, tmp_path: Path, where: str, on_rank: int
) -> None:
    started = time.monotonic()
    results = two(ranked.finetune_broken, on_rank, where, DataError("broken"), recipe, f"run_dir={tmp_path}")
    failed, other = results[on_rank], results[1 - on_rank]
    assert (type(failed), failed.message) == (DataError, "broken")
    assert (type(other), other.exit_code, other.told) == (PeerError, 3, True)
    assert time.monotonic() - started < 10


def test_an_error_of_all_ranks_is_said_by_the_first(two: TwoRanks, recipe: Path, tmp_path: Path) -> None:
    main, other = two(ranked.finetune, recipe, f"run_dir={tmp_path}", "data.batch_frames=10")
    assert isinstance(main, RecipeError)
    assert (type(other), other.exit_code, other.told) == (PeerError, 2, True)


def test_a_rank_that_fails_in_a_step_does_not_leave_the_others_waiting(
    two: TwoRanks, recipe: Path, tmp_path: Path
) -> None:
    main, failed = two(ranked.finetune_broken, 1, "step", OutOfMemoryError("full"), recipe, f"run_dir={tmp_path}")
    assert type(failed) is OutOfMemoryError
    assert (type(main), main.exit_code, main.told) == (PeerError, 1, False)
    assert "lost the other processes" in main.message


# ---------------------------------------------------------------- processes of the command line


def start_run(recipe: Path, folder: Path, *overrides: str, launcher: list[str] | None = None) -> subprocess.Popen[str]:
    """Start `finetune` in two processes; without a terminal its output is plain lines on stderr."""
    arguments = ["finetune", recipe, f"run_dir={folder}", "name=run", *overrides]
    line = command(*arguments, "--nproc", "2") if launcher is None else [*launcher, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").is_file() or f'{{"step": {step},' not in (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)


def children_of(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in found.read_text().split()]


ELASTIC = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ELASTIC += ["--max-restarts", "3", "-m", "ttstrain"]
EARLY, LATE = "debug.inject=[lost_rank@1]", "debug.inject=[lost_rank@6]"


@pytest.mark.parametrize(
    ("launcher", "fault"),
    [(None, "debug.inject=[]"), (None, LATE), (ELASTIC, LATE), (None, EARLY)],
    ids=["--nproc", "--nproc, a rank killed", "torchrun, a rank killed", "--nproc, killed before a checkpoint"],
)
def test_both_launchers_train_the_same_also_where_a_rank_is_killed(
    finished: list[dict[str, Any]], recipe: Path, tmp_path: Path, launcher: list[str] | None, fault: str
) -> None:
    """Step 5 is in no checkpoint, but in the snapshot that the process that is left saves."""
    process = start_run(recipe, tmp_path, fault, "checkpoint.every=3", "guard.snapshot_every=1", launcher=launcher)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert [folder.name for folder in tmp_path.iterdir()] == ["run"]
    whole, run = finished[0]["folder"], tmp_path / "run"
    counted = [{key: value for key, value in row.items() if key != "debug/injected"} for row in metrics(run)]
    assert counted == metrics(whole)
    assert said.count("done: step 8/8") == 1
    one, other = checkpoint(whole, 8), checkpoint(run, 8)
    assert [leaf for leaf in differences(other.state, one.state) if not leaf.startswith("guard.")] == []
    assert differences(other.per_rank, one.per_rank) == []
    told = [json.loads(path.read_text()) for path in sorted(run.glob("incidents/*"))]
    assert [incident["restored_step"] for incident in told] == {EARLY: [0], LATE: [5]}.get(fault, [])
    assert [incident["kind"] for incident in told] == ["lost_process"] * len(told)
    assert said.count("all were started again (restart 1)") == len(told)
    assert said.count("all start again (restart 1 of 3)") == (len(told) if launcher is None else 0)
    assert "newly seeded" not in said


LONG = ["train.steps=100000", "checkpoint.every=100000", "eval.every=null"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_the_launcher_saves_and_passes_the_code_on(
    recipe: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start_run(recipe, tmp_path, *LONG)
    wait_for_step(tmp_path / "run", 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert said.count("finishing this step and saving") == 1
    assert said.count(f"saved `{saved}`") == 1
    assert said.count("error:") == 1


def test_a_killed_process_ends_all_soon_and_is_named(recipe: Path, tmp_path: Path) -> None:
    process = start_run(recipe, tmp_path, *LONG, "--max-restarts", "0")
    wait_for_step(tmp_path / "run", 3)
    _, second = children = children_of(process)
    os.kill(second, signal.SIGKILL)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, said
    assert time.monotonic() - started < 30
    assert "error: the process of rank 1 was killed by SIGKILL" in said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_bad_data_are_told_once_with_their_code(recipe: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    failed = ttstrain("finetune", recipe, "--data", empty, "--nproc", "2", cwd=tmp_path)
    assert failed.returncode == 3, failed.stderr
    assert failed.stderr.count("error:") == 1
    assert "Traceback" not in failed.stderr


def test_a_bad_recipe_starts_no_process(recipe: Path, tmp_path: Path) -> None:
    failed = ttstrain("finetune", recipe, "optim.lrr=1", "--nproc", "2", cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.count("error:") == 1
