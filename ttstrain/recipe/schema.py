"""The schema of a recipe, and the one place where a default lives.

A recipe is a YAML file. Every key here can be set in it, in a config it extends, or as `key=value` on the command line;
any other key is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from typing_extensions import Self

Auto = Literal["auto"]
Share = Annotated[float, Field(gt=0, lt=1)]
HeldOutShare = Annotated[float, Field(gt=0, le=0.5)]
# Every number has two bounds. The upper ones lie far beyond any use, and below what overflows or never ends.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Number = Annotated[int, Field(ge=0, le=1_000_000)]
Steps = Annotated[int, Field(ge=1, le=100_000_000)]
Step = Annotated[int, Field(ge=0, le=100_000_000)]
Frames = Annotated[int, Field(ge=1, le=1_000_000_000)]
StepsOrShare = Step | Share
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate; what is too high for an optimizer is refused by the plan."""
Factor = Annotated[float, Field(gt=0, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Norm = Annotated[float, Field(gt=0, le=1e12)]
Seed = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""A width, or another size of a layer."""
Depth = Annotated[int, Field(ge=1, le=1024)]
"""Layers on top of each other."""
Rows = Annotated[int, Field(ge=1, le=10_000_000)]
"""Rows of a table, or a position in it."""
LONGEST_NAME = 200
"""Bytes of a run's name: file systems take 255, and a folder beside it gets an ending."""

LONGEST_PART = 255
"""Bytes of one part of a path, as file systems have it."""


def _short_enough(name: str) -> str:
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name):,} letters: no folder can be called that; {LONGEST_NAME} bytes at most")
    return name


def _possible(path: str) -> str:
    parts = (part for part in path.split("/") if len(part.encode("utf-8", "surrogatepass")) > LONGEST_PART)
    if longest := max(parts, key=len, default=""):
        raise ValueError(f"`{longest[:20]}…` has {len(longest):,} letters: no file is called that")
    return os.path.expanduser(path)  # noqa: PTH111 -- `Path` would write `hf://` as `hf:/`


Name = Annotated[str, AfterValidator(_short_enough)]
UserPath = Annotated[str, Field(min_length=1), AfterValidator(_possible)]


EITHER_OR: Mapping[str, str] = {"train.steps": "train.epochs", "train.epochs": "train.steps"}
"""Keys that say the same thing in two ways: a later layer's replaces an earlier layer's other one."""


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, values: Any) -> Any:
        """Refuse `true` where it would count as 1."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            takes_bool = field.annotation is bool or bool in get_args(field.annotation)
            if isinstance(values.get(name), bool) and not takes_bool:
                raise ValueError(f"`{name}` takes neither true nor false")
        return values


# ---------------------------------------------------------------- data


class ReplayConfig(Section):
    path: UserPath
    """Recordings of what must not be forgotten, mixed into every epoch: a folder or a table, as `data.path`."""
    format: str = "auto"
    """Layout of `path`; `auto` looks at the content."""
    language: str | None = None
    """Language of rows that name none."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of an epoch's frames that are replayed, drawn anew for each; 0 only measures what is forgotten."""
    holdout: Number | HeldOutShare = 0.05
    """Clips kept to measure retention, counted as `data.holdout`; 0 measures none."""


class DataConfig(Section):
    path: UserPath | None = None
    """Folder of recordings, metadata file, or `package:demo` for the speech that ships with ttstrain."""
    format: str = "auto"
    """Layout of `path`; `auto` looks at the content."""
    language: str | None = None
    """Language of rows that name none."""
    holdout: Number | HeldOutShare = 0.05
    """Clips kept for evaluation: a number, or a share (never fewer than 1 nor more than 64)."""
    min_s: Seconds = 0.3
    """Shorter clips are skipped."""
    max_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """Longer clips are skipped."""
    batch_frames: Frames = 3200
    """Budget of one micro-batch on one device, in frames including padding."""
    max_clips: Count = 64
    """Most clips in one micro-batch."""
    features: Literal["auto", "memory", "disk", "device"] = "auto"
    """Where features are read from while training; `auto` takes memory while they fit in 1 GB."""
    cache_dir: UserPath | None = None
    """Where features are cached; default `$TTSTRAIN_CACHE`, else `~/.cache/ttstrain`."""
    workers: Annotated[int, Field(ge=0, le=256)] | Auto = "auto"
    """Processes that load data; `auto` needs none while features are in memory."""
    replay: ReplayConfig | None = None
    """Other clips mixed in against forgetting."""


# ---------------------------------------------------------------- adapters


