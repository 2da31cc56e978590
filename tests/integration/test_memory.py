"""When memory runs out: the same step in smaller pieces, from then on, and never half of it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import RECIPE, checkpoint, differences, finetune, metrics, write_clips, write_recipe
from toys import Gan, Joint, Regression, ToyBatch, make_batch, make_run, split

from ttstrain.contract.task import Loss, Task
from ttstrain.data.loader import Loader
from ttstrain.errors import OutOfMemoryError
from ttstrain.families.flow.task import FlowTask
from ttstrain.runs.resume import resume
from ttstrain.train import loop, recovery
from ttstrain.train.snapshot import MemorySnapshots

CUDA = "CUDA out of memory"


# ---------------------------------------------------------------- one step


class ToyLoader:
    """Divides toy batches, of which every clip takes one frame."""

    limit: int | None = None

    def half_of(self, batch: ToyBatch) -> int | None:
        return (len(batch.ids) + 1) // 2 if len(batch.ids) > 1 else None

    def limit_to(self, frames: int) -> None:
        self.limit = frames

    def divided(self, batch: ToyBatch, *, limit: int | None) -> list[ToyBatch]:
        size = len(batch.ids)
        if limit is None or size <= limit:
            return [batch]
        halves = split(batch, (size + 1) // 2, size // 2)
        return [piece for half in halves for piece in self.divided(half, limit=limit)]


def small(task_class: type[Task], *, room: int) -> Task:
    """Build a task that has memory for so many clips."""

    class Small(task_class):  # type: ignore[misc, valid-type]
        def losses(self, batch: ToyBatch) -> Iterator[Loss]:
            for loss in super().losses(batch):
                if len(batch.ids) > room:
                    raise torch.OutOfMemoryError(CUDA)
                yield loss

    torch.manual_seed(5)
    return Small()


def whole_run(task: Task, folder: Path, **options: Any) -> Any:
    run = make_run(task, ema_decay=0.9, **options)
    run.loader, run.folder = ToyLoader(), folder
    run.plan = SimpleNamespace(recipe=SimpleNamespace(train=SimpleNamespace(measure_every=10)))
    run.trackers = SimpleNamespace(incident=lambda *_: None, note=lambda *_: None)
    return run


def walk(run: Any, batches: Sequence[Sequence[ToyBatch]]) -> list[Any]:
    snapshots = MemorySnapshots()
    snapshots.take(run.state, run.progress.step)
    pieces = ([piece for b in own for piece in run.loader.divided(b, limit=run.loader.limit)] for own in batches)
    return [loop.take_step(run, own, snapshots)[0] for own in pieces]


@pytest.mark.parametrize("task_class", [Regression, Joint])
@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_step_in_pieces_is_the_step(task_class: type[Task], room: int, tmp_path: Path) -> None:
    batches = [[make_batch(7, seed=seed), make_batch(4, seed=seed + 50)] for seed in range(4)]
    cramped, roomy = (whole_run(small(task_class, room=n), tmp_path) for n in (room, 99))
    reports, others = walk(cramped, batches), walk(roomy, batches)
    for report, other in zip(reports, others, strict=True):
        assert report.losses == pytest.approx(other.losses, rel=1e-5)
        assert report.grad_norms == pytest.approx(other.grad_norms, rel=1e-5)
        assert report.num_clips == other.num_clips == 11
    for mine, theirs in zip(cramped.task.parameters(), roomy.task.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert cramped.loader.limit == {1: 1, 2: 2, 3: 2, 5: 4}[room]
    assert len(list((tmp_path / "incidents").iterdir())) == {1: 3, 2: 2, 3: 2, 5: 1}[room]  # then they are known


def test_pieces_are_those_of_a_run_that_had_them_from_the_start(tmp_path: Path) -> None:
    batches = [[make_batch(8, seed=seed)] for seed in range(4)]
    cramped, warned = (whole_run(small(Gan, room=2), tmp_path) for _ in range(2))
    warned.loader.limit_to(2)
    assert walk(cramped, batches) == walk(warned, batches)
    assert differences(cramped.state.snapshot(), warned.state.snapshot()) == []


def test_half_a_step_is_taken_back(tmp_path: Path) -> None:
    class Full(Gan):
        full = False

        def losses(self, batch: ToyBatch) -> Iterator[Loss]:
            losses = super().losses(batch)
            yield next(losses)
            if self.full and len(batch.ids) > 2:
                raise torch.OutOfMemoryError(CUDA)
            yield next(losses)

    torch.manual_seed(5)
    run = whole_run(Full(), tmp_path)
    snapshots = MemorySnapshots()
    assert loop.take_step(run, [make_batch(4)], snapshots)[0] is not None
    snapshots.take(run.state, run.progress.step)
    held = run.state.snapshot()
    assert loop.take_step(run, [make_batch(2, seed=1)], snapshots)[0] is not None
    run.task.full = True
    assert loop.take_step(run, [make_batch(4, seed=2)], snapshots)[0] is None
    now = run.state.snapshot()
    for part in ("task", "optimizers", "ema", "progress"):
        assert differences(now[part], held[part]) == []
    (incident,) = [json.loads(file.read_text()) for file in (tmp_path / "incidents").iterdir()]
    assert (incident["kind"], incident["action"], incident["restored_step"]) == ("out_of_memory", "halve", 1)
    after, _ = loop.take_step(run, run.loader.divided(make_batch(4, seed=3), limit=run.loader.limit), snapshots)
    assert after is not None
    assert after.stepped == ["discriminator", "generator"]


def test_what_is_drawn_again_is_what_a_run_would_have_drawn(tmp_path: Path) -> None:
    class Drawing(Regression):
        def draw(self, batch: ToyBatch) -> ToyBatch:
            return ToyBatch(batch.ids, batch.x + torch.randn(()), batch.y, batch.weight, batch.num_frames, 1)

    batches = [[make_batch(4, seed=seed)] for seed in range(3)]
    ends = []
    for limit in (None, 2):
        run = whole_run(small(Drawing, room=2), tmp_path)
        run.rng.seed(1)
        if limit is not None:
            run.loader.limit_to(limit)
        walk(run, batches)
        ends.append(copy.deepcopy(run.state.snapshot()))
    assert differences(*ends) == []


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    text = RECIPE.replace("batch_frames: 300", "batch_frames: 600")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"), text=text)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give memory for two clips, in training alone; note how many each micro-batch holds that fits."""
    sizes: list[int] = []
    losses = FlowTask.losses

    def cramped(self: FlowTask, batch: Any) -> Iterator[Loss]:
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError(CUDA)
        sizes.append(len(batch.ids))
        yield from losses(self, batch)

    monkeypatch.setattr(FlowTask, "losses", cramped)
    return sizes


