"""Processes that each hold some rows of every weight train what whole copies train, and what one process trains."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ranked
import ranked_shards
import soundfile
import torch
from processes import Processes
from small_runs import checkpoint, cut_off, differences, flat, metrics, ttstrain, write_clips, write_recipe
from toys import Counting, Gan, Joint, Regression

from ttstrain.errors import OutOfMemoryError, PeerError, Preempted, RecipeError
from ttstrain.plan.parallel import SHARDABLE

SomeRanks = Callable[..., list[Any]]
STEPS = 4
TASKS = (Regression, Joint, Gan, Counting, ranked.Sparse, ranked_shards.Stack)
CLOSE = 1e-6
CLOSE_MOMENTS = 5e-6  # of every family's own task: a processor may sum a convolution's gradient in another order


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2, timeout_s=300.0)  # a VAE-GAN's steps take long where other programs run
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Processes]:
    processes = Processes(4, timeout_s=120.0)
    yield processes
    processes.close()


# ---------------------------------------------------------------- steps


def check_close(found: Any, expected: Any, *, atol: float = CLOSE) -> None:
    """Compare every tensor and number of two state trees."""
    one, other = flat(found), flat(expected)
    assert one.keys() == other.keys()
    for name, leaf in other.items():
        if isinstance(leaf, torch.Tensor):
            torch.testing.assert_close(one[name], leaf, rtol=0, atol=atol, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize(("world_size", "shard"), [(2, 2), (4, 2), (4, 4)], ids=["2", "2 x 2", "4"])
def test_shards_train_what_one_process_trains(two: SomeRanks, four: SomeRanks, world_size: int, shard: int) -> None:
    ranks = (two if world_size == 2 else four)(ranked_shards.train_each, TASKS, STEPS, shard)
    for number, task_class in enumerate(TASKS):
        alone = ranked_shards.train_alone(task_class, STEPS, world_size)
        for rank in ranks:
            mine = rank[number]
            for part in ("task", "ema", "optimizers"):
                check_close(mine.state[part], alone.state[part])
            assert mine.evaluated == pytest.approx(alone.evaluated, rel=1e-5)
            for report, single in zip(mine.reports, alone.reports, strict=True):
                assert report.losses == pytest.approx(single.losses, rel=1e-6)
                assert report.grad_norms == pytest.approx(single.grad_norms, rel=1e-5)
                assert report.group_norms == pytest.approx(single.group_norms, rel=1e-5)
                assert report.update_ratios == pytest.approx(single.update_ratios, rel=1e-4)
        assert any(norm > ranked.OPTIM.max_grad_norm for norm in alone.reports[0].grad_norms.values())
        parts = sum(rank[number].held for rank in ranks)
        assert parts == world_size // shard * alone.held  # each group of ranks holds the weights once


def test_every_optimizer_that_may_shard_trains_alike(two: SomeRanks) -> None:
    for kind in sorted(SHARDABLE):
        alone = ranked_shards.train_alone(Regression, STEPS, 2, kind)
        for rank in two(ranked_shards.train_each, [Regression], STEPS, 2, kind):
            for part in ("task", "optimizers"):
                # Lion moves by the sign of a gradient, which rounding may turn where it is near zero.
                check_close(rank[0].state[part], alone.state[part], atol=1e-5 if kind == "lion" else CLOSE)


@pytest.mark.parametrize("shape", [(7, 5), (3,), (1, 9)], ids=str)
def test_shards_of_bf16_weights_round_as_the_whole_does(two: SomeRanks, shape: tuple[int, ...]) -> None:
    for rank in two(ranked_shards.round_alike, shape, 3):
        assert torch.equal(rank["sharded"], rank["alone"])
        assert not torch.equal(rank["alone"], rank["start"])


# ---------------------------------------------------------------- the guard


def test_nan_on_one_rank_makes_all_skip(two: SomeRanks) -> None:
    for rank in two(ranked_shards.meet_poison, ranked_shards.Stack, 3, None):
        assert rank["refused"] == {"model": "non_finite_loss"}
        assert differences(rank["after"], rank["before"]) == []
        assert differences(rank["end"], rank["after"]) != []


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_shards_go_back_together(two: SomeRanks, tmp_path: Path, kind: str) -> None:
    ranks = two(ranked_shards.meet_poison, ranked_shards.Stack, 1, str(tmp_path) if kind == "disk" else None)
    for rank in ranks:
        assert rank["guard"]["rollbacks"] == 1
        assert differences(rank["before"], rank["held"]) != []
        assert differences(rank["after"], rank["held"]) == []
        assert all(math.isfinite(float(leaf.sum())) for leaf in flat(rank["end"]["task"]).values())
    assert differences(ranks[0]["end"], ranks[1]["end"]) == []


def test_memory_that_runs_out_on_one_rank_ends_the_run(recipe: Path, tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "name=m", "train.parallel.shard=2", "debug.inject=[oom@3]"]
    ended = ttstrain("finetune", recipe, "--nproc", "2", *place)
    assert ended.returncode == OutOfMemoryError.exit_code
    assert "memory ran out in step 3, which all processes of a sharded run compute together" in ended.stderr
    assert "step-00000002` is its last checkpoint" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_processes_that_do_not_run_the_same_forwards_are_told(two: SomeRanks) -> None:
    for said in two(ranked_shards.count_apart):
        assert "another process another number" in said


def test_drift_is_found_between_ranks_that_hold_the_same_rows(four: SomeRanks) -> None:
    for found in four(ranked_shards.drift):
        assert found == {"nothing": [], "weight": ["head.weight"], "buffer": ["seen", "head.weight"]}


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


@pytest.fixture(scope="module")
def runs(two: SomeRanks, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of two ranks, of 4 steps: with whole copies, and with shards."""
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for name, shard in (("copies", 1), ("shards", 2)):
        place = [f"run_dir={root}", f"name={name}", "train.steps=4", f"train.parallel.shard={shard}"]
        made[name], _ = two(ranked.finetune, recipe, *place)
    return made


