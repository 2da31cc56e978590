"""Each net is compared with the voice that it is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ttstrain.contract.task import Audio, Prompt, Sample
from ttstrain.infer.load import LoadedModel
from ttstrain.judge.evaluate import Contestant, Sentence, _say_all


class Cloning:
    def sample(self, prompt: Prompt) -> Sample:
        return Sample(Audio(torch.zeros(8), 16_000))


class Named(Cloning):
    voice_names = ("anna", "bert")


@pytest.mark.parametrize(("task", "speaker"), [(Cloning(), "bert"), (Named(), "anna")])
def test_a_net_with_named_voices_is_compared_with_the_named_one(task: Any, speaker: str) -> None:
    reference = Audio(torch.zeros(8), 16_000)  # of bert: anna has no other recording
    sentence = Sentence("001", "text", Prompt("text", reference, "other", speaker="anna"), speaker="bert")
    model = cast(LoadedModel, SimpleNamespace(task=task))
    (said,) = _say_all(model, Contestant("a", "a", "a", "a"), [sentence], [], None)
    assert said.speaker == speaker
