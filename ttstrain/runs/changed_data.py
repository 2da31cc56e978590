"""What a resumed run does when its data have changed since its last start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ttstrain.data.earlier import Earlier, changes, read_earlier, write_changes
from ttstrain.errors import RecipeError
from ttstrain.recipe.compose import COMMAND_LINE, Composed
from ttstrain.train.prepare import Prepared
from ttstrain.train.run import Run

HOLDOUTS = ("data.holdout", "data.replay.holdout")


def clips_before(run: Path | None, composed: Composed) -> tuple[Earlier | None, list[str]]:
    """Read the clips that a run used when it last started; return them with notes for the user. None without a `run`.

    A `data.holdout` or `data.replay.holdout` on the command line makes the held-out clips be drawn again.
    """
    if run is None:
        return None, []
    return read_earlier(run, drawn_anew=[key for key in HOLDOUTS if composed.places.get(key) == COMMAND_LINE])


def check_measurable(prepared: Prepared) -> None:
    """Raise RecipeError when none of a run's held-out clips is left: no evaluation could be made."""
    earlier = prepared.earlier
    if earlier is not None and earlier.data.held_out and not prepared.held_out and not earlier.drawn_anew:
        gone = ", ".join(f"`{clip.id}`" for clip in earlier.data.held_out[:3])
        raise RecipeError(
            f"none of the run's {len(earlier.data.held_out)} held-out clips is left ({gone}): nothing would be "
            "measured",
            hint="restore them; or hold out other clips with `data.holdout=N` (the model has trained on them unless "
            "they are new); or switch evaluation off with `data.holdout=0`",
        )


def tell_changes(run: Run, prepared: Prepared, *, step: int) -> list[str]:
    """Return notes on the clips that changed since the run last started, and list them in its folder."""
    if prepared.earlier is None or prepared.audited is None:
        return []
    before = prepared.earlier
    sides = [(before.data, prepared.train, prepared.held_out)]
    if before.replay is not None:
        sides.append((before.replay, prepared.replay, prepared.retained))
    lines = []
    for found in (changes(*side) for side in sides):
        if found:
            write_changes(run.folder, found, step=step)
            lines += [line for line in (found.note(), *found.warnings()) if line]
    return lines


def forget_measures(
    run: Run, prepared: Prepared, state: Mapping[str, Any], *, keep: Collection[str], step: int
) -> list[str]:
    """Reset the best evaluation and the early stop where the checkpoint measured them on other clips; return notes.

    `state` is that of the checkpoint, made at `step`; `keep` names the parts that were not loaded from it.
    """
    if "best" in keep:
        return []
    then = state.get("best", {}).get("measured") or prepared.measured_before(run.plan.recipe)
    if then is None or then == run.best.measured:
        return _other_metrics(run, state, keep=keep)
    run.best.since = step
    run.guard.first_loss = None
    forgotten = []
    if run.best.step is not None:
        forgotten.append(f"the best loss ({run.best.value:.4f} at step {run.best.step})")
        run.best.forget()
    if run.early_stop is not None and "early_stop" not in keep:
        forgotten.append("the patience of the early stop")
        run.early_stop.restart(run.early_stop.config)
    if not forgotten:
        return []
    return [
        "WARNING: what is measured is not what it was (the held-out clips, their texts, or their micro-batches): "
        f"{' and '.join(forgotten)} {'are' if len(forgotten) > 1 else 'is'} reset: the "
        "losses cannot be compared"
    ]


def _other_metrics(run: Run, state: Mapping[str, Any], *, keep: Collection[str]) -> list[str]:
    """Reset the early stop where the recipe now names another metric; return notes on it and on `checkpoint.best`."""
    lines = []
    best, stop = state.get("best", {}), state.get("early_stop", {})
    if best.get("metric") not in (None, run.best.metric) and run.best.metric is not None:
        lines.append(f"`checkpoint.best` was `{best['metric']}`: the best of `{run.best.metric}` is not known yet")
    config = None if run.early_stop is None or run.plan.staged else run.early_stop.config
    if config is not None and "early_stop" not in keep and stop.get("metric") not in (None, config.metric):
        assert run.early_stop is not None
        run.early_stop.restart(config)
        lines.append(f"`train.early_stop.metric` was `{stop['metric']}`: the patience begins again")
    return lines