def test_a_sharded_run_is_the_run_of_whole_copies(runs: dict[str, Path]) -> None:
    shards, copies = checkpoint(runs["shards"], 4), checkpoint(runs["copies"], 4)
    for part in ("task", "ema", "optimizers"):
        check_close(shards.state[part], copies.state[part])
    assert shards.state["loader"] == copies.state["loader"]
    assert shards.per_rank[0]["torch"].equal(copies.per_rank[0]["torch"])
    for one, other in zip(metrics(runs["shards"]), metrics(runs["copies"]), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-7)


EVERY_TASK = {
    "smoke/gpt_sovits_gpt": ["optim.kind=adamw"],
    "smoke/gpt_sovits_vae": [],
    "smoke/gpt_sovits_joint": ["optim.kind=adamw"],
    "smoke/orpheus": [],
    "smoke/flow": ["model.backbone=unett", "model.depth=2"],
}

SPEAK = {"smoke/gpt_sovits_joint", "smoke/orpheus", "smoke/flow"}  # the others lack files that do not ship


@pytest.mark.parametrize("smoke", EVERY_TASK)
def test_every_task_trains_in_shards_as_in_whole_copies(two: SomeRanks, tmp_path: Path, smoke: str) -> None:
    # With a usual `eps`, AdamW's first steps are the signs of gradients, also of those that are only rounding.
    short = ["train.steps=2", "eval.every=2", "checkpoint.every=2", "train.measure_every=1"]
    short += ["sample.every=2", "sample.count=1", "judge.enabled=false"]
    fixed = ["data.workers=0", "tracking.wandb=off", "optim.lr=1e-4", "optim.eps=1e-3", f"run_dir={tmp_path}"]
    found = []
    for shard in (1, 2):
        place = [f"name=by-{shard}", f"train.parallel.shard={shard}"]
        run, _ = two(ranked.finetune, smoke, *EVERY_TASK[smoke], *short, *fixed, *place)
        found.append(run)
    copies, shards = (checkpoint(run, 2) for run in found)
    for part in {"task", "ema", "optimizers"} & copies.state.keys():
        atol = CLOSE_MOMENTS if part == "optimizers" else CLOSE
        check_close(shards.state[part], copies.state[part], atol=atol)
    for one, other in zip(*map(metrics, found), strict=True):
        losses = [key for key in other if "loss" in key]
        assert losses
        assert [one[key] for key in losses] == pytest.approx([other[key] for key in losses], rel=1e-5)
    said = [{path.name: soundfile.read(path)[0] for path in run.glob("samples/step-00000002/*.wav")} for run in found]
    assert said[0].keys() == said[1].keys()
    assert bool(said[0]) == (smoke in SPEAK)
    for name, one in said[0].items():
        assert said[1][name] == pytest.approx(one, abs=1e-2)


