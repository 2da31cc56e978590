from __future__ import annotations

import pytest
from pydantic import ValidationError

from ttstrain.data.transcript import usual_seconds
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.ids import TOKENS_PER_S
from ttstrain.families.orpheus.layout import pieces_of


@pytest.mark.parametrize(
    "sentence",
    ["The kettle began to sing just as the rain came. ", "आज मौसम बहुत अच्छा है। ", "今日はいい天気ですね。"],
)
def test_a_long_text_is_cut_into_what_the_tokens_have_room_for(sentence: str) -> None:
    text = sentence * 30
    pieces = pieces_of(text, max_tokens=1200)
    assert len(pieces) > 2
    assert all(usual_seconds(piece) < 1200 / TOKENS_PER_S for piece in pieces)
    assert all(piece.endswith(sentence.strip()[-1]) for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("max_tokens", [7, 70, 1200])
def test_a_short_text_stays_whole(max_tokens: int) -> None:
    assert pieces_of("Good morning, all of you. Hello!", max_tokens=max_tokens) == ["Good morning, all of you. Hello!"]


def test_a_voice_that_would_not_be_used_is_refused() -> None:
    for voice in (None, "ann"):
        with pytest.raises(ValidationError, match=r"`sampling\.voice` has no effect"):
            OrpheusConfig.model_validate({"rows": {"voice": voice}, "sampling": {"voice": "tara"}})
    for voice in ("auto", "tara"):
        OrpheusConfig.model_validate({"rows": {"voice": voice}, "sampling": {"voice": "tara"}})
