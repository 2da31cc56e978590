"""A run of the user's recipe in a folder that is thrown away."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ttstrain.checkpoint.merging import open_for
from ttstrain.contract.data import Batch
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import OutOfMemoryError, RecipeError
from ttstrain.modules import lora
from ttstrain.plan.plan import Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import Composed
from ttstrain.runs.assemble import Ready, assemble, describe
from ttstrain.runs.base import load_base, record_base
from ttstrain.runs.processes import Processes
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks
from ttstrain.train.faster import check_machine
from ttstrain.train.launched import under_launcher
from ttstrain.train.prepare import ShowProgress, no_progress, prepare
from ttstrain.train.run import Run
from ttstrain.train.step import DidNotFit, train_step


@dataclass(frozen=True, slots=True)
class Scratch:
    """A run that is ready to train in a folder that is thrown away."""

    ready: Ready
    here: Processes

    @property
    def plan(self) -> Plan:
        return self.ready.run.plan


@contextmanager
def scratch_run(composed: Composed, *, show: ShowProgress = no_progress) -> Iterator[Scratch]:
    """Build the recipe's run, with its base and its data, in a folder that is removed at the end of the block.

    Features are computed into the cache, as the run itself would. Trackers write into that folder only. Raises what a
    run of the recipe would raise before its first step, and RecipeError within processes of a launcher.
    """
    if under_launcher():
        raise RecipeError(
            "a trial is made by one process, and this is one of several", hint="start it without a launcher"
        )
    with tempfile.TemporaryDirectory(prefix="ttstrain-trial-") as folder:
        place = Path(folder) / "run"
        place.mkdir()
        recipe = apart(parse(composed), place)
        lora.check_installed(recipe.lora)
        here = Processes(Ranks())
        device = choose_device(recipe.train.device, tf32=recipe.train.tf32)
        check_machine(recipe.train, device)
        base = None if recipe.base is None else open_for(recipe)
        prepared = prepare(recipe, device=device, show=show)
        plan = resolve(recipe, origins=composed.origins, facts=prepared.facts, source_name=composed.name)
        run = assemble(plan, prepared, place, device, here, console=Console(file=io.StringIO(), width=80))
        loaded = None if base is None else load_base(run, base)
        of_base = () if loaded is None else (*loaded.notes, *record_base(run, loaded))
        ready = Ready(run, prepared, (*describe(run, prepared), *of_base))
        try:
            yield Scratch(ready, here)
        finally:
            run.loader.close()
            here.leave()


def take_whole_step(run: Run, batches: Sequence[Batch]) -> None:
    """Take one step without splitting micro-batches. Raises OutOfMemoryError where it does not fit."""
    try:
        train_step(run, batches)
    except DidNotFit as error:
        raise OutOfMemoryError(
            "a step of these micro-batches does not fit in memory, so nothing was measured",
            hint="find what fits first: `ttstrain plan RECIPE --fit SIZE`",
        ) from error


def apart(recipe: ResolvedRecipe, place: Path) -> ResolvedRecipe:
    """Return the recipe with its run in `place`, and with no tracker that writes elsewhere."""
    online = recipe.tracking.wandb in ("online", "auto")
    tracking = {"wandb": "offline" if online else recipe.tracking.wandb, "wandb_checkpoints": "off", "trackio": False}
    return recipe.model_copy(
        update={
            "name": None,
            "run_dir": str(place.parent),
            "tracking": recipe.tracking.model_copy(update=tracking),
        }
    )