def test_adapters_train_in_shards(two: SomeRanks, recipe: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    base = f"base={runs['copies'] / 'checkpoints' / 'step-00000004'}"
    found = []
    for shard in (1, 2):
        place = [f"run_dir={tmp_path}", f"name=by-{shard}", f"train.parallel.shard={shard}"]
        run, _ = two(ranked.finetune, recipe, base, "lora.rank=2", "train.steps=4", *place)
        found.append(run)
    copies, shards = (checkpoint(run, 4) for run in found)
    assert any("lora" in name for name in copies.state["optimizers"]["model"])
    for part in ("task", "ema", "optimizers"):
        check_close(shards.state[part], copies.state[part])


def test_checkpoints_of_shards_are_those_of_whole_copies(runs: dict[str, Path]) -> None:
    """Whoever reads them does not see how they were trained."""
    names = [sorted(path.name for path in (run / "checkpoints").glob("step-00000004/*")) for run in runs.values()]
    assert names[0] == names[1]


def test_as_many_shards_go_on_bitwise(two: SomeRanks, recipe: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    run = cut_off(shutil.copytree(runs["shards"], tmp_path / "run"), after=2)
    assert two(ranked.resume, run)[0] == run
    whole, resumed = checkpoint(runs["shards"], 4), checkpoint(run, 4)
    assert differences(resumed.state, whole.state) == []
    assert differences(resumed.per_rank, whole.per_rank) == []


def test_another_number_of_ranks_goes_on_from_shards(two: SomeRanks, runs: dict[str, Path]) -> None:
    run = runs["shards"]
    before = checkpoint(run, 4)
    ranked.resume(run, "train.steps=5", "train.parallel.shard=1")  # in one process
    assert checkpoint(run, 5).state["progress"]["step"] == 5
    assert two(ranked.resume, run, "train.steps=6", "train.parallel.shard=2")[0] == run
    after = checkpoint(run, 6)
    assert after.state["progress"]["step"] == 6
    assert differences(after.state["task"], before.state["task"]) != []


def test_shards_speak_when_asked(two: SomeRanks, recipe: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "name=asked", "train.parallel.shard=2", "train.steps=4"]
    speaks = ["sample={every: 4, count: 1}", "judge.enabled=false"]
    run, _ = two(ranked.finetune_asked_to_speak, 2, "What a day!", tmp_path / "asked", recipe, *place, *speaks)
    spoken = {path.parent.name for path in run.glob("samples/step-*/asked-*.wav")}
    assert len(spoken) == 1 and spoken < {f"step-{step:08d}" for step in range(1, 4)}
    assert list(run.glob("samples/step-00000004/*.ema.wav"))
    assert differences(checkpoint(run, 4).state, checkpoint(runs["shards"], 4).state) == [], "training goes on alike"


def test_a_signal_while_the_first_rank_speaks_ends_all(two: SomeRanks, recipe: Path, tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "name=ended", "train.parallel.shard=2", "train.steps=4"]
    speaks = ["sample={every: 2, count: 1}", "judge.enabled=false"]
    main, other = two(ranked.finetune_signalled_speaking, signal.SIGTERM, 2, recipe, *place, *speaks)
    assert (type(main), type(other)) == (Preempted, PeerError)
    assert checkpoint(tmp_path / "ended", 2).state["progress"]["step"] == 2


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.parallel.shard=2"], "`train.parallel.shard` is 2, and the run has 1 process"),
        (["train.parallel={shard: 1, replicate: 3}"], "asks for 3 times 1 processes, and the run has 1 process"),
    ],
    ids=["shard", "replicate"],
)
def test_processes_that_are_not_there_are_refused(
    recipe: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(RecipeError, match=said.replace("`", ".")) as refused:
        ranked.finetune(recipe, f"run_dir={tmp_path}", *overrides)
    assert "--nproc" in (refused.value.hint or "")


def test_an_optimizer_that_looks_at_whole_tensors_is_refused(two: SomeRanks, recipe: Path, tmp_path: Path) -> None:
    place = [f"run_dir={tmp_path}", "train.parallel.shard=2", "optim.kind=scaled_adam"]
    error, _ = two(ranked.finetune, recipe, *place)
    assert isinstance(error, RecipeError)
    assert "looks at whole tensors" in str(error)
