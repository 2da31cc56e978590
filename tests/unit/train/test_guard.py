import json
import math

import pytest

from ttstrain.recipe.schema import GuardConfig
from ttstrain.train.guard import Accused, Guard, Incident, is_spike

NAN, INF = math.nan, math.inf


def judged(guard: Guard, loss: float, grad_norm: float = 1.0, *, overflow_is_scale: bool = False) -> str:
    return guard.judge("model", loss=loss, grad_norm=grad_norm, overflow_is_scale=overflow_is_scale).judgement


def full(guard: Guard, losses) -> Guard:
    for loss in losses:
        guard.accept("model", loss)
    return guard


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
def test_a_non_finite_loss_is_refused(loss):
    assert judged(Guard(GuardConfig()), loss) == "non_finite_loss"


def test_a_non_finite_gradient_is_refused_but_under_fp16_is_the_scales_business():
    guard = Guard(GuardConfig())
    assert judged(guard, 1.0, INF) == "non_finite_gradient"
    assert judged(guard, 1.0, INF, overflow_is_scale=True) == "overflow"


def test_a_spike_is_seen_only_once_the_window_is_full():
    guard = Guard(GuardConfig(window=8, spike=6.0))
    assert judged(full(guard, [1.0, 1.1] * 3), 50.0) == "good"
    assert judged(full(guard, [1.0, 1.1]), 50.0) == "spike"
    assert judged(guard, 1.3) == "good"


def test_a_falling_loss_is_never_a_spike():
    assert not is_spike(0.01, [1.0, 1.1, 0.9, 1.0], threshold=1.0)


def test_losses_that_hardly_vary_do_not_turn_noise_into_spikes():
    assert not is_spike(1.001, [1.0] * 100, threshold=12.0)
    assert is_spike(4.0, [1.0] * 100, threshold=12.0)


def test_an_odd_clip_far_outside_a_narrow_spread_is_no_spike():
    assert not is_spike(2.3, [1.0, 1.01, 0.99, 1.02] * 8, threshold=12.0)


def test_refused_losses_never_enter_the_statistics():
    guard = full(Guard(GuardConfig(window=4, spike=6.0)), [1.0, 1.1, 0.9, 1.0])
    for bad in (NAN, INF, 1e9):
        assert judged(guard, bad) != "good"
    assert judged(guard, 50.0) == "spike"  # a poisoned median or spread would let this pass
    assert judged(guard, 1.05) == "good"


def test_skips_in_a_row_become_a_rollback_and_a_good_step_starts_the_count_again():
    guard = Guard(GuardConfig(max_skips=3))
    assert [guard.decide("non_finite_loss") for _ in range(2)] == ["skip", "skip"]
    guard.note_good_step()
    assert [guard.decide("non_finite_loss") for _ in range(3)] == ["skip", "skip", "rollback"]


def test_overflow_never_rolls_back():
    guard = Guard(GuardConfig(max_skips=1))
    assert [guard.decide("overflow") for _ in range(20)] == ["skip"] * 20
    assert guard.skipped == 0


def test_the_budget_of_rollbacks_runs_out():
    guard = Guard(GuardConfig(max_rollbacks=2, lr_factor=0.5))
    assert not guard.exhausted
    guard.note_rollback()
    guard.note_rollback()
    assert guard.exhausted
    assert guard.lr_factor == 0.25


def test_state_survives_a_round_trip_through_json():
    guard = full(Guard(GuardConfig(window=4)), [1.0, 2.0, 3.0])
    guard.decide("non_finite_loss")
    guard.note_rollback()
    full(guard, [5.0])
    other = Guard(GuardConfig(window=4))
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.state_dict() == guard.state_dict()


def test_an_incident_is_json_even_when_its_figures_are_not(tmp_path):
    incident = Incident(7, "non_finite_loss", "skip", "model", NAN, INF, {"model/default": 1e-5}, ["a", "b"])
    path = incident.write(tmp_path)
    assert path.name == "00000007-non_finite_loss.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (content["loss"], content["grad_norm"], content["clips"]) == ("nan", "inf", ["a", "b"])
    assert incident.write(tmp_path).name == "00000007-non_finite_loss-2.json"


def test_losses_of_another_stage_are_no_spikes():
    guard = full(Guard(GuardConfig(window=4, spike=5.0)), [1.0] * 4)
    assert judged(guard, 9.0) == "spike"
    guard.begin_stage()
    assert judged(guard, 9.0) == "good"
    assert guard.state_dict()["recent"] == {}


# ---------------------------------------------------------------- after a rollback


def test_after_a_rollback_the_losses_from_before_the_held_state_judge_at_once():
    guard = full(Guard(GuardConfig(window=4, spike=6.0)), [1.0, 1.1, 0.9, 1.0])
    guard.hold()
    full(guard, [5.0, 5.0, 5.0, 5.0])  # a slow explosion after the held state
    guard.note_rollback()
    assert judged(guard, 5.0) == "spike"
    assert judged(guard, 1.2) == "good"


def test_after_a_rollback_to_a_young_state_losses_may_be_as_high_as_they_were_and_no_more():
    guard = Guard(GuardConfig(window=100, spike=6.0))
    full(guard, [4.0, 3.9, 3.0])
    guard.hold()
    full(guard, [2.9, 2.8, 2.7, 2.6, 2.5, 2.4])
    assert judged(guard, 1e6) == "good"  # never seen: the window is not full
    guard.note_rollback()
    assert judged(guard, 11.9) == "good"
    assert judged(guard, 12.1) == "spike"
    restored = Guard(GuardConfig(window=100, spike=6.0))
    restored.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert judged(restored, 12.1) == "spike"


def test_a_few_losses_are_no_measure_and_another_stage_has_its_own():
    guard = full(Guard(GuardConfig(window=100, spike=6.0)), [1.0, 1.0])
    guard.note_rollback()
    assert judged(guard, 50.0) == "good"
    full(guard, [1.0] * 20)
    guard.note_rollback()
    assert judged(guard, 50.0) == "spike"
    guard.begin_stage()
    assert judged(guard, 50.0) == "good"


def test_a_state_from_before_these_figures_were_kept_is_read():
    state = {"recent": {}, "skips_in_a_row": 0, "skipped": 1, "rollbacks": 1, "lr_factor": 1.0}
    guard = Guard(GuardConfig())
    guard.load_state_dict(state)
    assert (guard.rollbacks, guard.first_loss) == (1, None)


# ---------------------------------------------------------------- who is to blame


def accuse(guard: Guard, *clips: str) -> list[str]:
    guard.accused = Accused("non_finite_loss", clips)
    convicted = guard.convict()
    return [] if convicted is None else list(convicted.clips)


def test_of_two_batches_that_failed_the_clip_that_was_in_both_is_bad():
    guard = Guard(GuardConfig())
    assert accuse(guard, "a", "bad", "b") == []
    restored = Guard(GuardConfig())
    restored.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert accuse(restored, "c", "bad", "d") == ["bad"]


def test_weights_that_are_to_blame_accuse_nobody():
    guard = Guard(GuardConfig())
    guard.accused = Accused("spike", ["a"])
    guard.note_rollback()
    assert guard.convict() is None
    assert guard.suspects == set()


def test_a_spike_counts_like_any_refused_step_and_half_a_step_goes_back_at_once():
    guard = Guard(GuardConfig(max_skips=3))
    assert [guard.decide("spike") for _ in range(3)] == ["skip", "skip", "rollback"]
    assert Guard(GuardConfig()).decide("spike", half_done=True) == "rollback"
