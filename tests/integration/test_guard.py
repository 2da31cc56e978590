"""The whole loop when something goes wrong in it: skipped, rolled back, given up, and never without a good state."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import checkpoint, differences, finetune, metrics, same, ttstrain, write_clips, write_recipe

from ttstrain.checkpoint import store
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.task import Loss
from ttstrain.errors import CheckpointError, DivergedError, OutOfMemoryError, Preempted
from ttstrain.families.flow.task import FlowTask
from ttstrain.runs.resume import resume
from ttstrain.tensors.finite import non_finite
from ttstrain.train import loop, recovery
from ttstrain.train.run import Run

NAN = math.nan


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


class Poison:
    """Spoils the loss of chosen attempts at a step, and writes down what every attempt was made of."""

    def __init__(self) -> None:
        self.spoil: Callable[[int], float | None] = lambda attempt: None  # attempt from 1 -> factor of its loss
        self.attempts: list[list[str]] = []  # clips of each attempt
        self.reports: list[Any] = []
        self.runs: list[Run] = []


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    poison = Poison()
    losses, step = FlowTask.losses, loop.train_step

    def spoiled(self: FlowTask, batch: Any) -> Iterator[Loss]:
        factor = poison.spoil(len(poison.attempts))
        for loss in losses(self, batch):
            yield loss if factor is None else replace(loss, value=loss.value * factor)

    def noted(run: Run, batches: Any, **options: Any) -> Any:
        poison.attempts.append([clip for batch in batches for clip in batch.ids])
        poison.runs = [run]
        report = step(run, batches, **options)
        poison.reports.append(report)
        return report

    monkeypatch.setattr(FlowTask, "losses", spoiled)
    monkeypatch.setattr(loop, "train_step", noted)
    return poison


def incidents(run: Path) -> list[dict[str, Any]]:
    """Read the incidents in the order in which they were written; the names sort otherwise."""
    paths = sorted((run / "incidents").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in paths]


def finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def at(*attempts: int, factor: float = NAN) -> Callable[[int], float | None]:
    return lambda attempt: factor if attempt in attempts else None


# ---------------------------------------------------------------- skipped


def test_a_bad_step_is_skipped_and_training_goes_on(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(3, 6)
    run = finetune(recipe, tmp_path, "name=r")
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["guard/skipped"] for row in rows] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    state = checkpoint(run, 8).state
    assert finite(state["task"])
    assert finite(state["ema"]["weights"])
    assert (state["guard"]["skipped"], state["guard"]["rollbacks"], state["loader"]["excluded"]) == (2, 0, [])
    assert len(poison.attempts) == 10


def test_a_refused_step_changes_neither_weights_nor_moments_nor_average(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Mapping[str, Any]] = []
    recover = recovery.after_refusal

    def look(run: Run, *arguments: Any, **options: Any) -> bool:
        seen.append(run.state.snapshot())
        return recover(run, *arguments, **options)

    monkeypatch.setattr(recovery, "after_refusal", look)
    poison.spoil = at(4)
    run = finetune(recipe, tmp_path, "name=r")
    before = checkpoint(run, 3).state
    (after,) = seen
    assert {part for part in before if differences(before[part], after[part])} == {"progress", "loader"}
    assert after["progress"]["step"] == before["progress"]["step"] == 3


def test_an_incident_names_the_clips_and_what_was_seen(
    recipe: Path, tmp_path: Path, poison: Poison, capfd: pytest.CaptureFixture[str]
) -> None:
    poison.spoil = at(3)
    run = finetune(recipe, tmp_path, "name=r")
    (incident,) = incidents(run)
    assert sorted(path.name for path in (run / "incidents").iterdir()) == ["00000002-non_finite_loss.json"]
    assert incident["clips"] == poison.attempts[2]
    assert (incident["step"], incident["kind"], incident["action"]) == (2, "non_finite_loss", "skip")
    assert (incident["loss"], incident["optimizer"], incident["restored_step"]) == ("nan", "model", None)
    assert incident["lrs"] == {"model/default": pytest.approx(1e-3)}
    said = capfd.readouterr().err.replace("\n", " ")
    assert "skip: non finite loss" in said
    assert poison.attempts[2][0] in said


# ---------------------------------------------------------------- rolled back


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Collect the state after every rollback."""
    from ttstrain.train import snapshot

    seen: list[Mapping[str, Any]] = []
    for kind in (snapshot.MemorySnapshots, snapshot.DiskSnapshots):
        restore = kind.restore

        def look(self: Any, state: Any, restore: Any = restore) -> None:
            restore(self, state)
            seen.append(state.snapshot())

        monkeypatch.setattr(kind, "restore", look)
    return seen


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_three_bad_steps_in_a_row_go_back_to_the_snapshot_bit_for_bit(
    recipe: Path, tmp_path: Path, poison: Poison, restored: list[Mapping[str, Any]], place: str
) -> None:
    poison.spoil = at(6, 7, 8)
    run = finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=4", f"guard.snapshot={place}")
    (state,), snapshot = restored, checkpoint(run, 4).state
    for part in ("task", "optimizers", "ema", "progress"):
        assert differences(state[part], snapshot[part]) == [], part
    assert [incident["action"] for incident in incidents(run)] == ["skip", "skip", "rollback"]
    assert incidents(run)[-1]["restored_step"] == 4
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert [row["guard/rollbacks"] for row in rows] == 5 * [0] + 4 * [1]
    assert {path.name for path in run.iterdir()}.isdisjoint({"snapshot-rank-0"})


