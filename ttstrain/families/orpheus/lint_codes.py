"""Checks once codes are computed: clips that cannot be divided, repeated frames, code 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttstrain.contract.data import ClipFinding, Remark, Review
from ttstrain.families.orpheus.codes import count_zeros, deduplicate, deinterleave, frames_to_s
from ttstrain.families.orpheus.divide import Piece

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip
    from ttstrain.families.orpheus.data_config import RowsConfig

LOST_PER_ZERO_S = 0.427  # of sound, by upstream's player


def review_codes(
    clips: Sequence[Clip],
    read: Callable[[Clip], Mapping[str, Tensor]],
    *,
    rows: RowsConfig,
    pieces: Callable[[Clip, Mapping[str, Tensor]], list[Piece] | None],
) -> Review:
    """Check the codes of clips; `pieces` divides a clip."""
    findings: list[ClipFinding] = []
    num_frames = num_removed = num_divided = num_pieces = 0
    zeros = torch.zeros(3, dtype=torch.long)
    used: list[set[int]] = [set(), set(), set()]
    for clip in clips:
        features = read(clip)
        parts = pieces(clip, features)
        if parts is None:
            why = (
                f"over {rows.max_tokens:,} tokens, and no pause between sentences to divide it: cut it, or leave it out"
            )
            findings.append(ClipFinding(clip, "skip", "no_pause", why))
            continue
        num_divided += len(parts) > 1
        num_pieces += len(parts) if len(parts) > 1 else 0
        frames = features["codes"]
        num_frames += len(frames)
        num_removed += deduplicate(frames, rows.dedup).num_removed
        zeros += count_zeros(frames)
        for level, codes in zip(used, deinterleave(frames), strict=True):
            level.update(codes.tolist())
    if not num_frames:
        return Review(tuple(findings))
    remarks = [Remark("codes", f"{num_frames:,} frames · {_used(used)} of 4,096 codes used at the three levels")]
    if rows.dedup != "none":
        share = 100 * num_removed / num_frames
        remarks.append(
            Remark(
                "repeats",
                f"`dedup: {rows.dedup}` leaves out {num_removed:,} frames, {frames_to_s(num_removed):.1f} s of sound "
                f"({share:.1f} %)",
            )
        )
    if num_divided:
        remarks.append(Remark("divided", f"{num_divided:,} long clips into {num_pieces:,} rows"))
    if total := int(zeros.sum()):
        remarks.append(
            Remark(
                "zeros",
                f"{total:,} codes are 0; upstream's player drops up to {LOST_PER_ZERO_S:g} s of sound at each; set "
                "`upstream_decoder_safe` to avoid them",
            )
        )
    return Review(tuple(findings), tuple(remarks))


def _used(used: Sequence[set[int]]) -> str:
    return ", ".join(f"{len(level):,}" for level in used)
