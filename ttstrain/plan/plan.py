"""A plan: what a run will do, decided before it does it. Frozen, and made without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ttstrain.contract.data import Remark
from ttstrain.contract.model import MemoryScheme, ParameterCounts, ResolvedRecipe
from ttstrain.data.texts import TextReport
from ttstrain.optim.stages import Curriculum, Stage
from ttstrain.recipe.schema import Schedule

ON_HOST = frozenset({"snapshot", "offloaded"})
"""Parts of a plan's memory that lie in the host's, not on the device."""


@dataclass(frozen=True, slots=True)
class ReplayFacts:
    """What the audit found of the clips that are replayed."""

    num_clips: int  # clips to draw from that fit into a micro-batch
    hours: float  # of those clips
    num_holdout: int  # held-out clips that measure retention
    num_shared: int  # clips left out because the data hold the same recording
    num_overlong: int  # clips left out because no micro-batch can hold them
    skipped: Mapping[str, int]
    fixed: Mapping[str, int]
    clips_per_epoch: int  # in the first epoch; later ones differ by a few
    frames_per_epoch: int


@dataclass(frozen=True, slots=True)
class StageFacts:
    """The data that a stage's filter selects."""

    num_clips: int  # that a micro-batch can hold
    hours: float
    num_holdout: int
    batches_per_epoch: int  # replayed clips included, over all processes


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the audit found, as far as a plan depends on it."""

    num_clips: int  # training clips that fit into a micro-batch
    hours: float  # of those clips
    num_holdout: int
    skipped: Mapping[str, int]  # reason -> rows left out
    fixed: Mapping[str, int]  # note -> rows repaired
    frames: tuple[int, ...]  # lengths of all training clips, those that no micro-batch can hold included
    batches_per_epoch: int  # micro-batches, over all processes
    padding_share: float
    overlong: tuple[str, ...] = ()  # ids of the clips that no micro-batch can hold
    remarks: tuple[Remark, ...] = ()  # of the family
    replay: ReplayFacts | None = None
    stages: tuple[StageFacts, ...] = ()  # of the recipe's stages, in order
    texts: TextReport | None = None  # of all clips; None where the family has no front end


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A parameter group as the recipe's rules define it; its number of parameters depends on the model."""

    optimizer: str
    name: str
    lr: float  # peak
    weight_decay: float
    schedule: Schedule
    frozen: bool | tuple[int, int] = False  # for good, or in steps [from, to)
    layer_decay: float | None = None  # the LR falls by this factor per layer, from the last to the first

    @property
    def key(self) -> str:
        """The group's name in log keys."""
        return f"{self.optimizer}/{self.name}"

    @property
    def rule(self) -> str:
        """The group's name in the recipe's stages."""
        return self.name


@dataclass(frozen=True, slots=True)
class Sharding:
    """How many processes hold the weights once together."""

    degree: int
    why: str | None = None  # of a degree that was chosen; None where the recipe sets it
    fits: bool | None = None  # whether a process's memory fits the GPU, where that decided


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with every value resolved that depends on the data and the number of processes."""

    recipe: ResolvedRecipe
    origins: Mapping[str, str]  # dotted leaf -> "default" | "configs/..." | "recipe" | "command line"
    name: str
    steps: int
    steps_per_epoch: float
    stages: tuple[Stage, ...]  # one without a name where the recipe has none
    warmup_steps: int  # of the run's schedule, in the first stage; a group may have its own
    eval_every: int | None
    sample_every: int | None
    save_every: int
    snapshot_every: int
    ema_decay: float | None
    ema_horizon: int | None  # steps
    groups: tuple[GroupPlan, ...]
    facts: DataFacts
    world_size: int
    sharding: Sharding
    accumulate: int  # micro-batches in one step, on each device
    parameters: ParameterCounts
    memory: Mapping[str, int]  # bytes per part; all but `ON_HOST` on the device, `activations` where they are counted
    disk_bytes: int  # of all checkpoints on disk when the run ends
    num_checkpoints: int  # on disk when the run ends
    schemes: tuple[MemoryScheme, ...] = ()  # ways to train the model, where its family compares them

    @property
    def memory_bytes(self) -> int:
        """Bytes on the device."""
        return on_device(self.memory)

    @property
    def snapshot_disk_bytes(self) -> int:
        """Bytes of rollback snapshots on disk: an old one is removed once the next one is complete."""
        return 2 * self.disk_bytes // self.num_checkpoints if self.recipe.guard.snapshot == "disk" else 0

    @property
    def epochs(self) -> float:
        return sum(stage.steps / stage.steps_per_epoch for stage in self.stages)

    @property
    def staged(self) -> bool:
        """Whether the recipe divides the run into stages."""
        return bool(self.recipe.stages)

    def _stages(self) -> list[dict[str, Any]]:
        if not self.staged:
            return []
        places = Curriculum(self.stages).places()
        return [
            {
                "name": place.stage.name,
                "first_step": place.start,
                "steps": place.stage.steps,
                "steps_per_epoch": place.stage.steps_per_epoch,
                "lrs": {
                    group.key: place.stage.peak_lr(group) if place.stage.trains(group) else 0.0
                    for group in self.groups
                    if group.frozen is not True
                },
                **asdict(facts),
            }
            for place, facts in zip(places, self.facts.stages, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        facts = self.facts
        lengths = sorted(facts.frames)
        return {
            "name": self.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "origins": dict(self.origins),
            "steps": self.steps,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "stages": self._stages(),
            "warmup_steps": self.warmup_steps,
            "eval_every": self.eval_every,
            "sample_every": self.sample_every,
            "save_every": self.save_every,
            "snapshot_every": self.snapshot_every,
            "ema_decay": self.ema_decay,
            "ema_horizon": self.ema_horizon,
            "groups": [
                {
                    "optimizer": group.optimizer,
                    "name": group.name,
                    "lr": group.lr,
                    "weight_decay": group.weight_decay,
                    "schedule": group.schedule.model_dump(mode="json"),
                    "frozen": list(group.frozen) if isinstance(group.frozen, tuple) else group.frozen,
                    "layer_decay": group.layer_decay,
                }
                for group in self.groups
            ],
            "data": {
                "num_clips": facts.num_clips,
                "hours": facts.hours,
                "num_holdout": facts.num_holdout,
                "skipped": dict(facts.skipped),
                "fixed": dict(facts.fixed),
                "shortest_frames": lengths[0],
                "median_frames": lengths[len(lengths) // 2],
                "longest_frames": lengths[-1],
                "batches_per_epoch": facts.batches_per_epoch,
                "padding_share": facts.padding_share,
                "overlong": list(facts.overlong),
                "replay": None if facts.replay is None else asdict(facts.replay),
                "texts": None if facts.texts is None else facts.texts.to_json(),
            },
            "world_size": self.world_size,
            "sharding": asdict(self.sharding),
            "accumulate": self.accumulate,
            "num_parameters": self.parameters.total,
            "num_trained": self.parameters.trained,
            "num_adapters": self.parameters.adapters,
            "memory": dict(self.memory),
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "snapshot_disk_bytes": self.snapshot_disk_bytes,
            "schemes": [asdict(scheme) for scheme in self.schemes],
            "num_checkpoints": self.num_checkpoints,
        }


def on_device(memory: Mapping[str, int]) -> int:
    """Return the bytes on the device, given those of every part."""
    return sum(size for part, size in memory.items() if part not in ON_HOST)
