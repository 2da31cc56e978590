"""Which clips a stage of a run trains on. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ttstrain.contract.data import Clip
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import StageConfig, StageData


def chosen(clips: Sequence[Clip], wanted: StageData) -> list[Clip]:
    """Return the clips that a stage's `data` chooses, in order."""
    return [clip for clip in clips if _fits(clip, wanted)]


def choose_ids(clips: Sequence[Clip], stages: Sequence[StageConfig]) -> dict[str, frozenset[str]]:
    """Map each stage to the ids of its clips."""
    return {stage.name: frozenset(clip.id for clip in chosen(clips, stage.data)) for stage in stages}


def check_choices(stages: Sequence[StageConfig], train: Sequence[Clip], held_out: Sequence[Clip]) -> None:
    """Refuse a filter with a name that no clip has, and one that leaves nothing to train on."""
    clips = [*train, *held_out]
    for index, stage in enumerate(stages):
        key, wanted = f"stages.{index}.data", stage.data
        for name, values, known in (
            ("speakers", wanted.speakers, [clip.speaker for clip in clips]),
            ("languages", wanted.languages, [clip.language for clip in clips]),
        ):
            for value in values:
                if value not in known:
                    raise RecipeError(f"`{key}.{name}`: no clip has `{value}`", hint=_known(value, known))
        for pattern in wanted.clips:
            if not any(fnmatchcase(clip.id, pattern) for clip in clips):
                raise RecipeError(
                    f"`{key}.clips`: pattern `{pattern}` matches no clip", hint=f"ids look like `{clips[0].id}`"
                )
        if not chosen(train, wanted):
            raise RecipeError(
                f"`{key}` leaves stage `{stage.name}` nothing to train on", hint=_why_nothing(train, wanted)
            )


def _fits(clip: Clip, wanted: StageData) -> bool:
    return all(_passes(clip, wanted).values())


def _passes(clip: Clip, wanted: StageData) -> Mapping[str, bool]:
    """Say for each key whether it lets the clip pass."""
    return {
        "speakers": not wanted.speakers or clip.speaker in wanted.speakers,
        "languages": not wanted.languages or clip.language in wanted.languages,
        "min_s": wanted.min_s is None or clip.duration_s >= wanted.min_s,
        "max_s": wanted.max_s is None or clip.duration_s <= wanted.max_s,
        "clips": not wanted.clips or any(fnmatchcase(clip.id, pattern) for pattern in wanted.clips),
    }


def _known(value: str, known: Sequence[str]) -> str:
    names = sorted({name for name in known if name})
    if not names:
        return "the data name none"
    near = difflib.get_close_matches(value, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(f'`{name}`' for name in names[:5])}"


def _why_nothing(clips: Sequence[Clip], wanted: StageData) -> str:
    """Count what each key lets pass by itself."""
    passed = [_passes(clip, wanted) for clip in clips]
    counts = {key: sum(one[key] for one in passed) for key in passed[0]} if passed else {}
    narrow = [f"`{key}` lets {count} of {len(clips)} clips pass" for key, count in counts.items() if count < len(clips)]
    return f"{', '.join(narrow)}, all of them together none"
