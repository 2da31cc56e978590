"""A run from its start to its end, with what each part took elsewhere: when the first step begins, and the last ends.

The parts follow one another as in `ttstrain.train.loop`; what follows from a step is decided by the same `decide`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ttstrain import registry
from ttstrain.data import sampler
from ttstrain.forecast.costs import Costs
from ttstrain.optim.stages import Curriculum
from ttstrain.plan.judging import judges
from ttstrain.plan.mixing import auxiliary_ratio, clip_share
from ttstrain.plan.plan import Plan
from ttstrain.train import affordable, spent
from ttstrain.train.decide import Place, Requests, decide

MOST_EPOCHS, MOST_CLIPS = 20, 20_000  # over which the size of a mean step is taken
REST = "rest"  # what a run took besides its parts; a trial does not know it


@dataclass(slots=True)
class Course:
    """Seconds of a session, by its parts."""

    first_step: float = 0.0  # seconds until the first step begins
    parts: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0  # seconds of the processor
    samplings: int = 0  # sampling steps

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def follow(plan: Plan, costs: Costs, *, from_step: int = 0) -> Course | None:
    """Return the course of a session; None where the costs lack a part that it needs."""
    session = _Session(plan, costs)
    session.spend(spent.START)
    session.spend(spent.HOLD)
    if from_step == 0:
        if plan.eval_every is not None:
            session.spend(spent.EVALUATION)
        if plan.sample_every is not None:
            session.sample(0)
    session.course.first_step = session.course.total
    step = from_step
    for at in _stops(plan, from_step):
        session.steps(at - step, first=step == from_step)
        step = at
        session.after(at)
    session.spend(REST, times=plan.steps - from_step, needed=False)
    return None if session.lacking else session.course


def _stops(plan: Plan, from_step: int) -> Iterator[int]:
    """Yield the steps after which something may follow, in order."""
    every = [one for one in (plan.eval_every, plan.sample_every, plan.save_every, plan.snapshot_every) if one]
    stops = {step for one in every for step in range(one, plan.steps + 1, one)}
    stops |= {place.end for place in Curriculum(plan.stages).places()}
    yield from sorted(step for step in stops | {plan.steps} if step > from_step)


class _Session:
    """Adds up the parts of one session."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        self.plan, self.costs = plan, costs
        self.course = Course()
        self.lacking: set[str] = set()
        self._ends = {place.end for place in Curriculum(plan.stages).places()}
        self._last_heard = 0.0  # time of the last listening
        self._decided = 0  # sentences that are heard at steps between
        self._judged = min(plan.recipe.judge.sentences, _texts(plan)) if judges(plan) else 0
        self._shown = _shown(plan)

    def spend(self, part: str, *, times: float = 1, needed: bool = True, under: str = "") -> None:
        """Take the time of a part, so many times."""
        amount = self.costs.of(part)
        if amount.times == 0:
            if needed and times > 0:
                self.lacking.add(part)
            return
        self._take(under or part, wall=times * amount.wall / amount.times, cpu=times * amount.cpu / amount.times)

    def _take(self, part: str, *, wall: float, cpu: float) -> None:
        self.course.parts[part] = self.course.parts.get(part, 0.0) + wall
        self.course.cpu += cpu

    def steps(self, count: int, *, first: bool) -> None:
        """Take so many steps; the first ones of a session take longer than later ones."""
        whole, of_first = self.costs.of(spent.STEP), self.costs.of(spent.FIRST_STEPS)
        if whole.times == 0:
            self.lacking.add(spent.STEP)
            return
        frames = frames_per_step(self.plan)
        by_frames = frames is not None and whole.frames > 0
        share = frames / whole.frames if by_frames and frames is not None else 1 / whole.times
        self._take(spent.STEP, wall=count * share * whole.wall, cpu=count * share * whole.cpu)
        if first and of_first.times:
            usual = of_first.frames / whole.frames if by_frames else of_first.times / whole.times
            more = max(0.0, of_first.wall - usual * whole.wall), max(0.0, of_first.cpu - usual * whole.cpu)
            self._take(spent.STEP, wall=more[0], cpu=more[1])
        logged = count / self.plan.recipe.train.log_every
        self.spend(spent.LOG, times=logged, needed=False, under=spent.STEP)

    def after(self, step: int) -> None:
        """Take what follows a step."""
        last = step == self.plan.steps
        place = Place(step, last=last, ends_stage=step in self._ends and not last)
        follows = decide(place, self.plan, Requests())
        if follows.evaluate and self.plan.eval_every is not None:
            self.spend(spent.EVALUATION)
        if follows.speak and self.plan.sample_every is not None:
            self.sample(step)
        if follows.snapshot:
            self.spend(spent.HOLD, under=spent.SAVE)
        if follows.save:
            self.spend(spent.SAVE)

    def sample(self, step: int) -> None:
        """Generate and listen at a sampling step, as many sentences as the run would."""
        weights = 2 if self.plan.ema_decay is not None and step > 0 else 1
        heard = self._heard(step, weights)
        generated = self._shown + max(0, heard - self._shown_and_heard)
        self.spend(spent.GENERATE, times=weights * generated, under=spent.SAMPLES)
        self.spend(spent.LISTEN, times=weights * heard, under=spent.SAMPLES)
        if heard and self._last_heard == 0.0:
            self.spend(spent.OPEN_EARS, needed=False, under=spent.SAMPLES)
        rest = self._rest_of_sampling()
        self._take(spent.SAMPLES, wall=rest[0], cpu=rest[1])
        self.course.samplings += 1
        if heard:
            self._last_heard = self.course.total

    @property
    def _shown_and_heard(self) -> int:
        """How many of the heard sentences are generated anyway: the recipe's own texts are shown and not heard."""
        return 0 if self.plan.recipe.sample.texts else min(self._shown, self._judged)

    def _heard(self, step: int, weights: int) -> int:
        judge = self.plan.recipe.judge
        if step in (0, self.plan.steps) or not self._judged:
            return self._judged
        if judge.between != "auto":
            return min(judge.between, self._judged)
        generate, listen = self.costs.of(spent.GENERATE), self.costs.of(spent.LISTEN)
        if not generate.times or not listen.times:
            return 0
        self._decided = (
            affordable.affordable(
                [self._decided] if self._decided else affordable.choices(self._judged),
                allowed=affordable.SHARE * (self.course.total - self._last_heard),
                shown=self._shown_and_heard,
                weights=weights,
                generating=generate.wall / generate.times,
                listening=listen.wall / listen.times,
            )
            or self._decided
        )
        return self._decided

    def _rest_of_sampling(self) -> tuple[float, float]:
        """Return what a sampling step takes besides generating and listening: files, pictures, the page."""
        whole = self.costs.of(spent.SAMPLES)
        if whole.times == 0:
            return 0.0, 0.0
        parts = [self.costs.of(part) for part in (spent.GENERATE, spent.LISTEN, spent.OPEN_EARS)]
        wall = whole.wall - sum(part.wall for part in parts)
        cpu = whole.cpu - sum(part.cpu for part in parts)
        return max(0.0, wall) / whole.times, max(0.0, cpu) / whole.times