class LoraConfig(Section):
    rank: Annotated[int, Field(ge=1, le=8192)] = 16
    """Width of the two matrices that each adapted layer gets."""
    alpha: Annotated[float, Field(gt=0, le=65_536)] = 32.0
    """Their product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the adapters' input."""
    targets: Annotated[list[str], Field(min_length=1)] | Auto = "auto"
    """Patterns of the linear layers that are adapted, such as `*.attn.to_q`; `auto` takes those of the task."""
    unfrozen: list[str] = []
    """Patterns of parameters that are trained whole besides the adapters, such as `*text_embed*` for new symbols."""
    dora: bool = False
    """Learn each row's length apart from its direction."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), which lets a larger rank learn more."""


# ---------------------------------------------------------------- schedules


class _Schedule(Section):
    warmup_steps: StepsOrShare | Auto = "auto"
    """Steps of linear warmup, a share of the run, or `auto`: 5 %, at least 500 steps when the run has 5000 or more."""
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Factor of the peak LR at which warmup starts."""


class Constant(_Schedule):
    kind: Literal["constant"] = "constant"


class Linear(_Schedule):
    kind: Literal["linear"] = "linear"
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """LR at the last step, as a factor of the peak."""


class Cosine(_Schedule):
    kind: Literal["cosine"] = "cosine"
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """LR at the last step, as a factor of the peak."""


class CosineRestarts(_Schedule):
    kind: Literal["cosine_restarts"] = "cosine_restarts"
    t_0: Steps = 5000
    """Steps in the first cycle after warmup."""
    t_mult: Annotated[int, Field(ge=1, le=1000)] = 2
    """Each cycle is this many times as long as the one before."""
    eta_min: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """LR at the bottom of each cycle, absolute."""


class WarmupStableDecay(_Schedule):
    kind: Literal["wsd"] = "wsd"
    decay_steps: StepsOrShare = 0.2
    """Steps of the final decay, or a share of the run."""
    decay: Literal["linear", "cosine", "sqrt"] = "sqrt"
    """Shape of the final decay; `sqrt` is 1 - sqrt(x)."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """LR at the last step, as a factor of the peak."""


class Exponential(_Schedule):
    kind: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.999875
    """Factor per epoch, applied at each epoch's start."""


class ChainedLinear(_Schedule):
    kind: Literal["f5_linear"] = "f5_linear"
    """Linear from 1e-8 x LR up to LR and linearly down to 1e-8 x LR, where it stays: torch's LinearLR twice."""
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 1e-8


def _default_kind(value: Any) -> Any:
    return {"kind": "cosine", **value} if isinstance(value, Mapping) else value


Schedule = Annotated[
    Constant | Linear | Cosine | CosineRestarts | WarmupStableDecay | Exponential | ChainedLinear,
    Field(discriminator="kind"),
    BeforeValidator(_default_kind),
]
SCHEDULES: Mapping[str, type[_Schedule]] = {
    schedule.model_fields["kind"].default: schedule for schedule in get_args(get_args(Schedule)[0])
}


# ---------------------------------------------------------------- optimizers

OptimizerKind = Literal["adamw", "adamw8bit", "lion", "adan", "muon", "schedule_free_adamw", "scaled_adam", "sgd"]


class GroupRule(Section):
    name: Name
    """How the group is called in logs: `optim/lr/<optimizer>/<name>`."""
    match: list[str] = Field(min_length=1)
    """Patterns over parameter names (`*` and `?` as in a shell). The first rule that matches wins."""
    lr: Rate | None = None
    """Peak LR of the group."""
    lr_scale: Factor | None = None
    """Peak LR of the group as a factor of its optimizer's."""
    weight_decay: Decay | None = None
    betas: tuple[Beta, Beta] | None = None
    max_grad_norm: Norm | None = None
    """Clip the group's gradients by themselves to this norm; the optimizer's own `max_grad_norm` is for the others."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor per layer from the last to the first, layers counted by the first number in a parameter's name."""
    frozen: bool | tuple[Step, Step] = False
    """Never trained, or not trained in steps [from, to)."""
    schedule: Schedule | None = None
    """Schedule of this group, when it differs from the run's."""

    @model_validator(mode="after")
    def _one_lr(self) -> GroupRule:
        if self.lr is not None and self.lr_scale is not None:
            raise ValueError("give `lr` or `lr_scale`, not both")
        return self

    @model_validator(mode="after")
    def _ordered_range(self) -> GroupRule:
        if isinstance(self.frozen, tuple) and not self.frozen[0] < self.frozen[1]:
            raise ValueError("`frozen: [from, to]` wants 0 <= from < to")
        return self


