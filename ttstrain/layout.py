"""Text in columns: a label at the left, what belongs to it beside it, in lines of 80 characters."""

from __future__ import annotations

import textwrap

from ttstrain.terminal import on_one_line

WIDTH = 80
LABEL = 10  # columns of the labels at the left


def labelled(
    label: str,
    text: str,
    *,
    column: int = LABEL,
    width: int = WIDTH,
    hang: int = 0,
    break_words: bool = False,
    break_on_hyphens: bool = False,
) -> list[str]:
    """Wrap text beside its label; the further lines begin under the first, `hang` columns to the right.

    A word stays whole, so that a path can be copied, unless `break_words` cuts those that are longer than a line.
    """
    return textwrap.wrap(
        on_one_line(text),
        width=width,
        initial_indent=f"{label:{column}}",
        subsequent_indent=" " * (column + hang),
        break_long_words=break_words,
        break_on_hyphens=break_on_hyphens,
    )