ONE_CLIP = ["guard.snapshot_every=4", "train.accumulate=1", "data.batch_frames=140"]  # in a batch, so some are left


def spoil_clip(poison: Poison, number: int = 5) -> list[str]:
    """Let every batch fail that holds the clip of one attempt; the list holds it once it was met."""
    bad: list[str] = []

    def spoil(attempt: int) -> float | None:
        if attempt == number and not bad:  # it is also asked when the refused batch is examined
            bad.extend(poison.attempts[-1])
        return NAN if set(bad) & set(poison.attempts[-1]) else None

    poison.spoil = spoil
    return bad


def test_a_clip_whose_batches_fail_again_and_again_is_left_out(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    bad = spoil_clip(poison)
    run = finetune(recipe, tmp_path, "name=r", *ONE_CLIP, "train.steps=16")
    assert [incident["action"] for incident in incidents(run)] == ["skip", "skip", "skip", "skip", "exclude"]
    assert incidents(run)[-1]["clips"] == bad
    assert checkpoint(run, 16).state["loader"]["excluded"] == bad
    tried = [i for i, clips in enumerate(poison.attempts) if clips == bad]
    assert tried[0] + 1 == tried[1]  # at once
    assert tried[2] + 1 == tried[3]  # and in the next epoch
    assert len(tried) == 4
    assert checkpoint(run, 16).state["guard"]["rollbacks"] == 0


def test_a_clip_stays_when_asked_to(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    spoil_clip(poison)
    run = finetune(recipe, tmp_path, "name=r", *ONE_CLIP, "train.steps=16", "guard.exclude=false")
    assert checkpoint(run, 16).state["loader"]["excluded"] == []


def test_clips_stay_when_nothing_would_be_left(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(3, 4, 6, 7)
    run = finetune(recipe, tmp_path, "name=r", "data.batch_frames=2000")
    assert len(set(poison.attempts[7])) == 6  # all there are
    assert checkpoint(run, 8).state["loader"]["excluded"] == []
    assert "without them no data would be left" in incidents(run)[-1]["notes"][0]


def test_a_batch_that_goes_well_the_second_time_loses_nothing(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(6, 9)
    run = finetune(recipe, tmp_path, "name=r", *ONE_CLIP)
    assert poison.attempts[6] == poison.attempts[5]
    state = checkpoint(run, 8).state
    assert (state["loader"]["excluded"], state["guard"]["suspects"], state["guard"]["rollbacks"]) == ([], [], 0)
    assert [row["step"] for row in metrics(run) if "train/loss/model" in row] == list(range(1, 9))


def test_batches_that_fail_in_a_row_accuse_the_weights_and_no_clip(
    recipe: Path, tmp_path: Path, poison: Poison
) -> None:
    poison.spoil = at(6, 7, 8, 10, 11, 12)
    run = finetune(recipe, tmp_path, "name=r", *ONE_CLIP)
    assert [incident["action"] for incident in incidents(run)] == 2 * ["skip", "skip", "rollback"]
    state = checkpoint(run, 8).state
    assert (state["loader"]["excluded"], state["guard"]["suspects"]) == ([], [])


SPIKES = ["train.steps=10", "guard={window: 5, spike: 12, snapshot_every: 3}"]


def test_a_spike_is_refused_and_its_batch_tried_once_more(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(8, factor=1e4)
    run = finetune(recipe, tmp_path, "name=r", *SPIKES)
    (incident,) = incidents(run)
    assert (incident["kind"], incident["action"], incident["restored_step"]) == ("spike", "skip", None)
    assert poison.attempts[8] == poison.attempts[7]
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert max(row["train/loss/model"] for row in rows) < 100


def test_spikes_in_a_row_go_back(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(8, 9, 10, factor=1e4)
    run = finetune(recipe, tmp_path, "name=r", *SPIKES)
    assert [(i["kind"], i["action"]) for i in incidents(run)] == [
        ("spike", "skip"),
        ("spike", "skip"),
        ("spike", "rollback"),
    ]
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]


RETAKEN = ["ema.enabled=false", "eval.every=1", "guard={max_skips: 1, snapshot_every: 3}"]


def best_before_a_rollback(
    poison: Poison, patch: pytest.MonkeyPatch, *retaken: float, then: Callable[[], object] = lambda: None
) -> None:
    """Let step 7 be the best, and step 8 send the run back to 6; `then` comes in step 7 as it is taken again."""
    totals = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.9, 4.8, 1.0, *retaken])

    def evaluate(self: FlowTask, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(next(totals))}

    def spoil(attempt: int) -> float | None:
        if attempt == 9:
            then()
        return NAN if attempt == 8 else None

    patch.setattr(FlowTask, "evaluate", evaluate)
    poison.spoil = spoil


def best_of(run: Path) -> tuple[str, float | None]:
    name = (run / "checkpoints" / "best").read_text().strip()
    return name, checkpoint(run, int(name.removeprefix("step-"))).meta.metrics.get("eval/loss/total")


def test_a_best_from_after_the_step_that_a_run_goes_back_to_stays_until_there_is_a_better_one(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    best_before_a_rollback(poison, monkeypatch, 4.5, 4.25, 0.75, 4.7)
    run = finetune(recipe, tmp_path, "name=r", "train.steps=8", *RETAKEN)
    assert [row["step"] for row in metrics(run) if "train/loss/model" in row][6:9] == [7, 7, 8]
    assert best_of(run) == ("step-00000007", 1.0)  # and not what was measured as step 7 was taken again
    told = " ".join(capfd.readouterr().err.split())
    assert "step-00000007 stays the best so far (1.0000)" in told
    assert "no checkpoint of this step 7" in told
    (incident,) = incidents(run)
    assert "step-00000007 stays the best so far (1.0000)" in incident["notes"]
    assert resume(run, ["train.steps=10"]) == run
    assert best_of(run) == ("step-00000009", 0.75)


def test_a_better_state_of_the_same_step_takes_the_place_of_the_best(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_before_a_rollback(poison, monkeypatch, 0.5, 4.25)
    run = finetune(recipe, tmp_path, "name=r", *RETAKEN)
    assert best_of(run) == ("step-00000007", 0.5)


def test_a_save_that_cannot_wait_replaces_the_best_and_says_so(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    best_before_a_rollback(poison, monkeypatch, 4.5, 4.25, 4.75, then=lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted, match="after step 7"):
        finetune(recipe, tmp_path, "name=r", "train.steps=8", *RETAKEN)
    run = tmp_path / "r"
    told = " ".join(capfd.readouterr().err.split())
    assert "WARNING: step-00000007 was the best so far (1.0000)" in told
    assert "this save replaces it (not measured)" in told
    assert not (run / "checkpoints" / "best").exists()
    assert checkpoint(run, 7).state["best"]["step"] is None
    poison.spoil = at()
    resume(run, [])
    assert best_of(run) == ("step-00000008", 4.25)  # 4.5 was measured first, of the state that was saved


def test_a_best_whose_checkpoint_is_gone_is_forgotten(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_before_a_rollback(poison, monkeypatch, 4.5, 4.25)
    monkeypatch.setattr(CheckpointStore, "holds", lambda *_: False)
    run = finetune(recipe, tmp_path, "name=r", *RETAKEN)
    assert best_of(run) == ("step-00000008", 4.25)
    assert any("is not on disk: the best is reset" in note for note in incidents(run)[0]["notes"])


def test_a_rollback_lowers_the_lr_that_is_used_and_logged(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    settings = "guard={lr_factor: 0.5, snapshot_every: 4, max_skips: 1}"
    poison.spoil = at(6)
    run = finetune(recipe, tmp_path, "name=r", settings, "optim.schedule={kind: constant, warmup_steps: 0}")
    logged = [row["optim/lr/model/default"] for row in metrics(run) if "train/loss/model" in row]
    assert logged == used == 5 * [1e-3] + 4 * [5e-4]
    assert checkpoint(run, 8).meta.groups[0].lr == 5e-4
    assert resume(run, ["train.steps=9"]) == run
    assert metrics(run)[-1]["optim/lr/model/default"] == 5e-4  # a resumed run remembers


def test_snapshots_on_disk_and_in_memory_train_alike(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    poison.spoil = at(4, 5, 6)
    ends = []
    for place in ("memory", "disk"):
        poison.attempts = []
        run = finetune(recipe, tmp_path, f"name={place}", "guard.snapshot_every=2", f"guard.snapshot={place}")
        ends.append((checkpoint(run, 8), metrics(run)))
    (memory, memory_rows), (disk, disk_rows) = ends
    assert differences(memory.state, disk.state) == []
    assert differences(memory.per_rank, disk.per_rank) == []
    assert memory_rows == disk_rows


# ---------------------------------------------------------------- given up


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_spent_budget_gives_up_and_leaves_a_good_checkpoint(
    recipe: Path, tmp_path: Path, poison: Poison, place: str
) -> None:
    poison.spoil = lambda attempt: NAN if attempt > 5 else None
    settings = f"guard={{max_rollbacks: 2, snapshot_every: 5, snapshot: {place}, exclude: false}}"
    with pytest.raises(DivergedError, match="failed again after 2 rollbacks") as caught:
        finetune(recipe, tmp_path, "name=r", settings, "checkpoint.every=8", "checkpoint.best=null")
    assert caught.value.exit_code == 5
    assert "checkpoints/step-00000005` is good" in str(caught.value.hint)
    assert len(poison.attempts) == 5 + 3 * 3
    assert [incident["action"] for incident in incidents(tmp_path / "r")] == [
        *("skip", "skip", "rollback"),
        *("skip", "skip", "rollback"),
        *("skip", "skip", "give up"),
    ]
    run = tmp_path / "r"
    held = checkpoint(run, 5)
    assert finite(held.state["task"])
    assert (held.meta.step, held.meta.schedule.position) == (5, 5)
    assert (run / "checkpoints" / "last").read_text() == "step-00000005\n"
    assert not (run / "snapshot-rank-0").exists()

    poison.spoil = at()
    resume(run, [])
    assert metrics(run)[-1]["step"] == 8


@pytest.mark.slow
def test_a_run_that_diverges_leaves_with_5(recipe: Path, tmp_path: Path) -> None:
    # without clipping, such an LR overflows float32 within steps
    done = ttstrain(
        *(
            "finetune",
            recipe,
            "--run-dir",
            tmp_path,
            "name=r",
            "optim={kind: sgd, lr: 1, momentum: 0.99, max_grad_norm: null}",
        ),
        *("optim.schedule.warmup_steps=0", "guard.max_rollbacks=1", "train.steps=50", "eval.every=null"),
    )
    assert done.returncode == 5, done.stderr
    assert "\nerror: step " in done.stderr
    assert "hint: " in done.stderr
    last = (tmp_path / "r" / "checkpoints" / "last").read_text().strip()
    assert finite(checkpoint(tmp_path / "r", int(last[-8:])).state["task"])


@pytest.mark.parametrize("every", [2, 100])
def test_out_of_memory_leaves_a_good_checkpoint(recipe: Path, tmp_path: Path, poison: Poison, every: int) -> None:
    def run_out(attempt: int) -> None:
        if attempt >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    poison.spoil = run_out
    with pytest.raises(OutOfMemoryError, match=r"step 4 did not fit in memory with the clip `.*` alone") as caught:
        finetune(recipe, tmp_path, "name=r", f"checkpoint={{every: {every}, best: null}}", "guard.snapshot_every=3")
    assert caught.value.exit_code == 6
    good = 3  # the snapshot's, newer than the checkpoint of step 2
    assert f"checkpoints/step-{good:08d}` is saved" in str(caught.value.hint)
    assert checkpoint(tmp_path / "r", good).meta.step == good


# ---------------------------------------------------------------- what must not be kept


def spoil_state(monkeypatch: pytest.MonkeyPatch, place: str, *, at_step: int, times: int = 1) -> list[str]:
    """Put NaN into the state after a step, behind the guard's back; return the names it was put under."""
    step, left, names = loop.train_step, [times], list[str]()

    def spoiled(run: Run, batches: Any, **options: Any) -> Any:
        report = step(run, batches, **options)
        if run.progress.step == at_step and left[0]:
            left[0] -= 1
            name, _ = next(iter(run.task.named_parameters()))
            state = run.state.state_dict()
            tensors = {
                "task": state["task"][name],
                "ema": run.ema and state["ema"]["weights"][name],
                "optimizers": state["optimizers"]["model"][name]["exp_avg_sq"],
            }
            with torch.no_grad():
                tensors[place].view(-1)[-1] = math.inf
            names.append(name)
        return report

    monkeypatch.setattr(loop, "train_step", spoiled)
    return names


@pytest.mark.parametrize("place", ["task", "ema", "optimizers"])
def test_a_state_that_is_not_finite_is_taken_back_before_it_is_kept(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    names = spoil_state(monkeypatch, place, at_step=6)
    run = finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=2", "eval.every=null")
    (incident,) = incidents(run)
    assert (incident["kind"], incident["action"], incident["restored_step"]) == ("non_finite_state", "rollback", 4)
    assert names[0] in incident["notes"][0]
    assert place in incident["notes"][0]
    assert [row["step"] for row in metrics(run) if "train/loss/model" in row] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    for step in range(1, 9):
        assert non_finite(checkpoint(run, step).state) == [], step


def test_a_state_that_never_becomes_finite_ends_the_run_with_a_good_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_state(monkeypatch, "task", at_step=4, times=99)
    settings = "guard={max_rollbacks: 2, snapshot_every: 3}"
    with pytest.raises(DivergedError, match="after step 4 holds NaN or infinity after 2 rollbacks") as caught:
        finetune(recipe, tmp_path, "name=r", settings, "eval.every=3")
    assert "step-00000003` is good (held-out loss" in str(caught.value.hint)
    assert (tmp_path / "r" / "checkpoints" / "last").read_text() == "step-00000003\n"
    assert non_finite(checkpoint(tmp_path / "r", 3).state) == []


def test_what_is_worse_than_the_base_is_not_called_good(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = iter([5.0])

    def evaluate(self: FlowTask, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(next(totals, 9.0))}

    monkeypatch.setattr(FlowTask, "evaluate", evaluate)
    spoil_state(monkeypatch, "task", at_step=4, times=99)
    settings = "guard={max_rollbacks: 1, snapshot_every: 3}"
    with pytest.raises(DivergedError) as caught:
        finetune(recipe, tmp_path, "name=r", settings, "ema.enabled=false")
    hint = str(caught.value.hint)
    assert "is good" not in hint
    assert "held-out loss 9, before the first step 5" in hint
    assert "no checkpoint of this run is better than its base" in hint


def test_a_base_with_nan_is_refused_by_name(recipe: Path, tmp_path: Path) -> None:
    base = checkpoint(finetune(recipe, tmp_path, "name=b"), 8)
    run = tmp_path / "b"
    name = "transformer.proj_out.weight"
    weights = {key: tensor.clone() for key, tensor in base.state["task"].items()}
    weights[name][3] = math.nan
    store.save(run / "checkpoints" / "step-00000008", {**base.state, "task": weights}, base.meta)
    with pytest.raises(CheckpointError, match=rf"NaN or infinity in 1 tensors: `{name}`") as caught:
        finetune(recipe, tmp_path, "name=x", f"base={run}")
    assert caught.value.exit_code == 4


# ---------------------------------------------------------------- an evaluation that is not finite


def evaluations(monkeypatch: pytest.MonkeyPatch, values: list[float], then: float) -> None:
    """Let each held-out batch have the next of these losses."""
    coming = iter(values)

    def evaluate(self: FlowTask, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(next(coming, then))}

    monkeypatch.setattr(FlowTask, "evaluate", evaluate)


def test_a_held_out_loss_that_is_nan_is_an_incident_and_a_rollback(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [5.0, 4.0, NAN, 3.0], then=2.5)  # before step 1, after 2, 4, 4 again
    run = finetune(recipe, tmp_path, "name=r", "ema.enabled=false", "guard.snapshot_every=3")
    (incident,) = incidents(run)
    assert (incident["kind"], incident["action"], incident["restored_step"]) == ("non_finite_eval", "rollback", 3)
    assert "eval/loss/total" in incident["notes"][0]
    rows = metrics(run)
    assert [row["step"] for row in rows if "train/loss/model" in row] == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert [row["eval/loss/total"] for row in rows if "eval/loss/total" in row][3:] == [3.0, 2.5, 2.5]


def test_held_out_losses_that_stay_nan_end_the_run_with_5_and_a_good_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [5.0, 4.0], then=NAN)
    with pytest.raises(DivergedError) as caught:
        finetune(recipe, tmp_path, "name=r", "ema.enabled=false", "guard.snapshot_every=2")
    assert caught.value.exit_code == 5
    assert checkpoint(tmp_path / "r", 2).meta.step == 2
    assert "`" in str(caught.value.hint)


def test_a_base_whose_held_out_loss_is_nan_is_said_before_the_first_step(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Poison
) -> None:
    evaluations(monkeypatch, [], then=NAN)
    with pytest.raises(DivergedError, match=r"`eval/loss/total` is not finite before the first step"):
        finetune(recipe, tmp_path, "name=r", "ema.enabled=false")
    assert poison.attempts == []


def test_under_fp16_an_evaluation_that_is_nan_is_made_again_with_more_range(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [5.0, NAN], then=4.0)
    run = finetune(recipe, tmp_path, "name=r", "ema.enabled=false", "train.precision=fp16")
    rows = metrics(run)
    assert [row["eval/loss/total"] for row in rows if "eval/loss/total" in row] == [5.0, 4.0, 4.0, 4.0, 4.0]
    assert checkpoint(run, 8).state["precision"]["kind"] in ("bf16", "fp32")
    assert checkpoint(run, 8).state["guard"]["rollbacks"] == 0


# ---------------------------------------------------------------- errors of other kinds


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyError("total"), OSError(5, "Input/output error")])
def test_any_error_that_ends_the_run_leaves_the_held_state(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Poison, error: Exception
) -> None:
    def fail(attempt: int) -> None:
        if attempt == 6:
            raise error

    poison.spoil = fail
    with pytest.raises(type(error)):
        finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=2", "checkpoint={every: 100, best: null}")
    assert (tmp_path / "r" / "checkpoints" / "last").read_text() == "step-00000004\n"
    assert resume(tmp_path / "r", []) == tmp_path / "r"


def test_an_error_between_two_steps_loses_no_step(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = loop.look_for_requests

    def fail(run: Run, *arguments: Any, **options: Any) -> Any:
        if run.progress.step == 5:
            raise RuntimeError("a defect")
        return look(run, *arguments, **options)

    monkeypatch.setattr(loop, "look_for_requests", fail)
    with pytest.raises(RuntimeError):
        finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=2", "checkpoint={every: 100, best: null}")
    assert (tmp_path / "r" / "checkpoints" / "last").read_text() == "step-00000005\n"


def test_an_incident_that_cannot_be_written_ends_nothing(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    def spoil(attempt: int) -> float | None:
        if attempt == 2:
            (tmp_path / "r" / "incidents").write_text("in the way")
        return NAN if attempt == 3 else None

    poison.spoil = spoil
    run = finetune(recipe, tmp_path, "name=r")
    assert metrics(run)[-1]["step"] == 8


# ---------------------------------------------------------------- signals


def test_a_signal_is_answered_though_every_step_is_refused(recipe: Path, tmp_path: Path, poison: Poison) -> None:
    def spoil(attempt: int) -> float | None:
        if attempt == 7:
            signal.raise_signal(signal.SIGTERM)
        return NAN if attempt > 5 else None

    poison.spoil = spoil
    with pytest.raises(Preempted, match="after step 5"):
        finetune(recipe, tmp_path, "name=r", "checkpoint.every=100", "checkpoint.best=null")
    assert len(poison.attempts) == 7
    assert checkpoint(tmp_path / "r", 5).meta.step == 5


def test_a_signal_saves_first_and_the_evaluation_is_made_up_for(
    recipe: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(recipe, tmp_path / "whole", "name=r", "checkpoint.every=4")

    def spoil(attempt: int) -> None:
        if attempt == 4:  # an evaluation is due after this step
            signal.raise_signal(signal.SIGTERM)

    poison.spoil, poison.attempts = spoil, []
    with pytest.raises(Preempted, match="after step 4"):
        finetune(recipe, tmp_path, "name=r", "checkpoint.every=4")
    run = tmp_path / "r"
    assert all("eval/loss/total" not in row for row in metrics(run, after=2))
    poison.spoil = at()
    resume(run, [])

    def evaluated(run: Path) -> dict[float, float]:
        return {row["step"]: row["eval/loss/total"] for row in metrics(run) if "eval/loss/total" in row}

    assert evaluated(run) == evaluated(whole)
    for part in ("task", "optimizers", "ema", "best", "progress", "loader", "guard"):
        assert differences(checkpoint(run, 8).state[part], checkpoint(whole, 8).state[part]) == [], part


# ---------------------------------------------------------------- frozen for a while, stopped early


def test_a_group_frozen_for_some_steps_trains_before_and_after_them(recipe: Path, tmp_path: Path) -> None:
    groups = "optim.groups=[{name: text, match: ['*text_embed*'], frozen: [2, 5]}]"
    run = finetune(recipe, tmp_path, "name=r", groups)
    lrs = [row["optim/lr/model/text"] for row in metrics(run) if "train/loss/model" in row]
    assert [lr > 0 for lr in lrs] == [True, True, False, False, False, True, True, True]
    states = [checkpoint(run, step).state for step in range(1, 9)]
    for name in states[0]["task"]:
        if name.endswith("inv_freq") or name == "transformer.text_embed.text_embed.weight":
            continue  # a buffer; rows of the table that no text uses have no gradient
        # from the third update on: what reaches the net through a gate that starts at zero has no gradient before
        frozen = [same(before["task"][name], after["task"][name]) for before, after in pairwise(states)][1:]
        moments = [state["optimizers"]["model"][name]["step"].item() for state in states]
        if "text_embed" in name:
            assert frozen == [True, True, True, False, False, False], name
            assert moments == [1, 2, 2, 2, 2, 3, 4, 5], name
        else:
            assert not any(frozen), name
            assert moments == list(range(1, 9)), name


def test_a_run_that_no_longer_improves_stops(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = iter([9.0, 5.0, 4.0, 4.5, 4.0, 3.0])

    def evaluate(self: FlowTask, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(next(totals))}

    monkeypatch.setattr(FlowTask, "evaluate", evaluate)
    overrides = ["ema.enabled=false", "eval.every=1", "train.early_stop={patience: 2}", "checkpoint.every=8"]
    run = finetune(recipe, tmp_path, "name=r", *overrides)
    assert metrics(run)[-1]["step"] == 4
    assert (run / "checkpoints" / "last").read_text() == "step-00000004\n"
    assert (run / "checkpoints" / "best").read_text() == "step-00000002\n"
