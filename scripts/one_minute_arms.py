"""What one_minute.py compares: ways to train one minute of a voice, and which weights of such a training are judged.

An arm is a training and one set of its weights. EMA weights of several horizons are averages over the same raw weights,
so one training serves many arms: a copy of the trainer's own `Ema` for each horizon follows the raw weights while they
are trained, at the same moments and from the same weights as the run's own.

ours            the recipe `quickstart`, for the shipped base: AdamW, its learning rate, warmup over 5 % of the run,
                cosine, gradients clipped to norm 1, EMA over the last tenth of the run, no replay (no recipe for one
                minute has it); the EMA weights of the last step are judged
upstream-like   F5-TTS's fine-tuning (`finetune_cli`, `finetune_gradio`, 1.1.20):
                learning rate   1e-5, times the factor by which `quickstart` exceeds the recipe `f5_one_minute`, since a
                                small net needs a larger one
                schedule        100 updates of linear warmup (the web tool's default), then linearly to 0 at the run's
                                end, as if the epochs had been chosen to end there
                AdamW           betas 0.9 and 0.999, weight decay 0.01 on everything, biases and norms included
                clipping        1.0
                dropout         0.1, as in upstream's presets
                EMA             0.9999 every tenth update; a fine-tune inherits the base's counter of more than a
                                million updates, so there is no warm-up; the EMA weights are exported
                guard           off: upstream goes on after any finite or infinite loss
                Not mapped: upstream's 3,200 frames a step (ours, for all arms, are fewer), its fixed batches, fp16.
upstream-cli    the same with `finetune_cli`'s default warmup of 20,000 updates, of which so short a run sees the first
                hundredth (`ttstrain plan` refuses such a schedule, so it is written as a rise to that share)

The trainer warms its own EMA up by min(decay, (1 + n) / (10 + n)), so in a short run all long horizons are the same
average: `reached` says up to which decay. The horizon arms therefore have no warm-up and start at the base's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttstrain.recipe.compose import compose

RECIPE, PUBLISHED = "quickstart", "f5_one_minute"
UPSTREAM_LR = 1e-5  # finetune_cli --learning_rate
WEB_WARMUP, CLI_WARMUP = 100, 20_000  # updates
UPSTREAM_DECAY, UPSTREAM_EVERY, UPSTREAM_COPIES = 0.9999, 10, 100  # ema_pytorch's defaults
REPLAY_SHARE = 0.3
# The first update that is not finite ends the run: upstream has nothing that goes back.
UNGUARDED = "guard={max_skips: 1, max_rollbacks: 0, spike: null, exclude: false}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, and the weights of it that are judged."""

    training: str
    weights: str  # `ema` is the run's own, `raw` the weights themselves; others are in `AVERAGES`
    what: str


ARMS: Mapping[str, Arm] = {
    "ours": Arm("ours", "ema", "quickstart's settings, EMA over the last tenth"),
    "upstream-like": Arm("upstream-like", "inherited", "F5-TTS's fine-tuning, its EMA with the base's counter"),
    "no-warmup": Arm("no-warmup", "ema", "ours at the full learning rate from the first step"),
    "no-clipping": Arm("no-clipping", "ema", "ours with gradients as they are"),
    "ema-off": Arm("ours", "raw", "ours, raw weights"),
    "ema-late": Arm("ours", "0.999", "ours, EMA 0.999: a horizon of 1,000 steps"),
    "ema-0.99": Arm("ours", "0.99", "ours, EMA 0.99: a horizon of 100 steps"),
    "ema-0.995": Arm("ours", "0.995", "ours, EMA 0.995: a horizon of 200 steps"),
    "ema-0.9999": Arm("ours", "0.9999", "ours, EMA 0.9999: a horizon of 10,000 steps"),
    "ema-inherited": Arm("ours", "inherited", "ours, upstream's EMA with the base's counter"),
    "ema-reset": Arm("ours", "reset", "ours, upstream's EMA with its counter at 0"),
    "upstream-raw": Arm("upstream-like", "raw", "F5-TTS's fine-tuning, raw weights"),
    "replay": Arm("replay", "ema", f"ours with {REPLAY_SHARE:.0%} of the frames from other voices"),
    "upstream-cli": Arm("upstream-cli", "inherited", "F5-TTS's fine-tuning with a warmup of 20,000 updates"),
}
HORIZONS = ("ours", "ema-off", "ema-0.99", "ema-0.995", "ema-late", "ema-0.9999", "ema-inherited", "ema-reset")
NEEDS_REPLAY = "replay"


