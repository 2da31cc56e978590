"""What a run trains: data, base, batch and settings. Two runs with the same facts differ by their seed only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.digest import sha256

SETTINGS = ("model", "optim")  # sections whose values may be the cause of other curves


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides a run's curves beside its seed."""

    task: str
    base: str  # checksum of its weights; "" from scratch
    clips: int  # held-out ones included
    ids: str  # hash of the clips' ids
    texts: str  # hash of the texts, whichever clips they belong to
    pairs: str  # hash of the clips with their texts
    sounds: str  # hash of the clips with their sound files
    batch: Mapping[str, Any]  # settings that decide the size of a step
    ways: Mapping[str, bool]  # ways of training that a recipe may add, such as adapters
    trained: int  # parameters in a group that trains
    front_end: Mapping[str, str]  # versions of the text front end, the vocabulary's included
    settings: Mapping[str, Any]  # dotted key -> value

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def read_facts(values: Mapping[str, Any]) -> Facts:
    """Read what `to_json` wrote. Raises TypeError or KeyError where it is something else."""
    return Facts(**{name: values[name] for name in Facts.__slots__})


def gather_facts(
    recipe: ResolvedRecipe,
    clips: Sequence[Clip],
    *,
    base: str,
    trained: int,
    world_size: int,
    front_end: Mapping[str, str],
) -> Facts:
    """Collect the facts of a run; `clips` are its training and held-out clips."""
    written = recipe.model_dump(mode="json")
    known = sorted(clips, key=lambda clip: clip.id)
    return Facts(
        task=recipe.task,
        base=base,
        clips=len(known),
        ids=_hash(clip.id for clip in known),
        texts=_hash(sorted(clip.text for clip in known)),
        pairs=_hash(f"{clip.id}\t{clip.text}" for clip in known),
        sounds=_hash(f"{clip.id}\t{clip.digest}" for clip in known),
        batch={
            "data.batch_frames": recipe.data.batch_frames,
            "data.max_clips": recipe.data.max_clips,
            "train.accumulate": recipe.train.accumulate,
            "train.step_frames": recipe.train.step_frames,
            "processes": world_size,
        },
        ways={
            "lora": recipe.lora is not None,
            "stages": bool(recipe.stages),
            "data.replay": recipe.data.replay is not None,
        },
        trained=trained,
        front_end=dict(front_end),
        settings={key: value for section in SETTINGS for key, value in _leaves(written.get(section), section)},
    )


def why_not_comparable(run: Facts, reference: Facts) -> str:
    """Return why a run cannot be compared with reference runs; "" where it can."""
    if run.ids != reference.ids:
        same = "as many" if run.clips == reference.clips else f"{run.clips:,} clips instead of {reference.clips:,}"
        return f"it trains on other data ({same if same != 'as many' else f'{run.clips:,} other clips'})"
    if run.base != reference.base:
        return "it starts from scratch" if not run.base else "it starts from another base"
    if run.task != reference.task:
        return f"it trains `{run.task}`"
    if differing := [key for key, value in run.ways.items() if value != reference.ways.get(key)]:
        return f"`{differing[0]}` is another way of training"
    for key, value in run.batch.items():
        if value != reference.batch.get(key):
            return f"its steps have another size (`{key}` is {value}, not {reference.batch.get(key)})"
    return ""


def _leaves(tree: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{at}.{key}")
    else:
        yield at, tree


def _hash(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines))[:16]
