"""The schema of a recipe, and the one place where a default lives.

A recipe is a YAML file. Every key here can be set in it, in a config it extends, or as `key=value` on the command line;
any other key is an error.
"""

from __future__ import annotations

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

from ttstrain.recipe.faults import read_faults
from ttstrain.recipe.names import Name, UserPath

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
"""A learning rate; the plan refuses one that is too high for its optimizer."""
Factor = Annotated[float, Field(gt=0, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Norm = Annotated[float, Field(gt=0, le=1e12)]
Seed = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""A width, or another size of a layer."""
Depth = Annotated[int, Field(ge=1, le=1024)]
"""A number of stacked layers."""
Rows = Annotated[int, Field(ge=1, le=10_000_000)]
"""Rows of a table, or a position in it."""

JUDGE = "judge"
"""The value of `checkpoint.best` for the judge's score."""

EITHER_OR: Mapping[str, str] = {"train.steps": "train.epochs", "train.epochs": "train.steps"}
"""Alternative keys for one setting: one in a later layer replaces the other in an earlier layer."""


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
                raise ValueError(f"`{name}` is neither true nor false")
        return values


# ---------------------------------------------------------------- data


class ReplayConfig(Section):
    path: UserPath
    """Recordings mixed into every epoch against forgetting: a folder or a metadata file, as `data.path`."""
    format: str = "auto"
    """Layout of `path`; `auto` detects it."""
    language: str | None = None
    """Language of clips that have none in the metadata."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of an epoch's frames that are replayed, drawn again for each epoch; 0 only measures forgetting."""
    holdout: Number | HeldOutShare = 0.05
    """Replay clips held out to measure forgetting, counted as `data.holdout`; 0 measures none."""


class DataConfig(Section):
    path: UserPath | None = None
    """Folder of recordings, metadata file, or speech that ships: `package:voice` (real), `package:demo` (synthetic)."""
    format: str = "auto"
    """Layout of `path`; `auto` detects it."""
    language: str | None = None
    """Language of clips that have none in the metadata."""
    holdout: Number | HeldOutShare = 0.05
    """Clips held out for evaluation: a number, or a share (at least 1 and at most 64 clips)."""
    min_s: Seconds = 0.3
    """Shorter clips are skipped."""
    max_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """Longer clips are skipped."""
    batch_frames: Frames = 3200
    """Largest micro-batch on one device, in frames including padding."""
    max_clips: Count = 64
    """Largest number of clips in one micro-batch."""
    features: Literal["auto", "memory", "disk", "device"] = "auto"
    """Where features are kept while training; `auto` is memory if they fit in 1 GB."""
    cache_dir: UserPath | None = None
    """Where features are cached; default `$TTSTRAIN_CACHE`, else `~/.cache/ttstrain`."""
    workers: Annotated[int, Field(ge=0, le=256)] | Auto = "auto"
    """Processes that load data; `auto` starts none if features are in memory."""
    replay: ReplayConfig | None = None
    """Replay: other clips mixed in against forgetting."""


# ---------------------------------------------------------------- adapters


class LoraConfig(Section):
    rank: Annotated[int, Field(ge=1, le=8192)] = 16
    """Rank of the two matrices that each adapted layer gets."""
    alpha: Annotated[float, Field(gt=0, le=65_536)] = 32.0
    """Their product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    targets: Annotated[list[str], Field(min_length=1)] | Auto = "auto"
    """Patterns of the linear layers that are adapted, such as `*.attn.to_q`; `auto` is the task's own list."""
    unfrozen: list[str] = []
    """Patterns of parameters that are fully trained beside the adapters, such as `*text_embed*` for new symbols."""
    dora: bool = False
    """DoRA: learn the magnitude of each weight row apart from its direction."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rank-stabilized LoRA)."""
    base: Literal["full", "nf4"] = "full"
    """How the frozen weights lie on the device: `full` as they are; `nf4` in 4 bits, those of the linear layers of the
    net's blocks, a quarter of what bf16 takes. Adapters are then trained over rounded weights, and exported over those
    of the base's file."""


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

OptimizerKind = Literal[
    "adamw", "adamw8bit", "lion", "adan", "muon", "prodigy", "schedule_free_adamw", "scaled_adam", "sgd"
]


class GroupRule(Section):
    name: Name
    """The group's name in logs: `optim/lr/<optimizer>/<name>`."""
    match: list[str] = Field(min_length=1)
    """Patterns over parameter names (`*` and `?` as in a shell). The first rule that matches wins."""
    lr: Rate | None = None
    """Peak LR of the group."""
    lr_scale: Factor | None = None
    """Peak LR of the group as a factor of its optimizer's."""
    weight_decay: Decay | None = None
    betas: tuple[Beta, Beta] | None = None
    max_grad_norm: Norm | None = None
    """Clip the gradients of this group alone to this norm; the optimizer's `max_grad_norm` covers the other groups."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Layer-wise LR decay: a factor per layer from the last to the first; the first number in a name is the layer."""
    frozen: bool | tuple[Step, Step] = False
    """Never trained, or not trained in steps [from, to)."""
    schedule: Schedule | None = None
    """Schedule of this group, instead of the run's."""

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
    """Peak LR of every parameter without an LR from a group rule; `prodigy` finds its own and does not use it."""
    d_coef: Factor = 1.0
    """For `prodigy`: factor of the LR that it finds, called so by its authors; a group's `lr_scale` multiplies it."""
    weight_decay: Decay = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For `sgd` and `muon`."""
    decay_norms_and_biases: bool = False
    """Apply weight decay to norm weights and biases too, as upstream trainers do."""
    max_grad_norm: Norm | None = 1.0
    """Clip each optimizer's gradients to this norm; null never clips."""
    groups: list[GroupRule] = []
    """Parameter groups, each with its own LR. Parameters that no rule matches form the group `default`."""
    offload: bool = False
    """For `adamw`: keep the optimizer state in the host's memory, from where each update fetches it piece by piece."""
    optimizers: dict[str, OptimizerOverride] = {}
    """Per-optimizer settings of a task that has several, such as `discriminator`."""
    schedule: Schedule = Cosine()


# ---------------------------------------------------------------- training


class EarlyStop(Section):
    metric: str = "eval/loss/total"
    """Metric that is to fall, or `judge` for the judge's score, which is to rise."""
    patience: Count = 5
    """Evaluations without improvement before the run stops; with `judge`, listenings."""
    min_delta: Weight = 0.0


class StageStop(EarlyStop):
    metric: str = "eval/stage/total"
    """By default the loss on the held-out clips that the stage's `data` selects; `eval/loss/total` is of all."""


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
    """Further LR factors, by group: a name or pattern, or `<optimizer>/<name>`."""
    frozen: list[str] = []
    """Groups that are frozen in the stage, named as in `lr_scales`."""
    only: list[str] = []
    """Groups that the stage trains, instead of `frozen`; all others are frozen."""
    schedule: Schedule | None = None
    """Schedule of every group in this stage; by default each group's own restarts, warmup included."""
    data: StageData = StageData()
    early_stop: StageStop | None = None
    """When to end the stage before its last step; by default as `train.early_stop`."""

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


class ParallelConfig(Section):
    """How the processes of a run divide its weights, their gradients and the optimizer state."""

    shard: Size | Auto = 1
    """Processes that hold the weights once together, each some rows of every tensor, by torch's FSDP2; 1 gives each
    process all of them. `auto` is the smallest number that fits the GPU and divides the number of processes."""
    replicate: Size | None = None
    """Groups of `shard` processes, all with the same weights; null is as many as there are. `shard` times `replicate`
    is the number of processes."""

    @model_validator(mode="after")
    def _one_choice(self) -> ParallelConfig:
        if self.shard == "auto" and self.replicate is not None:
            raise ValueError("`shard: auto` decides `replicate` too: leave it out")
        return self


class TrainConfig(Section):
    steps: Steps | Auto | None = None
    """Length of the run in updates; `auto` derives it from the hours of data."""
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Length of the run in passes over the data, instead of `steps`."""
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Micro-batches in one step, on each device."""
    step_frames: Frames | None = None
    """Frames in one step over all devices, instead of `accumulate`: the same step for any number of GPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 if the device supports it in hardware, else fp32."""
    tf32: bool = True
    """TF32 on GPUs: inputs of fp32 matrix products and convolutions are rounded to 10 bits; several times faster."""
    compile: bool = False
    """Compile the net's repeated blocks with torch's compiler, which takes minutes at the start. Dropout then draws
    other random numbers. Not with `train.parallel.shard`."""
    kernels: Literal["torch", "liger"] = "torch"
    """What computes norms, gated activations and rotary positions: torch, or Liger's fused Triton kernels (CUDA only).
    Not with `train.parallel.shard`."""
    fp8: bool = False
    """Compute the products of the blocks' linear layers in FP8, by torchao, on a GPU that has it; weights, checkpoints
    and exports keep their type. Not with `lora`, nor with `train.parallel.shard`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    parallel: ParallelConfig = ParallelConfig()
    seed: Seed = 0
    log_every: Steps = 1
    """Steps between lines of metrics.jsonl; incidents and evaluations are always written."""
    measure_every: Steps = 10
    """Steps between logged gradient norms and update ratios of every group; they need one copy of the weights."""
    early_stop: EarlyStop | None = None
    """Stop when evaluations no longer improve; with `stages`, start the next stage."""

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
    """`auto` averages over the last tenth of the run, at most 10,000 steps."""
    start_step: Step = 0
    """Before this step the EMA weights are a copy of the raw weights."""
    every: Steps = 1
    """Steps between EMA updates; `decay` is per step either way."""


class GuardConfig(Section):
    max_skips: Count = 3
    """Steps refused in a row before the run rolls back; each refused batch is first tried once more."""
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
    """Multiply LRs by this after each rollback."""
    lr_factor_of: Literal["all", "group"] = "all"
    """Whose LRs `lr_factor` lowers: those of `all` groups, or of the `group` with the module that was first not finite,
    where the incident names one."""
    examine: Number = 20
    """Refused batches that are computed once more, in the run's number format and in fp32, so that the incident says
    why: data, weights, number format, or not repeatable."""
    exclude: bool = True
    """Skip clips that were in two batches that failed twice each while other batches did not fail."""


class EvalConfig(Section):
    every: Steps | Auto | None = "auto"
    """Steps between evaluations; null never evaluates."""
    max_clips: Count = 64
    """Held-out clips used."""


class SampleConfig(Section):
    every: Steps | Auto | None = "auto"
    """Steps between generated samples; null generates none."""
    texts: list[str] = []
    """Texts to generate; if empty, the texts of held-out clips."""
    count: Annotated[int, Field(ge=0, le=1000)] = 2
    """Number of held-out clips whose texts are generated if `texts` is empty."""


class JudgeConfig(Section):
    enabled: bool | Auto = "auto"
    """Listen to what the weights say at every sampling step, and say how it compares with the base's and the
    recordings; `auto` does where samples are generated."""
    sentences: Annotated[int, Field(ge=2, le=1000)] = 8
    """Sentences that are listened to before the first step and after the last: those of held-out clips, then of others.
    `sample.count` of them are also written."""
    between: Annotated[int, Field(ge=0, le=1000)] | Auto = "auto"
    """Sentences that are listened to at the other sampling steps, whatever time that takes; `auto`: as many as fit 10 %
    of the time since the last listening, in multiples of 4, or none."""


class CheckpointConfig(Section):
    every: Steps | Auto = "auto"
    """Steps between checkpoints."""
    keep_last: Count = 2
    keep_every: Steps | None = None
    """Never delete the checkpoints of steps that are multiples of this."""
    best: str | None = "eval/loss/total"
    """Metric whose lowest value `checkpoints/best` points to, or `judge` for what is heard; null keeps no best
    checkpoint."""
    background: bool = True
    """Write checkpoints in the background while training continues."""


def _off_for_disabled(mode: str) -> str:
    return "off" if mode == "disabled" else mode


class TrackingConfig(Section):
    wandb: Annotated[Literal["off", "disabled", "online", "offline", "auto"], AfterValidator(_off_for_disabled)] = (
        "auto"
    )
    """`auto` is online when logged in, offline otherwise. `$WANDB_MODE` decides unless the recipe itself sets this.

    Likewise `$WANDB_PROJECT`, `$WANDB_ENTITY` and `$WANDB_TAGS` for the keys below.
    """
    wandb_project: str = "ttstrain"
    wandb_entity: str | None = None
    wandb_checkpoints: Literal["off", "reference", "upload"] = "off"
    """Checkpoints as artifacts of W&B: `reference` tells where they lie on this machine, `upload` sends them whole."""
    tags: list[str] = []
    tensorboard: bool = False
    trackio: bool = False
    """A dashboard on this machine without an account, under the project that `wandb_project` names."""


def _known_faults(written: list[str]) -> list[str]:
    return [str(fault) for fault in read_faults(written)]


class DebugConfig(Section):
    inject: Annotated[list[str], Field(max_length=1000), AfterValidator(_known_faults)] = []
    """Faults to bring upon the run, each once, to see what it does: `nan_loss@17` at step 17. The weights of such a run
    are not for use."""
    profile: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps to profile, from the fourth of a session on: the run's folder gets a trace and a summary, `profile/`."""


class RunSettings(Section):
    """One run, from data to files; `Recipe` and a plan's `ResolvedRecipe` say what its `model` is."""

    name: Annotated[Name, Field(pattern=r"^[^/\\.][^/\\]*$")] | None = None
    """Name of the run and of its folder; default: the recipe's name and the time."""
    task: str
    """What is trained, as `family` or `family/task`."""
    base: UserPath | Annotated[list[UserPath], Field(min_length=1)] | None = None
    """Weights to start from: a file, folder or run, `hf://owner/repo/path`, `package:NAME`; null: from scratch.

    In a list, later entries replace tensors of earlier ones: a model in parts, or an export over its base.
    """
    model: Any
    """The task's own settings; `ttstrain schema` lists them."""
    run_dir: UserPath = "runs"
    """Parent of the run's folder."""
    data: DataConfig = DataConfig()
    lora: LoraConfig | None = None
    """Train low-rank adapters (LoRA) only; null trains the weights themselves."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    stages: list[StageConfig] = []
    """Parts of the run, one after another; empty is a single part with the settings of `train`."""
    ema: EmaConfig = EmaConfig()
    guard: GuardConfig = GuardConfig()
    eval: EvalConfig = EvalConfig()
    sample: SampleConfig = SampleConfig()
    judge: JudgeConfig = JudgeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    debug: DebugConfig = DebugConfig()

    @model_validator(mode="after")
    def _stages_add_up(self) -> Self:
        names = [stage.name for stage in self.stages]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"`stages`: two have the name `{min(twice)}`")
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
