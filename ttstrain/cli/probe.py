"""`ttstrain inspect-ckpt --probe`: which interpretation of a checkpoint has the lowest loss on speech."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from ttstrain.cli.progress import show_progress

if TYPE_CHECKING:
    from ttstrain.judge.probe import Probe


def run_probe(path: Path, data: str, *, vocab: Path | None, json: bool) -> None:
    """Probe a checkpoint and print the result, for people or for scripts."""
    from ttstrain.judge.probe import probe

    found = probe(str(path), data, vocab=None if vocab is None else str(vocab), show=show_progress)
    if json:
        print(dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(lines(found)))
    sys.stdout.flush()


def lines(found: Probe) -> list[str]:
    """Lay out the table and the verdict."""
    width = max(len(interpretation.name) for interpretation in found.interpretations)
    clips = len(found.best.clips)
    rows = [
        f"{interpretation.name:<{width}}  {interpretation.loss:7.4f}  {_factor(interpretation.loss / found.best.loss)}"
        f"{'  stated in the file' if interpretation.stated else ''}".rstrip()
        for interpretation in found.interpretations
    ]
    return [
        f"{found.path}: {found.model}",
        f"loss on {clips} clips, the same noise and times for every interpretation",
        *rows,
        f"{'untrained':<{width}}  {found.untrained:7.4f}",
        "",
        *_verdict(found),
    ]


def _factor(ratio: float) -> str:
    return "     best" if ratio == 1 else f"{ratio - 1:+9.1%}"


def _verdict(found: Probe) -> list[str]:
    clips = len(found.best.clips)
    margin = (
        f"{found.margin:.1%} ahead of `{found.interpretations[1].name}` per clip, on {found.ahead} of {clips} clips"
    )
    if not found.learned:
        return [
            "verdict: none. The model is hardly better than an untrained one on these",
            "recordings: it is undertrained, or was trained on another language; try recordings",
            "like its training data.",
        ]
    if not found.decided:
        return [f"verdict: none. The best is {margin},", f"{found.errors:.1f} standard errors: this may be chance."]
    settings = ", ".join(f"{key}: {dumps(value)}" for key, value in found.best.settings.items())
    said = ["WARNING: the file states another interpretation. Trust the measured loss."] if found.contradicted else []
    return [
        f"verdict: {found.best.name}",
        f"{margin}, {found.errors:.1f} standard errors",
        f"in a recipe: model: {{{settings}}}",
        *said,
    ]
