from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttstrain.families.orpheus.codes import (
    count_zeros,
    deduplicate,
    deinterleave,
    find_breach,
    from_ids,
    interleave,
    to_ids,
)
from ttstrain.families.orpheus.ids import PUBLISHED, TokenIds

SMALL = TokenIds(first_custom=300, bos=256, eot=258)


def random_frames(n: int, *, seed: int = 0) -> Tensor:
    return torch.randint(4096, (n, 7), generator=torch.Generator().manual_seed(seed))


def test_a_frame_walks_the_tree_depth_first() -> None:
    levels = [torch.tensor([10]), torch.tensor([20, 21]), torch.tensor([30, 31, 32, 33])]
    assert interleave(levels).tolist() == [[10, 20, 30, 31, 21, 32, 33]]


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("ids", [PUBLISHED, SMALL])
def test_everything_has_its_inverse(n: int, ids: TokenIds) -> None:
    frames = random_frames(n)
    assert torch.equal(interleave(deinterleave(frames)), frames)
    assert torch.equal(from_ids(to_ids(frames, ids), ids), frames)


def test_every_slot_has_ids_of_its_own() -> None:
    seen = [token for slot in range(7) for token in PUBLISHED.slot_ids(slot)]
    assert seen == list(range(128_266, 156_938))
    assert to_ids(torch.full((1, 7), 4095)).tolist() == [PUBLISHED.slot_ids(slot)[-1] for slot in range(7)]
    assert PUBLISHED.of(6, 4095) == 156_937


def test_levels_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not n, 2n and 4n"):
        interleave([torch.zeros(2), torch.zeros(4), torch.zeros(7)])
    with pytest.raises(ValueError, match="3 levels"):
        interleave([torch.zeros(2), torch.zeros(4)])


@pytest.mark.parametrize("code", [-1, 4096])
def test_an_illegal_code_is_named_and_never_clamped(code: int) -> None:
    frames = random_frames(5)
    frames[3, 4] = code
    with pytest.raises(ValueError, match=rf"code {code} of frame 3, slot 4"):
        to_ids(frames)
    with pytest.raises(ValueError, match="there is no token for"):
        PUBLISHED.of(4, code)


def test_the_first_breach_of_the_slot_order_is_found_where_it_is() -> None:
    tokens = to_ids(random_frames(4))
    assert find_breach(tokens) is None
    tokens[16] += 4096  # slot 2 of frame 2
    breach = find_breach(tokens)
    assert breach is not None
    assert (breach.position, breach.expected_slot) == (16, 2)
    with pytest.raises(ValueError, match=r"token 16 \(frame 2\): slot 2 expected, slot 3 code"):
        from_ids(tokens)


def test_a_lost_token_is_a_breach_right_there() -> None:
    tokens = to_ids(random_frames(4))
    breach = find_breach(torch.cat([tokens[:9], tokens[10:]]))
    assert breach is not None
    assert breach.position == 9


def test_a_broken_off_frame_is_a_breach_at_its_end() -> None:
    breach = find_breach(to_ids(random_frames(2))[:-3])
    assert str(breach) == "token 11 (frame 1): slot 4 expected, the end found"


@pytest.mark.parametrize(("token", "name"), [(128_258, "EOS"), (17, "text 17"), (156_938, "spare token 156938")])
def test_what_is_found_in_place_of_a_code_has_a_name(token: int, name: str) -> None:
    tokens = to_ids(random_frames(1))
    tokens[5] = token
    assert str(find_breach(tokens)) == f"token 5 (frame 0): slot 5 expected, {name} found"


# ---------------------------------------------------------------- repeats


def repeated(*coarse: int) -> Tensor:
    frames = random_frames(len(coarse))
    frames[:, 0] = torch.tensor(coarse)
    return frames


def test_upstreams_rule_compares_the_coarse_code_with_the_last_kept_frame() -> None:
    frames = repeated(5, 5, 5, 7, 5, 5)
    left = deduplicate(frames, "slot0")
    assert left.kept.tolist() == [0, 3, 4]
    assert torch.equal(left.frames, frames[[0, 3, 4]])
    assert left.num_removed == 3
    assert left.seconds_removed == pytest.approx(3 * 2048 / 24_000)


def test_exact_repeats_are_equal_in_all_seven() -> None:
    frames = repeated(5, 5, 5, 5)
    assert deduplicate(frames, "exact7").num_removed == 0
    frames[2] = frames[1]
    assert deduplicate(frames, "exact7").kept.tolist() == [0, 1, 3]


@pytest.mark.parametrize("how", ["slot0", "exact7", "none"])
@pytest.mark.parametrize("n", [0, 1])
def test_there_is_no_repeat_without_a_second_frame(how: str, n: int) -> None:
    assert deduplicate(random_frames(n), how).num_removed == 0


def test_none_keeps_every_frame() -> None:
    assert deduplicate(repeated(5, 5), "none").kept.tolist() == [0, 1]


def test_zeros_are_counted_by_level() -> None:
    frames = torch.ones(3, 7, dtype=torch.long)
    frames[0, 0] = frames[1, 1] = frames[1, 4] = frames[2, 6] = 0
    assert count_zeros(frames).tolist() == [1, 2, 1]