# ---------------------------------------------------------------- averages


@dataclass(frozen=True, slots=True)
class Average:
    """An EMA beside the run's own: the decay of the update that follows `step` finished steps, None where none does."""

    decay_at: Callable[[int], float | None]


def constant(decay: float) -> Average:
    """Average with one decay from the first step on, from the base's weights."""
    return Average(lambda step: decay)


def upstream_average(*, updates_before: int) -> Average:
    """Average as ema_pytorch does in F5-TTS, after so many updates of the base's own training.

    Its counter is read before it is raised: updates are at counts that are multiples of ten, copies up to count 100,
    then decay 1 - (1 + count - 101) ** (-2/3), at most 0.9999.
    """

    def decay_at(step: int) -> float | None:
        count = updates_before + step - 1
        if count % UPSTREAM_EVERY:
            return None
        after = count - UPSTREAM_COPIES - 1
        return 0.0 if after <= 0 else min(1 - (1 + after) ** (-2 / 3), UPSTREAM_DECAY)

    return Average(decay_at)


AVERAGES: Mapping[str, Average] = {
    "0.99": constant(0.99),
    "0.995": constant(0.995),
    "0.999": constant(0.999),
    "0.9999": constant(0.9999),
    "inherited": upstream_average(updates_before=1_250_000),  # of F5TTS_v1_Base
    "reset": upstream_average(updates_before=0),
}


def reached(steps: int) -> float:
    """Return the largest decay that the trainer's own EMA reaches in a run of so many steps."""
    return (1 + steps) / (10 + steps)


def share_of_run(average: Average, steps: int) -> float:
    """Return how much of a change made at the first step is in the average at the end; 1: all of it."""
    kept = 1.0
    for step in range(1, steps + 1):
        decay = average.decay_at(step)
        kept *= 1.0 if decay is None else decay
    return 1 - kept


# ---------------------------------------------------------------- trainings


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates on the small net."""

    ours: float
    upstream: float

    @classmethod
    def of_recipes(cls, factor: float = 1.0) -> Rates:
        """Take ours from the recipe, and raise upstream's by as much as ours; `factor` raises both once more."""
        small, published = (float(compose(name, []).values["optim"]["lr"]) for name in (RECIPE, PUBLISHED))
        return cls(small * factor, UPSTREAM_LR * small / published * factor)


def overrides(training: str, *, steps: int, rates: Rates, replay: str | None = None) -> tuple[str, ...]:
    """Return what a training changes in the recipe `quickstart`. KeyError for an unknown name."""
    own = (f"optim.lr={rates.ours!r}",)
    trainings: dict[str, Sequence[str]] = {
        "ours": own,
        "no-warmup": (*own, "optim.schedule.warmup_steps=0"),
        "no-clipping": (*own, "optim.max_grad_norm=null"),
        "replay": (*own, f"data.replay={{path: {replay!r}, share: {REPLAY_SHARE}, holdout: 0}}"),
        "upstream-like": upstream(rates.upstream, f"{{kind: f5_linear, warmup_steps: {min(WEB_WARMUP, steps // 2)}}}"),
        "upstream-cli": upstream(
            rates.upstream * steps / CLI_WARMUP, f"{{kind: constant, warmup_steps: {steps - 1}, warmup_start: 0}}"
        ),
    }
    return tuple(trainings[training])


def upstream(lr: float, schedule: str) -> tuple[str, ...]:
    return (
        f"optim.lr={lr!r}",
        f"optim.schedule={schedule}",
        "optim.kind=adamw",
        "optim.betas=[0.9, 0.999]",
        "optim.weight_decay=0.01",
        "optim.decay_norms_and_biases=true",
        "optim.max_grad_norm=1.0",
        "model.dropout=0.1",
        UNGUARDED,
    )


def describe(steps: int, rates: Rates) -> dict[str, Any]:
    """Return what the arms were, for the results' file."""
    return {
        "steps": steps,
        "lr": rates.ours,
        "upstream_lr": rates.upstream,
        "ema_share": {name: round(share_of_run(one, steps), 4) for name, one in AVERAGES.items()},
        "ema_warmup_reaches": round(reached(steps), 4),
    }
