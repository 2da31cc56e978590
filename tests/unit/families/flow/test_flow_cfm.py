"""What is hidden in training, and how it is weighed."""

from __future__ import annotations

import pytest
import torch

from ttstrain.families.flow.config import CfmConfig
from ttstrain.families.flow.model.cfm import draw, frames_between, spans


def test_upstreams_spans_never_hold_the_last_frame() -> None:
    lengths = torch.full((20_000,), 50)
    config = CfmConfig()
    draws = draw(lengths, config)
    assert int(draws.span_end.max()) == 49
    assert int(draws.span_start.min()) == 0
    size = draws.span_end - draws.span_start
    assert int(size.min()) >= 35 and int(size.max()) <= 49


def test_inclusive_spans_reach_the_last_frame() -> None:
    draws = draw(torch.full((20_000,), 50), CfmConfig(span="inclusive"))
    assert int(draws.span_end.max()) == 50
    assert int(draws.span_start.min()) == 0


@pytest.mark.parametrize("kind", ["upstream", "inclusive"])
def test_spans_stay_inside_their_clips_at_the_extremes(kind: str) -> None:
    lengths = torch.tensor([1, 2, 3, 100, 100, 100, 100])
    almost_one = 1 - 2**-24
    fraction = torch.tensor([0.7, 0.7, 1.0, 0.7, 1.0, 0.7, 1.0])
    position = torch.tensor([almost_one, almost_one, almost_one, 0.0, 0.0, almost_one, almost_one])
    start, end = spans(lengths, fraction=fraction, position=position, kind=kind)  # type: ignore[arg-type]
    assert (start >= 0).all() and (end <= lengths).all() and (start <= end).all()


def test_a_micro_batch_is_dropped_as_one_by_default() -> None:
    config = CfmConfig(audio_drop_prob=0.5, cond_drop_prob=0.5)
    for _ in range(20):
        draws = draw(torch.full((8,), 50), config)
        assert len(draws.drop_audio.unique()) == 1 and len(draws.drop_text.unique()) == 1


def test_clips_can_be_dropped_one_by_one() -> None:
    draws = draw(torch.full((40_000,), 50), CfmConfig(drop="sample"))
    full = ~draws.drop_audio
    unconditional = draws.drop_text
    # 0.7 x 0.8, 0.3 x 0.8 and 0.2, as upstream's two coins give.
    assert float(full.float().mean()) == pytest.approx(0.56, abs=0.01)
    assert float((draws.drop_audio & ~unconditional).float().mean()) == pytest.approx(0.24, abs=0.01)
    assert float(unconditional.float().mean()) == pytest.approx(0.20, abs=0.01)
    assert (draws.drop_audio | ~unconditional).all()  # text is never hidden while audio shows


def test_draws_come_from_the_global_generator() -> None:
    lengths = torch.tensor([50, 60, 70])
    torch.manual_seed(3)
    first = draw(lengths, CfmConfig())
    torch.manual_seed(3)
    again = draw(lengths, CfmConfig())
    assert torch.equal(first.span_start, again.span_start) and torch.equal(first.drop_audio, again.drop_audio)


def test_frames_between_counts_from_start_to_before_end() -> None:
    between = frames_between(torch.tensor([0, 2]), torch.tensor([2, 3]), num_frames=4)
    assert between.tolist() == [[True, True, False, False], [False, False, True, False]]
