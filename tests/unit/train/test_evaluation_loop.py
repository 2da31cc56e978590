"""The one loop over held-out batches: its noise, its means, and what it does where memory or time runs out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import Regression, ToyBatch, make_batch, split

from ttstrain.contract.task import Mean
from ttstrain.errors import OutOfMemoryError
from ttstrain.train.distributed import Ranks
from ttstrain.train.evaluation_loop import EVALUATION_SEED, evaluate_batches, mean_losses, weighted
from ttstrain.train.signals import Hurried

CPU = torch.device("cpu")


def noise(batch: ToyBatch, generator: torch.Generator) -> tuple[str, list[float]]:
    return batch.ids[0], torch.randn(len(batch.ids), generator=generator).tolist()


def expected(number: int, count: int) -> list[float]:
    return torch.randn(count, generator=torch.Generator().manual_seed(EVALUATION_SEED + number)).tolist()


def halved(pieces: list[ToyBatch], at: int) -> bool:
    count = len(pieces[at].ids)
    if count == 1:
        return False
    pieces[at : at + 1] = split(pieces[at], count // 2, count - count // 2)
    return True


def test_noise_depends_on_a_batchs_number_alone_and_ranks_share_the_batches() -> None:
    batches = [[make_batch(3, seed=seed)] for seed in range(5)]
    alone = evaluate_batches(Regression(), batches, noise, device=CPU)
    assert [drawn for _, drawn in alone] == [expected(number, 3) for number in range(5)]

    class OneOfTwo(Ranks):
        def all_fit(self, fits: bool) -> bool:
            return fits

    ranks = OneOfTwo(rank=1, world_size=2)
    assert evaluate_batches(Regression(), batches, noise, device=CPU, ranks=ranks) == [alone[1], alone[3]]


def test_a_model_is_in_eval_mode_without_gradients_and_as_it_was_afterwards() -> None:
    task = Regression()
    task.net[0].eval()

    def look(batch: ToyBatch, generator: torch.Generator) -> tuple[bool, bool]:
        return any(part.training for part in task.modules()), torch.is_grad_enabled()

    assert evaluate_batches(task, [[make_batch(2, seed=0)]], look, device=CPU) == [(False, False)]

    def fail(batch: ToyBatch, generator: torch.Generator) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        evaluate_batches(task, [[make_batch(2, seed=0)]], fail, device=CPU)
    assert [part.training for part in task.modules()] == [True, True, False, True, True, True]


def test_a_batch_too_large_is_divided_and_draws_the_same_noise() -> None:
    tried: list[int] = []

    def of_small(batch: ToyBatch, generator: torch.Generator) -> list[float]:
        tried.append(len(batch.ids))
        drawn = torch.randn(len(batch.ids), generator=generator).tolist()
        if len(batch.ids) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return drawn

    batches = [[make_batch(8, seed=0)]]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        evaluate_batches(Regression(), batches, of_small, device=CPU)
    tried.clear()
    found = evaluate_batches(Regression(), batches, of_small, device=CPU, divide=halved)
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    one_by_one = torch.Generator().manual_seed(EVALUATION_SEED)
    assert found == [torch.randn(2, generator=one_by_one).tolist() for _ in range(4)]
    assert [len(piece.ids) for piece in batches[0]] == [2, 2, 2, 2], "divided for good"


def test_a_single_clip_that_does_not_fit_ends_the_evaluation() -> None:
    def never_fits(batch: ToyBatch, generator: torch.Generator) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="the third evaluation did not fit in memory"):
        evaluate_batches(
            Regression(),
            [[make_batch(2, seed=0)]],
            never_fits,
            device=CPU,
            divide=halved,
            what="the third evaluation",
        )


def test_who_is_in_a_hurry_leaves_before_the_next_batch() -> None:
    done: list[str] = []

    def note(batch: ToyBatch, generator: torch.Generator) -> None:
        done.append(batch.ids[0])

    batches = [[make_batch(1, seed=seed)] for seed in range(4)]
    with pytest.raises(Hurried):
        evaluate_batches(Regression(), batches, note, device=CPU, hurried=lambda: len(done) == 2)
    assert len(done) == 2


def test_losses_are_means_over_all_clips_or_over_their_own_units() -> None:
    task, whole = Regression(), make_batch(12, seed=5)

    def losses(batch: ToyBatch, generator: torch.Generator) -> dict[str, Mean]:
        own: dict[str, Tensor | Mean] = {
            **task.evaluate(batch, generator),
            "large": Mean(batch.y[batch.y > 1].sum(), (batch.y > 1).sum()),
            "never": Mean(torch.zeros(()), torch.zeros(())),
        }
        return weighted(own, batch.weight)

    parts = evaluate_batches(task, [split(whole, 7, 1, 4)[:2], [whole]], losses, device=CPU)
    seen = torch.cat([torch.arange(8), torch.arange(12)])
    error = (task.net(whole.x) - whole.y).detach().square().double()
    means = mean_losses(parts, device=CPU)
    assert set(means) == {"total", "large"}
    assert means["total"] == pytest.approx(float(error[seen].mean()), rel=1e-6)
    assert means["large"] == pytest.approx(float(whole.y[seen][whole.y[seen] > 1].double().mean()), rel=1e-6)
