"""What speech is compared with: of a text that several people read, the wanted speaker's recording."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ttstrain.contract.data import Clip
from ttstrain.errors import DataError
from ttstrain.judge import wanted
from ttstrain.judge.ears import Ears
from ttstrain.judge.wanted import MOST_OF_A_VOICE, measure_wanted

RATE = 16_000
TEXTS = ("one sentence", "another one", "and a third", "the last of all")


def clip(name: str, speaker: str, text: str, seconds: float) -> Clip:
    return Clip(id=name, path=Path(name), text=text, speaker=speaker, duration_s=seconds, sample_rate=RATE)


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    """Two people read the same sentences, the second one half as fast."""
    made = [clip(f"anna-{i}", "anna", text, 1.5) for i, text in enumerate(TEXTS)]
    made += [clip(f"more-{i}", "bert", f"more of bert {i}", 3.0) for i in range(MOST_OF_A_VOICE)]
    made += [clip(f"bert-{i}", "bert", text, 3.0) for i, text in enumerate(TEXTS)]

    def read(one: Clip, rate: int) -> torch.Tensor:
        if one.id == "bert-3":
            raise DataError("bert-3 is gone")
        noise = torch.rand(int(one.duration_s * rate), generator=torch.Generator().manual_seed(len(one.id))) - 0.5
        return torch.cat([torch.zeros(rate // 5), noise, torch.zeros(rate // 5)])

    monkeypatch.setattr(wanted, "read_clip", read)
    return made


@pytest.fixture
def ears() -> Iterator[Ears]:
    yield Ears()


def test_each_speaker_is_compared_with_the_own_recording_of_a_text(clips: list[Clip], ears: Ears) -> None:
    found = measure_wanted(clips, texts=[*TEXTS, TEXTS[0]], speakers=["anna", "bert"], ears=ears)
    for speaker, seconds in (("anna", 1.5), ("bert", 3.0)):
        target = found.targets[speaker]
        place = target.find(TEXTS[0])
        assert place is not None
        timing = target.recordings[place].timing
        assert timing is not None
        assert timing.speech_s == pytest.approx(seconds, abs=0.1)
    assert found.notes.count("not compared with: bert-3 is gone") == 1
