"""What success_rate.py compares: recipes and overrides, a name for each way to train.

Learning rates are those of the recipes and of upstream's web tool, all times one factor: a small net that learnt little
before does not go wrong at the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SMALL = {  # task -> what stands in for the published nets
    "joint": "extends=[models/gpt_sovits_tiny_gpt, models/gpt_sovits_tiny_vae, hardware/cpu, tracking/offline]",
    "gpt": "extends=[models/gpt_sovits_tiny_gpt, hardware/cpu, tracking/offline]",
    "vae": "extends=[models/gpt_sovits_tiny_vae, hardware/cpu, tracking/offline]",
}
ONE_MINUTE = {"task": "joint", "recipe": "gpt_sovits_one_minute"}
GPT_LR, VAE_LR = 2.5e-5, 5e-5  # of that recipe
# For all arms. Half the recipe's step, as upstream's web tool gives a small card 1 to 4 clips; and more held-out clips
# than a voice with one minute can spare, so that luck with two of them does not decide.
STEP = ("data.batch_frames=800", "data.max_clips=4", "data.holdout=4")

# The first update that is not finite ends the run: upstream has nothing that goes back.
UNGUARDED = "guard={max_skips: 1, max_rollbacks: 0, spike: null, exclude: false}"


@dataclass(frozen=True, slots=True)
class Training:
    """One run of an arm."""

    task: str
    recipe: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train a voice. It succeeds where all of its runs do."""

    what: str
    runs: tuple[Training, ...]


def arms(factor: float, *, half: bool) -> Mapping[str, Arm]:
    """Return every arm at a factor of the learning rates; `half` gives upstream fp16, which a CPU is slow at."""
    ours = (f"optim.lr={VAE_LR * factor!r}", f"optim.groups.0.lr={GPT_LR * factor!r}")

    def joint(what: str, *changes: str) -> Arm:
        return Arm(what, (Training(**ONE_MINUTE, overrides=(*ours, *changes)),))

    return {
        "ours": joint("the recipe for one minute"),
        "no-warmup": joint("ours from the first step at the full rate", "optim.schedule.warmup_steps=0"),
        "no-clipping": joint(
            "ours with gradients as they are", "optim.max_grad_norm=null", "optim.groups.0.max_grad_norm=null"
        ),
        "one-lr": joint("ours with the VAE's rate for everything", "optim.groups=[]"),
        "none-of-them": joint(
            "ours without warmup, clipping and layers",
            "optim.groups=[]",
            "optim.schedule.warmup_steps=0",
            "optim.max_grad_norm=null",
        ),
        "upstream": _upstream(factor, half=half),
    }


def _upstream(factor: float, *, half: bool) -> Arm:
    """GPT and VAE one after the other, as upstream's web tool sets them: no warmup, no clipping, nothing goes back."""
    precision = f"train.precision={'fp16' if half else 'fp32'}"
    common = (*STEP, UNGUARDED, precision, "optim.max_grad_norm=null")
    gpt = Training(
        "gpt",
        "gpt_sovits_gpt",
        (
            *common,
            "optim.kind=scaled_adam",
            f"optim.lr={0.002 * factor!r}",  # upstream's LR whatever its YAML says
            "optim.schedule={kind: constant, warmup_steps: 0}",
            "optim.weight_decay=0",
            "model.gpt.loss=sum",
            "train.accumulate=4",
            "model.vae=null",
        ),
    )
    vae = Training(
        "vae",
        "gpt_sovits_vae",
        (
            *common,
            f"optim.lr={1e-4 * factor!r}",
            "optim.weight_decay=0.01",  # torch's default, which upstream leaves
            f"optim.optimizers.discriminator.lr={1e-4 * factor!r}",
            "optim.schedule={kind: exponential, gamma: 0.999875, warmup_steps: 0}",
            "model.gpt=null",
        ),
    )
    return Arm("upstream's settings, task by task", (gpt, vae))
