"""Silence and noise before and after speech, found in waveforms whose parts are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ttstrain.families.orpheus.edges import measure_edges

RATE = 24_000


def tone(seconds: float, *, level: float = 0.3) -> Tensor:
    time = torch.arange(round(RATE * seconds)) / RATE
    return level * torch.sin(2 * math.pi * 220 * time)


def noise(seconds: float, *, below_db: float) -> Tensor:
    """Return noise so many decibels below a tone of level 0.3."""
    power = 0.3**2 / 2 * 10 ** (-below_db / 10)
    return torch.randn(round(RATE * seconds)) * math.sqrt(power)


def test_lead_and_tail_are_as_long_and_as_loud_as_they_are() -> None:
    wav = torch.cat([noise(0.5, below_db=40), tone(1.2), noise(0.3, below_db=50)])
    found = measure_edges(wav)
    assert found.lead_s == pytest.approx(0.5, abs=0.02)
    assert found.tail_s == pytest.approx(0.3, abs=0.02)
    assert found.lead_db == pytest.approx(-40, abs=1)
    assert found.tail_db == pytest.approx(-50, abs=1)


def test_a_click_is_no_speech() -> None:
    silence = torch.zeros(RATE // 2)
    silence[6000:6020] = 0.5
    assert measure_edges(torch.cat([silence, tone(1.0)])).lead_s == pytest.approx(0.5, abs=0.02)


def test_a_pause_within_is_part_of_the_speech() -> None:
    found = measure_edges(torch.cat([tone(0.5), torch.zeros(RATE // 2), tone(0.5)]))
    assert (found.lead_s, found.lead_db, found.tail_db) == (0.0, None, None)
    assert found.tail_s < 0.01


def test_the_voice_s_own_level_decides() -> None:
    wav = torch.cat([noise(0.4, below_db=40), tone(1.0), torch.zeros(4800)])
    loud, quiet = measure_edges(wav), measure_edges(wav / 100)
    assert quiet.lead_s == loud.lead_s
    assert quiet.lead_db == pytest.approx(loud.lead_db)
    assert quiet.tail_db == -100.0


@pytest.mark.parametrize("wav", [torch.zeros(RATE), torch.zeros(0), torch.zeros(100)])
def test_nothing_is_said_of_silence(wav: Tensor) -> None:
    found = measure_edges(wav)
    assert (found.lead_s, found.lead_db) == (len(wav) / RATE, None)
    assert "lead_db" not in found.numbers()