def test_a_run_that_meets_its_limit_is_the_run_that_knew_it(
    recipe: Path, tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finetune(recipe, tmp_path, "name=met")
    said = capfd.readouterr().err
    limit = checkpoint(run, 8).state["loader"]["limit"]
    incidents = list((run / "incidents").iterdir())
    assert len(incidents) == said.count("out of memory") == 1
    assert f"micro-batches come in pieces of at most {limit:,} frames from here on" in " ".join(said.split())
    assert max(seen) == 2
    assert len(metrics(run)) == 9

    init = Loader.__init__

    def knowing(self: Loader, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self.limit_to(limit)

    monkeypatch.setattr(Loader, "__init__", knowing)
    known = finetune(recipe, tmp_path, "name=known")
    assert not (known / "incidents").exists()
    assert metrics(known) == metrics(run)
    assert differences(checkpoint(known, 8).state, checkpoint(run, 8).state) == []


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resumed_run_remembers_its_limit(recipe: Path, tmp_path: Path, seen: list[int], workers: int) -> None:
    options = [f"data.workers={workers}", "data.features=disk"] if workers else []
    whole = finetune(recipe, tmp_path, "name=whole", *options)
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    for folder in (cut / "checkpoints").glob("step-*"):
        if int(folder.name[-8:]) > 3:
            shutil.rmtree(folder)
    (cut / "checkpoints" / "last").write_text("step-00000003\n")
    shutil.rmtree(cut / "incidents")
    seen.clear()
    resume(cut, [])
    assert not (cut / "incidents").exists()
    assert max(seen) == 2
    assert metrics(cut) == metrics(whole)
    assert differences(checkpoint(cut, 8).state, checkpoint(whole, 8).state) == []


def test_a_clip_that_does_not_fit_alone_ends_the_run_with_a_good_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = FlowTask.losses

    def cramped(self: FlowTask, batch: Any) -> Iterator[Loss]:
        if max(batch.mel_lengths.tolist()) > 100:
            raise torch.OutOfMemoryError(CUDA)
        yield from losses(self, batch)

    monkeypatch.setattr(FlowTask, "losses", cramped)
    with pytest.raises(OutOfMemoryError, match=r"with the clip `.*` alone") as caught:
        finetune(recipe, tmp_path, "name=r")
    assert caught.value.exit_code == 6
    assert "checkpoints/step-00000000` is saved" in str(caught.value.hint)
    assert checkpoint(tmp_path / "r", 0).meta.step == 0


def test_an_update_that_does_not_fit_is_told_at_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def full(self: torch.optim.AdamW, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == 4:
            raise torch.OutOfMemoryError(CUDA)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(OutOfMemoryError, match="in step 4 while it updated the weights of optimizer `model`") as caught:
        finetune(recipe, tmp_path, "name=r")
    assert "smaller micro-batches would not help" in caught.value.message
    assert "checkpoints/step-00000003` is saved" in str(caught.value.hint)
    assert checkpoint(tmp_path / "r", 3).meta.step == 3
    assert not (tmp_path / "r" / "incidents").exists()


def test_an_evaluation_that_does_not_fit_is_made_in_pieces_and_measures_alike(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["data.holdout=4", "train.steps=4"]
    roomy = finetune(recipe, tmp_path, "name=roomy", *options)
    capfd.readouterr()
    evaluate, refused = FlowTask.evaluate, []

    def cramped(self: FlowTask, batch: Any, generator: torch.Generator) -> Any:
        if len(batch.ids) > 1:
            torch.rand(3, generator=generator)  # noise that is drawn in vain
            refused.append(batch)
            raise torch.OutOfMemoryError(CUDA)
        return evaluate(self, batch, generator)

    monkeypatch.setattr(FlowTask, "evaluate", cramped)
    run = finetune(recipe, tmp_path, "name=cramped", *options)
    assert capfd.readouterr().err.count("evaluated in pieces from here on") == len(refused) < len(metrics(run))
    rows, others = metrics(run), metrics(roomy)
    assert [set(row) for row in rows] == [set(row) for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-4)  # each clip has the noise that it would have had


def test_a_preview_that_does_not_fit_is_a_warning(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(FlowTask, "sample", full)
    run = finetune(recipe, tmp_path, "name=r", "sample.every=4")
    assert metrics(run)[-1]["step"] == 8
    assert "it did not fit in memory during training" in " ".join(capfd.readouterr().err.split())


def test_a_run_whose_later_evaluation_does_not_fit_is_saved_before_it_ends(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, step = FlowTask.evaluate, []

    def cramped(self: FlowTask, batch: Any, generator: torch.Generator) -> Any:
        if step:
            raise torch.OutOfMemoryError(CUDA)
        return evaluate(self, batch, generator)

    def count(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        step.append(self)
        return adamw(self, *arguments, **options)

    adamw = torch.optim.AdamW.step
    monkeypatch.setattr(FlowTask, "evaluate", cramped)
    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    with pytest.raises(OutOfMemoryError, match="the evaluation after step 4 did not fit in memory"):
        finetune(recipe, tmp_path, "name=r", "eval.every=4", "checkpoint.every=100")
    assert checkpoint(tmp_path / "r", 4).meta.step == 4


# ---------------------------------------------------------------- fp16 that keeps overflowing


@pytest.mark.parametrize("half", ["bf16", "fp32"])
def test_fp16_without_range_gives_way_and_a_resume_stays_there(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], half: str
) -> None:
    monkeypatch.setattr(recovery, "really_has_bf16", lambda _: half == "bf16")
    losses = FlowTask.losses

    def overflowing(self: FlowTask, batch: Any) -> Iterator[Loss]:
        half_precision = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
        for loss in losses(self, batch):
            spoilt = half_precision and self.training
            yield Loss(loss.value * float("inf") if spoilt else loss.value)

    monkeypatch.setattr(FlowTask, "losses", overflowing)
    run = finetune(recipe, tmp_path, "name=r", "train.precision=fp16")
    assert f"fp16 keeps overflowing: {half} from here on" in " ".join(capfd.readouterr().err.split())
    incidents = [json.loads(file.read_text()) for file in sorted((run / "incidents").iterdir())]
    assert sorted(incident["action"] for incident in incidents) == ["fall back", "skip", "skip"]
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all("optim/loss_scale" not in row for row in rows)
    state = checkpoint(run, 8).state["precision"]
    assert (state["kind"], state["wanted"]) == (half, "fp16")
    resume(run, ["train.steps=10"])
    assert len(list((run / "incidents").iterdir())) == 3
    assert checkpoint(run, 10).state["precision"]["kind"] == half


def test_one_bad_batch_of_a_gan_is_taken_back_and_the_second_is_fp16s(tmp_path: Path) -> None:
    class Overflowing(Gan):
        def losses(self, batch: ToyBatch) -> Iterator[Loss]:
            losses = super().losses(batch)
            yield next(losses)
            loss = next(losses)
            half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
            yield Loss(loss.value * (torch.inf if half else 1.0), updates=loss.updates)

    run = whole_run(Overflowing(), tmp_path, precision="fp16")
    run.plan.recipe.guard = SimpleNamespace(exclude=False)
    run.precision.scale = 256.0  # where gradients fit
    snapshots = MemorySnapshots()
    snapshots.take(run.state, 0)
    kinds = []
    for seed in range(3):
        report, _ = loop.take_step(run, [make_batch(4, seed=seed)], snapshots)
        kinds.append((run.precision.kind, report is not None))
    assert kinds == [("fp16", False), ("fp32", False), ("fp32", True)]
    assert run.guard.rollbacks == 2


def test_gradients_that_overflow_at_the_smallest_scale_are_not_skipped_for_ever(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttstrain.train.precision import Precision

    backward = Precision.backward

    def overflowing(self: Precision, loss: torch.Tensor, *, into: Any) -> None:
        backward(self, loss, into=into)
        if self.kind == "fp16":
            into[0].grad.fill_(torch.inf)

    monkeypatch.setattr(Precision, "backward", overflowing)
    run = finetune(recipe, tmp_path, "name=r", "train.precision=fp16")
    (incident,) = [json.loads(file.read_text()) for file in (run / "incidents").iterdir()]
    assert (incident["action"], incident["kind"]) == ("fall back", "non_finite_gradient")
    assert checkpoint(run, 8).state["guard"]["rollbacks"] == 0
    assert metrics(run)[-1]["step"] == 8


# ---------------------------------------------------------------- however small the data


def test_six_clips_make_every_planned_update(recipe: Path, tmp_path: Path) -> None:
    options = ["data.batch_frames=5000", "train.accumulate=4", "data.holdout=2", "train.steps=5"]
    run = finetune(recipe, tmp_path, "name=r", *options)
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["data/epoch"] for row in rows] == [4, 8, 12, 16, 20]  # a step takes the whole data four times
    state = checkpoint(run, 5).state
    assert state["progress"]["clips"] == 5 * 4 * 6
    counts = {moments["step"].item() for moments in state["optimizers"]["model"].values() if "step" in moments}
    assert counts == {5.0}


@pytest.mark.parametrize("every", [1, 3])
def test_norms_of_every_group_are_measured_as_often_as_asked(recipe: Path, tmp_path: Path, every: int) -> None:
    run = finetune(recipe, tmp_path, "name=r", f"train.measure_every={every}")
    rows = [row for row in metrics(run) if "train/loss/model" in row]
    assert [row["step"] for row in rows if "optim/group_norm/model/default" in row] == list(range(every, 9, every))
