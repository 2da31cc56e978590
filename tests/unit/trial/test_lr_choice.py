"""The LR that follows from a range test: near the LRs that are known to be good, and never one that does not hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ttstrain.trial import lr
from ttstrain.trial.lr import Curve, Together, find_lrs
from ttstrain.trial.lr_choice import Choice, choose, first_worse, smoothed
from ttstrain.trial.lr_words import held_in_words, in_words

STEPS = 40


def rising(planned: float) -> list[float]:
    return [planned / 100 * 10_000 ** (i / (STEPS - 1)) for i in range(STEPS)]


# As measured with the shipped recipes, whose LRs are known to be good: how far the loss fell at each step of the test.
QUICKSTART = (
    *(0.0, 0.003, 0.009, 0.016, 0.025, 0.016, 0.035, 0.015, 0.069, 0.072, 0.114, 0.083, 0.07, 0.072, 0.173, 0.12),
    *(0.096, 0.092, 0.098, 0.169, 0.047, 0.118, 0.068, 0.212, 0.084, 0.1, 0.132, -0.016, 0.107, -0.274, -0.167),
)
FROM_SCRATCH = (
    *(0.0, 0.0, 0.001, 0.001, 0.001, 0.002, 0.003, 0.003, 0.005, 0.007, 0.008, 0.012, 0.017, 0.021, 0.017, 0.03),
    *(0.046, 0.057, 0.082, 0.1, 0.128, 0.154, 0.17, 0.234, 0.311, 0.388, 0.36, 0.337, 0.293, -0.279, 0.397, 0.295),
)
GENERATOR = (
    *(0.0, 0.006, 0.014, 0.031, 0.04, 0.044, 0.044, 0.06, 0.097, 0.071, 0.094, 0.085, 0.102, 0.109, 0.146, 0.141),
    *(0.143, 0.14, 0.212, 0.241, 0.254, 0.341, 0.332, 0.299, 0.357, 0.376, 0.319, 0.318, 0.388, 0.305, -0.182, 0.075),
)


@pytest.mark.parametrize(("good", "gains"), [(1e-3, QUICKSTART), (1e-3, FROM_SCRATCH), (2e-4, GENERATOR)])
def test_where_a_good_lr_is_known_it_is_found(good: float, gains: Sequence[float]) -> None:
    choice = choose(rising(good)[: len(gains)], gains)
    assert choice.how == "worse" and choice.lr is not None and choice.at is not None
    assert choice.lr == pytest.approx(choice.at / 10, rel=0.05)
    assert 1 / 1.5 < choice.lr / good < 1.5


def test_where_on_its_plateau_the_loss_is_lowest_changes_nothing() -> None:
    lrs = [10.0**power for power in range(-8, 2)]
    early = [0.0, 0.01, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, -0.4, -3.0]
    late = [0.0, 0.01, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3, -0.4, -3.0]
    assert choose(lrs, early) == choose(lrs, late) == Choice("worse", 0.1, 1.0)


def test_a_loss_that_is_not_finite_is_worse() -> None:
    gains = [0.0, 0.1, 0.2, 0.2, math.nan]
    assert first_worse(gains) == 4
    assert smoothed(gains) == pytest.approx([0.1, 0.125, 0.125, 0.5 / 3])
    assert choose([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], gains) == Choice("worse", 1e-2, 1e-1)


def test_where_no_lr_is_worse_the_lowest_loss_counts() -> None:
    lrs = [10.0**power for power in range(-7, 4)]
    gains = [0.0, 0.0, 0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05, 0.05, 0.05]
    assert choose(lrs, gains) == Choice("lowest", 1e-3, 1e-2)


def test_no_lr_is_proposed_where_the_loss_hardly_falls_or_only_rises() -> None:
    lrs = [1e-5, 1e-4, 1e-3, 1e-2]
    assert choose(lrs, [0.0, 0.0005, 0.0003, 0.0]) == Choice("flat")
    assert choose(lrs, [-0.3, -4.0]) == Choice("rises")
    assert choose(lrs, []) == Choice("flat")


def test_no_more_is_proposed_than_a_plan_accepts() -> None:
    assert choose([1e-3, 1e-2, 1e-1, 1.0], [0.1, 0.2, 0.3, -3.0], highest=5e-3) == Choice("limit", 5e-3, 1.0)


# ---------------------------------------------------------------- all groups together


class Simulated:
    """A run of two optimizers; the second trains nothing that is exported, and the first one's updates change its loss.

    The first one's loss falls by a fifth at factors of the recipe's LR up to `holds`, and rises above.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, sweep: float, holds: float) -> None:
        self.sweep, self.holds = sweep, holds
        self.together: list[tuple[float, float]] = []  # factors of both, in the last step of each trial
        settings = SimpleNamespace(kind="adamw")
        self.run: Any = SimpleNamespace(
            optimizers=SimpleNamespace(names=("generator", "discriminator")),
            plan=SimpleNamespace(recipe=SimpleNamespace(optim=None)),
        )
        monkeypatch.setattr(lr, "settings_of", lambda *_: settings)
        monkeypatch.setattr(lr, "highest_lr", lambda *_: 1.0)
        monkeypatch.setattr(lr, "_is_exported", lambda _run, name: name == "generator")
        keys = {("generator", "default"): 1e-3, ("discriminator", "default"): 5e-4}
        monkeypatch.setattr(lr, "_trained", lambda _run: keys)
        monkeypatch.setattr(lr, "_take", self.take)

    def take(
        self, _run: Any, factors: Sequence[Mapping[lr.Key, float]], _count: Any, **_: Any
    ) -> list[dict[str, float]]:
        own = [each.get(("generator", "default"), 0.0) for each in factors]
        if ("discriminator", "default") in factors[-1]:
            self.together.append((own[-1], factors[-1]["discriminator", "default"]))
        bad = self.holds if self.together else self.sweep
        return [
            {"generator": 2.0 if not each else 1.6 if each <= bad else 9.0, "discriminator": 1.0 + 0.001 * each}
            for each in own
        ]


