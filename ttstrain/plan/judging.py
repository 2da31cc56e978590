"""What the judge will do in a run, as far as a plan knows it."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain.plan.plan import Plan

STEPS_PER_SENTENCE = 5  # measured with the small base on a CPU: 16 solver steps with guidance, batches of 1,600 frames
MUCH = 0.1  # of the run's time


def judges(plan: Plan) -> bool:
    """Tell whether the run is judged."""
    return plan.sample_every is not None and plan.recipe.judge.enabled is not False


def judge_text(plan: Plan) -> str:
    """Say which sentences are heard, and when."""
    judge, every = plan.recipe.judge, plan.sample_every
    if every is None or not judges(plan):
        return "off"
    first = "the base" if plan.recipe.base is not None else "the first weights"
    last = "raw weights" if plan.ema_decay is None else "raw and EMA weights"
    said = f"{judge.sentences} sentences by {first} before the first step and by {last} after the last"
    if every >= plan.steps or judge.between == 0:
        return said
    if judge.between == "auto":
        return f"{said}; every {every:,} steps as many as fit 10 % of the time, or none"
    return f"{said}; every {every:,} steps {min(judge.between, judge.sentences)}"


def judge_notes(plan: Plan) -> Iterator[str]:
    """Yield a note where the first and the last listening alone may take much of the run."""
    if not judges(plan):
        return
    more = max(0, plan.recipe.judge.sentences - plan.recipe.sample.count)  # than are generated anyway
    steps = STEPS_PER_SENTENCE * more * (2 if plan.ema_decay is None else 3)
    share = steps / (plan.steps + steps)
    if share > MUCH:
        yield (
            f"the judge may take {100 * share:.0f} % of this short run, for what it hears before the first and after "
            f"the last step (where a sentence takes as long as {STEPS_PER_SENTENCE} steps, as on a CPU): "
            "`judge.sentences=4` is less, `judge.enabled=false` nothing."
        )
