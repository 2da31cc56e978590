"""Pronunciation of English words that no dictionary has: g2p_en's letter-to-phoneme net, in numpy.

The weights are those of g2p_en 2.1.0 (Apache-2.0) in half precision: a GRU reads the letters, another writes phonemes,
always the most probable one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttstrain.families.gpt_sovits.text.symbols import ARPABET

_WEIGHTS = Path(__file__).parent / "data" / "spelling.npz"

_GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_START, _END = "<s>", "</s>"
# The order of the net's outputs; a bare UW is among them.
_PHONEMES = ("<pad>", "<unk>", _START, _END, *sorted({*ARPABET, "UW"} - {"ER", "IH"}))
_MOST_PHONEMES = 20

Array = NDArray[np.float32]


@cache
def guess(word: str) -> tuple[str, ...]:
    """Return the phonemes of a word in lower-case letters, `UW` without stress and `<unk>` included."""
    weights = _weights()
    letters = [_GRAPHEMES.index(c) if c in _GRAPHEMES else 1 for c in word] + [_GRAPHEMES.index("</s>")]
    state = np.zeros(weights["enc_w_hh"].shape[1], np.float32)
    for letter in letters:
        state = _step(weights["enc_emb"][letter], state, weights, "enc")
    phones: list[str] = []
    phone = _PHONEMES.index(_START)
    for _ in range(_MOST_PHONEMES):
        state = _step(weights["dec_emb"][phone], state, weights, "dec")
        phone = int(np.argmax(weights["fc_w"] @ state + weights["fc_b"]))
        if _PHONEMES[phone] == _END:
            break
        phones.append(_PHONEMES[phone])
    return tuple(phone for phone in phones if phone not in ("<pad>", _START))


def _step(x: Array, state: Array, weights: Mapping[str, Array], side: str) -> Array:
    """Advance a GRU with torch's order of gates: reset, update, new."""
    size = len(state)
    inputs = weights[f"{side}_w_ih"] @ x + weights[f"{side}_b_ih"]  # (3 h,)
    states = weights[f"{side}_w_hh"] @ state + weights[f"{side}_b_hh"]  # (3 h,)
    gates = np.reciprocal(1 + np.exp(-(inputs[: 2 * size] + states[: 2 * size])))
    reset, update = gates[:size], gates[size:]
    new: Array = np.tanh(inputs[2 * size :] + reset * states[2 * size :])
    state = (1 - update) * new + update * state
    return state  # noqa: RET504 (numpy's operators are typed as Any)


@cache
def _weights() -> Mapping[str, Array]:
    with np.load(_WEIGHTS) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}