def test_the_proposals_are_halved_until_they_hold_together(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch, sweep=70.0, holds=2.5)  # of the recipe's LR; in the sweep one step each
    found = find_lrs(simulated.run)
    first = simulated.together[0][0]
    assert 7 < first < 9  # a tenth of the first LR above 70 times the recipe's
    assert [pair[0] / first for pair in simulated.together] == pytest.approx([1, 0.5, 0.25], rel=0.05)
    assert found.together == Together(STEPS, pytest.approx(0.4 / 3, rel=0.02), 2)
    generator, discriminator = found.curves
    assert generator.choice.how == "worse" and discriminator.choice.how == "follows"
    assert discriminator.choice.leader == "generator/default"
    # It keeps its share of the generator's LR: half of it.
    assert discriminator.choice.lr == pytest.approx((generator.choice.lr or 0) / 2, rel=0.05)
    assert generator.found is not None and generator.found < 2.5e-3


def test_what_holds_at_no_lr_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_lrs(Simulated(monkeypatch, sweep=40.0, holds=0.01).run)
    assert found.together is not None and not found.together.held and found.together.halvings == 4
    assert [each.found for each in found.curves] == [None, None]
    assert "worse at every LR" in held_in_words(found.together)
    assert "no LR that was tried for all groups together held" in in_words(found.curves[0])


def test_a_proposal_near_the_recipes_lr_confirms_it(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch, sweep=9.0, holds=1.5)
    found = find_lrs(simulated.run)
    assert simulated.together == [(1.0, 1.0)]  # the recipe's own LRs are what was tried together
    assert [each.found for each in found.curves] == [None, None]
    said = in_words(found.curves[0])
    assert said.startswith("the recipe's 1.0e-03 stays: ") and "a tenth of " in said


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice("worse", 4e-4, 4e-3), "4.0e-04 (recipe: 1.0e-04); a tenth of 4.0e-03, where the loss becomes worse"),
        (Choice("lowest", 4e-4, 4e-3), "where the loss falls most; no LR up to 1.0e-02 made it worse"),
        (Choice("limit", 5e-3, 1.0), "the highest that a plan accepts, far below 1.0e+00"),
        (Choice("follows", 5e-3, leader="a/b"), "it keeps its share of the LR of a/b"),
        (Choice("follows", None, leader="a/b"), "the recipe's 1.0e-04 stays: it follows a/b"),
        (Choice("flat"), "the recipe's 1.0e-04 stays: at no LR"),
        (Choice("rises"), "rises already at 1.0e-06: set the LR to 1.0e-06, and tune again"),
    ],
)
def test_each_proposal_says_how_it_came_about(choice: Choice, said: str) -> None:
    assert said in in_words(Curve("model", "default", 1e-4, choice, (1e-6, 1e-2), (0.0, 0.1)))
