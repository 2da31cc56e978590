"""What `ttstrain eval` prints of invented figures."""

from __future__ import annotations

from judged_sides import side

from ttstrain.judge.rule import stand
from ttstrain.judge.table import Remark, lay_out, merged

BASE = side("base", voice=0.6, pace=1.2)


def test_marks_say_better_and_worse_and_not_more_and_less() -> None:
    base = stand(BASE, None)
    sides = [
        ("base", base),
        ("raw 300", stand(side("online", voice=0.8, pace=1.05, lost=5, mcd=9.0), BASE)),
        ("EMA 300", stand(side("ema", voice=0.5, pace=1.5, mcd=8.0), BASE)),
    ]
    assert lay_out(sides, base) == [
        "                                                  voice   words    pace     MCD",
        "base                                               0.60     8/8    1.20       -",
        "raw 300                                            0.80▲    3/8▼   1.05▲   9.00",
        "EMA 300                                            0.50▼    8/8    1.50▼   8.00",
    ]


def test_a_difference_that_is_rounded_away_has_no_mark() -> None:
    base = side("base", voice=0.6, mcd=9.001)
    line = lay_out([("raw", stand(side("online", voice=0.6, mcd=9.0), base))], stand(base, None))[1]
    assert line.endswith("9.00")


def test_a_name_that_does_not_fit_has_a_line_of_its_own() -> None:
    base = stand(BASE, None)
    lines = lay_out([("a" * 60, base)], base)
    assert lines[1:] == ["a" * 60, f"{'':56}" + "   0.60     8/8    1.20"] and max(map(len, lines)) <= 80


def test_remarks_on_clips_are_one_line_for_each_kind() -> None:
    remarks = [
        Remark("base", "silent"),
        Remark("EMA 300", "too short"),
        Remark("base", "silent"),
        Remark("raw 1", "silent"),
    ]
    assert merged(remarks) == ["silent (clips: base 2, raw 1 1)", "too short (clips: EMA 300 1)"]
