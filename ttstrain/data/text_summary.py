"""Report the tokens of the texts in lines of 80 columns, and show sentences as token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttstrain.contract.data import FrontEnd, Token
from ttstrain.data.readers.rows import printable
from ttstrain.data.texts import VOCAB, TextReport, read_clip_text
from ttstrain.errors import DataError
from ttstrain.layout import LABEL, WIDTH, labelled

if TYPE_CHECKING:
    from rich.text import Text

    from ttstrain.contract.data import Clip

AROUND = 16  # characters of an example on either side of its symbol
MOST_SYMBOLS, MOST_EXAMPLES, MOST_WORDS, MOST_LIBRARIES = 12, 2, 4, 3
INSERTED = "␣"
STYLES = {"inserted": "green", "split": "bold yellow", "unknown": "bold red"}


def text_lines(report: TextReport) -> list[str]:
    """Report the number of tokens, unknown tokens, and split words."""
    versions = [f"{name} {version}" for name, version in report.front_end.items() if name not in (VOCAB, "tokenizer")]
    libraries = ", ".join(versions[:MOST_LIBRARIES]) + (", …" if len(versions) > MOST_LIBRARIES else "")
    read_by = report.front_end.get("tokenizer", "") + (f" ({libraries})" if libraries else "")
    table = f"`{report.vocab_source}`"
    if not report.unknown:
        lines = labelled("text", f"{report.num_tokens:,} tokens by {read_by}, all in {table}")
    else:
        counts = f"{report.num_unknown:,} of {report.num_tokens:,} tokens by {read_by} UNKNOWN to {table} "
        lines = labelled("text", f"{counts}({share(report)}): read as {report.unknown_as}")
        lines += labelled("", some_symbols(report))
        lines += [f"{'':{LABEL}}{example(report, token)}" for token in list(report.unknown)[:MOST_EXAMPLES]]
    if report.split:
        some = ", ".join(printable(read) for _, read in list(report.split)[:MOST_WORDS])
        more = ", …" if len(report.split) > MOST_WORDS else ""
        lines += labelled("", f"{report.num_split:,} of {report.num_words:,} words are read in two: {some}{more}")
    return lines


def share(report: TextReport) -> str:
    """Format the share of unknown tokens in percent, with enough digits that it is not shown as 0."""
    percent = 100 * report.unknown_share
    return f"{percent:.2g} %" if percent < 1 else f"{percent:.1f} %"


def some_symbols(report: TextReport, most: int = MOST_SYMBOLS) -> str:
    """Return the most frequent unknown symbols with their counts."""
    shown = ", ".join(f"{printable(token)} {count:,}" for token, count in list(report.unknown.items())[:most])
    return shown + (f" and {len(report.unknown) - most:,} more symbols" if len(report.unknown) > most else "")


def example(report: TextReport, token: str) -> str:
    """Show an unknown symbol in brackets within its first sentence."""
    text = report.examples[token]
    at = text.find(token)
    if at < 0:  # a syllable, or a symbol that the front end had replaced
        return f"[{printable(token)}] in: {printable(text, limit=2 * AROUND)}"
    before, after = text[max(at - AROUND, 0) : at], text[at + len(token) : at + len(token) + AROUND]
    start = "…" if at > AROUND else ""
    end = "…" if at + len(token) + AROUND < len(text) else ""
    return printable(f"{start}{before}[{token}]{after}{end}", limit=WIDTH - LABEL)


def check_texts(report: TextReport) -> None:
    """Raise DataError, with what to do about it, if the share of unknown tokens is over the limit."""
    if not report.refused:
        return
    first = next(iter(report.unknown))
    raise DataError(
        f"{share(report)} of the texts' tokens are not in the vocabulary `{report.vocab_source}` and would be read as "
        f"{report.unknown_as}, more than `model.max_unknown` ({100 * report.max_unknown:g} %):",
        details=[some_symbols(report), example(report, first)],
        hint="three ways out: a vocabulary that holds them (`ttstrain prepare DATA --recipe RECIPE --vocab-out "
        "vocab.txt`, then `model.vocab=vocab.txt`); other texts; or "
        f"`model.max_unknown={_above(report.unknown_share):g}`, and the model never learns these symbols",
    )


def _above(value: float) -> float:
    """Round up to two digits after the point: a limit that this data set meets."""
    return min(int(value * 100 + 1) / 100, 1.0)


# ---------------------------------------------------------------- sentences


def legend(front_end: FrontEnd) -> str:
    """Explain the marks of `show_tokens`."""
    unknown = f"[x] a symbol that is read as {front_end.unknown_as}"
    return unknown if front_end.separator else f"{INSERTED} a space that the text does not hold, {unknown}"


def show_tokens(clips: Sequence[Clip], front_end: FrontEnd, *, most: int) -> list[Text]:
    """Show sentences as tokens: those with unknown symbols first, then those with split words."""
    read = [read_clip_text(clip, front_end) for clip in clips]
    order = sorted(range(len(read)), key=lambda i: (_rank(read[i]), i))
    return [_shown(read[i], front_end.separator) for i in order[:most]]


def _rank(tokens: Sequence[Token]) -> int:
    kinds = {token.kind for token in tokens}
    return next((rank for rank, kind in enumerate(("unknown", "split")) if kind in kinds), 2)


def _shown(tokens: Sequence[Token], separator: str) -> Text:
    from rich.text import Text

    shown = Text()
    for token in tokens:
        if separator and shown:
            shown.append(separator)
        symbol = printable(token.text)
        if token.kind == "unknown":
            symbol = f"[{symbol}]"
        elif token.kind != "known":
            symbol = INSERTED
        shown.append(symbol, style=STYLES.get(token.kind, ""))
    return shown
