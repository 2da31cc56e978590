"""Start a new run from its base weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ttstrain.checkpoint.merging import open_for
from ttstrain.modules import lora
from ttstrain.optim.settings import check_installed
from ttstrain.plan.resolve import parse, resolve
from ttstrain.plan.sharding import Room
from ttstrain.recipe.compose import Composed
from ttstrain.runs import folder
from ttstrain.runs.assemble import Ready, assemble, check_alike, describe
from ttstrain.runs.banded import settle_band
from ttstrain.runs.base import load_base, record_base
from ttstrain.runs.measured import foresee
from ttstrain.runs.processes import Processes, join_processes
from ttstrain.runs.tracked import tracked
from ttstrain.train.faster import check_machine
from ttstrain.train.loop import train
from ttstrain.train.prepare import ShowProgress, no_progress, prepare


def start(composed: Composed, *, show: ShowProgress = no_progress) -> Path:
    """Start a new run from its base weights, train it and return its folder."""
    with join_processes() as here:
        ready = begin(composed, composed.name, here, show=show)
        with tracked(ready, here, foresee(ready)) as training:
            training.status = train(ready.run, training.held_out, training.snapshots)
    return ready.run.folder


def begin(composed: Composed, name: str, here: Processes, *, show: ShowProgress, place: Path | None = None) -> Ready:
    """Get a run ready to train from its base, in a new folder or in `place`, the folder of its earlier start.

    The base is opened before the data are prepared, so that a bad file shows at once: preparing may take hours. Its
    weights are loaded afterwards.
    """
    recipe = parse(composed)
    device = here.choose_device(recipe)
    lora.check_installed(recipe.lora)
    check_installed(recipe.optim)
    check_machine(recipe.train, device)
    if here.ranks.main and place is None:
        folder.check_name(recipe)
    base = None if recipe.base is None else open_for(recipe)
    prepared = prepare(recipe, device=device, ranks=here.ranks, show=show)
    plan = resolve(
        recipe,
        origins=composed.origins,
        facts=prepared.facts,
        world_size=here.ranks.world_size,
        source_name=name,
        room=Room(here.gpu_memory(device)),
    )
    place = place or here.hold(lambda: folder.create(plan))
    run = assemble(plan, prepared, place, device, here)
    loaded = None if base is None else load_base(run, base)
    check_alike(run)
    described = describe(run, prepared)
    of_base = () if loaded is None else (*loaded.notes, *record_base(run, loaded))
    ready = Ready(run, prepared, (*described, *here.notes, *of_base))
    if not here.ranks.main:
        return ready
    return replace(ready, notes=(*ready.notes, *settle_band(ready, composed.name)))
