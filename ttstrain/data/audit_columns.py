"""The audit of a large table whose rows are held in columns and say how long their recordings are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttstrain.contract.data import Clip
from ttstrain.contract.table import RowFinding, RowTable
from ttstrain.data.across_rows import notes_across
from ttstrain.data.in_columns import ClipColumns, RowColumns
from ttstrain.data.many_texts import clean_all, said
from ttstrain.data.measure import NOMINAL_RATE, unmeasured
from ttstrain.data.one_row import audit_row, notes_of
from ttstrain.data.transcript import CleanText
from ttstrain.recipe.schema import DataConfig


def audit_columns(rows: RowColumns, table: RowTable, config: DataConfig) -> tuple[Sequence[Clip], list[RowFinding]]:
    """Do what the audit of rows does with rows whose lengths are given, but make objects only of those with findings.

    Every row has its own recording and id, so that none is a duplicate.
    """
    texts, repaired = clean_all(rows.texts)
    spoken = said(texts)
    ends = np.rint(np.array(rows.seconds) * NOMINAL_RATE)  # (n,)
    seconds = ends / NOMINAL_RATE
    odd = (seconds < config.min_s) | (seconds > config.max_s) | (seconds < spoken.least) | (seconds > spoken.most)
    odd |= spoken.holds_digit
    found: dict[int, tuple[RowFinding, ...]] = {}
    left_out = set()
    for i in sorted({*repaired, *np.flatnonzero(odd).tolist()}):
        text = repaired.get(i) or CleanText(texts[i], ())
        one = audit_row(rows[i], text, unmeasured(rows.seconds[i]), table, config)
        found[i] = one.findings
        if one.clip is None:
            left_out.add(i)
    languages = [language or config.language or "" for language in rows.languages]
    used = replace(rows, texts=texts, languages=languages)
    numbers = [i for i in range(len(rows)) if i not in left_out] if left_out else range(len(rows))
    clips = ClipColumns(used, ends.astype(np.int64), NOMINAL_RATE, {}, numbers)
    for place, more in notes_across(clips).items():
        row = numbers[place]
        added = (RowFinding(rows[row], "accept", reason, why) for reason, why in more)
        found[row] = (*found.get(row, ()), *added)
    notes = {row: notes_of(findings) for row, findings in found.items() if findings and row not in left_out}
    return replace(clips, notes=notes), [finding for row in sorted(found) for finding in found[row]]