def frames_per_step(plan: Plan) -> float | None:
    """Return the frames of a mean step, padding included; None where examples without recordings are mixed in.

    Where clips are few, epochs divide into more or fewer micro-batches, so the mean is over several.
    """
    facts, data = plan.facts, plan.recipe.data
    planner = registry.planner_of(plan.recipe)
    if clip_share(auxiliary_ratio(planner)) < 1:
        return None
    lengths = [frames for frames in facts.frames if frames <= data.batch_frames]
    if facts.replay is not None or plan.staged:  # whose clips the facts do not list
        real = sum(lengths) + (0 if facts.replay is None else facts.replay.frames_per_epoch)
        mean = real / (1 - facts.padding_share) / facts.batches_per_epoch
        return mean * plan.accumulate * plan.world_size
    frames = batches = 0
    for epoch in range(min(MOST_EPOCHS, 1 + MOST_CLIPS // len(lengths))):
        planned = sampler.plan_epoch(
            lengths,
            budget=data.batch_frames,
            max_clips=data.max_clips,
            seed=plan.recipe.train.seed,
            epoch=epoch,
            packed=planner.packed,
        )
        frames += sum(sampler.cost(batch, lengths, packed=planner.packed) for batch in planned)
        batches += len(planned)
    return frames / batches * plan.accumulate * plan.world_size


def _shown(plan: Plan) -> int:
    """Return how many sentences are generated at every sampling step, whether they are heard or not."""
    sample = plan.recipe.sample
    return len(sample.texts) if sample.texts else min(sample.count, plan.facts.num_holdout)


def _texts(plan: Plan) -> int:
    return plan.facts.num_clips + plan.facts.num_holdout
