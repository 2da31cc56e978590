"""The held-out batches and the previews of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttstrain.contract.data import Clip
from ttstrain.contract.listening import Listener
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data.choice import chosen
from ttstrain.errors import first_line
from ttstrain.recipe.schema import StageConfig
from ttstrain.train.evaluation_loop import Pieces
from ttstrain.train.prepare import Prepared
from ttstrain.train.preview_choice import Previews, choose_listening, choose_previews
from ttstrain.train.run import Run


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Collated held-out clips, and the previews to generate."""

    batches: Sequence[Pieces]
    previews: Previews
    retained: Sequence[Pieces] = ()  # of the replay data
    stages: Mapping[str, Sequence[Pieces] | None] = field(default_factory=dict)  # of each stage's data; None: all


def hold_out(run: Run, prepared: Prepared) -> HeldOut:
    """Collate the held-out clips once, and choose the previews."""
    recipe = run.plan.recipe
    clips = list(prepared.held_out)[: recipe.eval.max_clips] if run.plan.eval_every is not None else []
    previews = Previews()
    if run.plan.sample_every is not None and run.ranks.main:
        previews = _previews(recipe, prepared, run.listener)
    retained = list(prepared.retained)[: recipe.eval.max_clips] if run.plan.eval_every is not None else []
    return HeldOut(
        batches=_in_one_piece(run, clips),
        previews=previews,
        retained=_in_one_piece(run, retained),
        stages={stage.name: _of_stage(run, stage, clips) for stage in recipe.stages},
    )


def _previews(recipe: ResolvedRecipe, prepared: Prepared, listener: Listener | None) -> Previews:
    """Choose the previews; an error, such as an unreadable recording, turns them off and does not end the run."""
    try:
        chosen = choose_previews(recipe, prepared)
        listening = None if listener is None else choose_listening(recipe, prepared, chosen, listener)
        return Previews(chosen, has_base=recipe.base is not None, listening=listening)
    except Exception as error:
        return Previews(notes=[f"WARNING: previews are off: {first_line(error)}"])


def _of_stage(run: Run, stage: StageConfig, clips: Sequence[Clip]) -> list[Pieces] | None:
    """Collate the held-out clips that pass a stage's filter; None if all of them do."""
    own = chosen(clips, stage.data)
    return None if len(own) == len(clips) else _in_one_piece(run, own)


def _in_one_piece(run: Run, clips: Sequence[Clip]) -> list[Pieces]:
    return [[batch] for batch in run.loader.eval_batches(clips)]