class OptimizerOverride(Section):
    """What one named optimizer of a task does differently; unset keys are taken from `optim`."""

    kind: OptimizerKind | None = None
    lr: Rate | None = None
    weight_decay: Decay | None = None
    betas: tuple[Beta, Beta] | None = None
    eps: Annotated[float, Field(gt=0, le=1)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_grad_norm: Norm | None = None


class OptimConfig(Section):
    kind: OptimizerKind = "adamw"
    lr: Rate = 1e-5
    """Peak LR of every parameter that no group rule gives another."""
    weight_decay: Decay = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For `sgd` and `muon`."""
    decay_norms_and_biases: bool = False
    """Apply weight decay to gains and offsets of whatever shape too, as upstream trainers do."""
    max_grad_norm: Norm | None = 1.0
    """Clip each optimizer's gradients to this norm; null never clips."""
    groups: list[GroupRule] = []
    """Layers: named groups with their own LR. Parameters that no rule matches form the group `default`."""
    optimizers: dict[str, OptimizerOverride] = {}
    """Per-optimizer settings of a task that has several, such as `discriminator`."""
    schedule: Schedule = Cosine()


# ---------------------------------------------------------------- training


class EarlyStop(Section):
    metric: str = "eval/loss/total"
    patience: Count = 5
    """Evaluations without improvement before the run stops."""
    min_delta: Weight = 0.0


class StageStop(EarlyStop):
    metric: str = "eval/stage/total"
    """Of the held-out clips that the stage's `data` chooses; `eval/loss/total` is of all."""


class StageData(Section):
    """Which clips a stage trains on; keys that are left out choose all."""

    speakers: list[str] = []
    languages: list[str] = []
    min_s: Seconds | None = None
    max_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    clips: list[str] = []
    """Patterns over clip ids (`*` and `?` as in a shell)."""


class StageConfig(Section):
    """One part of a run with its own data, learning rates and frozen groups."""

    name: Annotated[Name, Field(pattern=r"^[\w-]+$")]
    steps: Steps | None = None
    """Length in updates."""
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Length in passes over the stage's clips, instead of `steps`."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Length as a share of `train.steps`, instead of `steps`; the shares of all stages add up to 1."""
    lr_scale: Factor = 1.0
    """Factor of every group's peak LR."""
    group_lr_scale: dict[str, Factor] = {}
    """Further factors, by group: a name or pattern, or `<optimizer>/<name>`."""
    frozen: list[str] = []
    """Groups that the stage does not train, named likewise."""
    only: list[str] = []
    """Groups that the stage trains, instead of `frozen`; all others are frozen."""
    schedule: Schedule | None = None
    """Schedule of every group in this stage; else each group's own begins again, warmup included."""
    data: StageData = StageData()
    early_stop: StageStop | None = None
    """When to go on to the next stage before the last step; else as `train.early_stop` says."""

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        given = [key for key in ("steps", "epochs", "share") if getattr(self, key) is not None]
        if len(given) != 1:
            what = f"both {' and '.join(f'`{key}`' for key in given)}" if given else "no length"
            raise ValueError(f"stage `{self.name}` has {what}: give one of `steps`, `epochs` and `share`")
        return self

    @model_validator(mode="after")
    def _frozen_or_only(self) -> StageConfig:
        if self.frozen and self.only:
            raise ValueError(f"stage `{self.name}`: give `frozen` or `only`, not both")
        return self


class TrainConfig(Section):
    steps: Steps | Auto | None = None
    """Length of the run in updates; `auto` derives it from the hours of data."""
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Length of the run in passes over the data, instead of `steps`."""
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Micro-batches in one step, on each device."""
    step_frames: Frames | None = None
    """Frames in one step over all devices, instead of `accumulate`, so that any number of GPUs makes the same step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the device really has it, fp32 elsewhere."""
    tf32: bool = True
    """Let a GPU round what goes into fp32 products and convolutions to TF32's 10 bits: several times faster."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    seed: Seed = 0
    log_every: Steps = 1
    """Steps between lines of metrics.jsonl; incidents and evaluations are always written."""
    measure_every: Steps = 10
    """Steps between gradient norms and update ratios of every group; they copy the weights once."""
    early_stop: EarlyStop | None = None
    """Stop when evaluations no longer improve; with `stages`, go on to the next one."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        if self.step_frames is not None and self.accumulate != 1:
            raise ValueError("give `accumulate` or `step_frames`, not both")
        return self


class EmaConfig(Section):
    enabled: bool = True
    decay: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    """`auto` averages over the last tenth of the run, never longer than 10,000 steps."""
    start_step: Step = 0
    """Before this step the average is a copy of the weights."""
    every: Steps = 1
    """Steps between updates of the average; the decay counts steps either way."""


class GuardConfig(Section):
    max_skips: Count = 3
    """Steps refused in a row before the run rolls back; a batch that is refused is tried once more first."""
    spike: Annotated[float, Field(gt=0, le=1e9)] | None = 12.0
    """Refuse a step whose loss is three times the recent median and this many robust standard deviations above it; null
    never does."""
    window: Count = 128
    """Finite losses the median is taken over; spikes are judged once it is full."""
    snapshot_every: Steps | Auto = "auto"
    """Steps between good states kept for a rollback."""
    snapshot: Literal["memory", "disk"] = "memory"
    max_rollbacks: Number = 3
    """Rollbacks before the run gives up with exit code 5."""
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Multiply every LR by this after each rollback."""
    exclude: bool = True
    """Leave clips out that were in two batches which failed twice each while other batches went well."""


class EvalConfig(Section):
    every: Steps | Auto | None = "auto"
    """Steps between evaluations; null never evaluates."""
    max_clips: Count = 64
    """Held-out clips used."""


class SampleConfig(Section):
    every: Steps | Auto | None = "auto"
    """Steps between spoken samples; null never speaks."""
    texts: list[str] = []
    """What to say; empty takes the held-out clips' own sentences."""
    count: Annotated[int, Field(ge=0, le=1000)] = 2
    """Held-out clips spoken when `texts` is empty."""


class CheckpointConfig(Section):
    every: Steps | Auto = "auto"
    """Steps between checkpoints."""
    keep_last: Count = 2
    keep_every: Steps | None = None
    """Keep the checkpoints of every so many steps for good."""
    best: str | None = "eval/loss/total"
    """Metric whose lowest value decides what `checkpoints/best` points to; null keeps no best."""
    background: bool = True
    """Write while training goes on."""


def _off_for_disabled(mode: str) -> str:
    return "off" if mode == "disabled" else mode


class TrackingConfig(Section):
    wandb: Annotated[Literal["off", "disabled", "online", "offline", "auto"], AfterValidator(_off_for_disabled)] = (
        "auto"
    )
    """`auto` is online when logged in, offline otherwise. `$WANDB_MODE` decides unless the recipe itself sets this."""
    wandb_project: str = "ttstrain"
    wandb_entity: str | None = None
    tags: list[str] = []
    tensorboard: bool = False


class RunSettings(Section):
    """One run, from data to files; `Recipe` and a plan's `ResolvedRecipe` say what its `model` is."""

    name: Annotated[Name, Field(pattern=r"^[^/\\.][^/\\]*$")] | None = None
    """Name of the run and of its folder; default: the recipe's name and the time."""
    task: str
    """What is trained, as `family` or `family/task`."""
    base: UserPath | Annotated[list[UserPath], Field(min_length=1)] | None = None
    """Weights to start from: `hf://owner/repo/path`, a file, a folder, or a run; null trains from scratch.

    Of a list each adds its tensors, later ones over earlier ones: a model in parts, or an export over its base.
    """
    model: Any
    """The task's own settings; `ttstrain schema` lists them."""
    run_dir: UserPath = "runs"
    """Folder in which the run's folder is made."""
    data: DataConfig = DataConfig()
    lora: LoraConfig | None = None
    """Train low-rank adapters and nothing else; null trains the weights themselves."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    stages: list[StageConfig] = []
    """Parts that the run goes through one after another; empty is one part, as `train` says."""
    ema: EmaConfig = EmaConfig()
    guard: GuardConfig = GuardConfig()
    eval: EvalConfig = EvalConfig()
    sample: SampleConfig = SampleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _stages_add_up(self) -> Self:
        names = [stage.name for stage in self.stages]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"`stages`: two are called `{min(twice)}`")
        shares = [stage.share for stage in self.stages if stage.share is not None]
        if shares and len(shares) < len(self.stages):
            raise ValueError("`stages`: give every stage a `share`, or none")
        if shares and abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"`stages`: the shares add up to {sum(shares):g}, not to 1")
        return self


class Recipe(RunSettings):
    """One run, from data to files."""

    model: dict[str, Any] = {}
    """The task's own settings; `ttstrain schema` lists them."""


Base = str | list[str] | None


def base_files(base: Base) -> tuple[str, ...]:
    """List the files that a recipe's `base:` names."""
    return (base,) if isinstance(base, str) else tuple(base or ())


def base_title(base: Base) -> str | None:
    """Name a recipe's base in one line; None where there is none."""
    return " + ".join(base_files(base)) or None
