import random

import numpy as np
import torch

from ttstrain.train.rng import Rng


def draws() -> tuple:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_a_restored_state_repeats_every_generator():
    rng = Rng(torch.device("cpu"))
    rng.seed(3)
    draws()
    state = rng.state_dict()
    first = draws()
    rng.load_state_dict(state)
    assert draws() == first


def test_ranks_draw_different_numbers_from_one_seed():
    rng = Rng(torch.device("cpu"))
    rng.seed(3, rank=0)
    first = draws()
    rng.seed(3, rank=1)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    rng.seed(3, rank=0)
    assert draws() == first


def test_preserved_leaves_the_generators_as_they_were_even_after_an_error():
    rng = Rng(torch.device("cpu"))
    rng.seed(5)
    expected = draws()
    rng.seed(5)
    try:
        with rng.preserved():
            draws()
            raise RuntimeError
    except RuntimeError:
        pass
    assert draws() == expected
