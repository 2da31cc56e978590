import copy
import math
from dataclasses import replace

import pytest
import torch
from toys import Counting, Gan, Joint, Regression, make_batch, make_run, split

from ttstrain.contract.task import Loss
from ttstrain.errors import OutOfMemoryError, RecipeError
from ttstrain.recipe.schema import Constant, GroupRule, GuardConfig, OptimConfig
from ttstrain.train.distributed import Ranks
from ttstrain.train.snapshot import STAYS
from ttstrain.train.step import EMA_WEIGHTS, DidNotFit, train_step

PLAIN = OptimConfig(lr=1e-2, weight_decay=0.01, decay_norms_and_biases=True, schedule=Constant(warmup_steps=0))


def weights(run) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in run.task.state_dict().values()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_gan_through_the_engine_equals_the_hand_written_loop_bitwise():
    torch.manual_seed(1)
    task = Gan()
    by_hand = copy.deepcopy(task)
    run = make_run(task, optim=PLAIN.model_copy(update={"max_grad_norm": None}))
    settings = {"lr": 1e-2, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "foreach": True}
    optim_d = torch.optim.AdamW(by_hand.discriminator.parameters(), **settings)
    optim_g = torch.optim.AdamW(by_hand.generator.parameters(), **settings)
    for seed in range(8):
        batch = make_batch(6, seed=seed)
        train_step(run, [batch])
        losses = by_hand.losses(batch)
        for optimizer in (optim_d, optim_g):
            loss = next(losses).value
            optim_d.zero_grad(), optim_g.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(task.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("task_class", [Regression, Joint, Counting])
def test_unequal_micro_batches_equal_one_large_batch(task_class):
    torch.manual_seed(2)
    task = task_class()
    whole, pieces = make_run(task), make_run(copy.deepcopy(task))
    for seed in range(5):
        batch = make_batch(8, seed=seed)
        one = train_step(whole, [batch])
        two = train_step(pieces, split(batch, 3, 5))
        assert one.losses == pytest.approx(two.losses, rel=1e-6)
        assert one.grad_norms == pytest.approx(two.grad_norms, rel=1e-5)
    for a, b in zip(weights(whole), weights(pieces), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_what_a_step_met_is_learned_once_the_optimizers_have_stepped_and_then_averaged():
    run = make_run(Counting(), ema_decay=0.9)
    batch = make_batch(6)
    train_step(run, split(batch, 2, 4))
    torch.testing.assert_close(run.task.mean, 0.1 * batch.x.mean(0))
    decay = run.ema.decay_at(1)
    torch.testing.assert_close(run.ema.state_dict()["weights"]["mean"], (1 - decay) * run.task.mean)


def test_a_step_with_nothing_to_learn_is_refused_and_a_micro_batch_without_weight_is_not():
    run, nothing = make_run(Regression()), replace(make_batch(4), weight=0.0)
    with pytest.raises(RecipeError, match=r"step 1 has nothing to learn: its batch weighs 0 \(`clip-0-0`, .* 1 more\)"):
        train_step(run, [nothing])
    assert run.progress.step == 0
    alone = make_run(copy.deepcopy(run.task))
    one, other = train_step(alone, [make_batch(6, seed=2)]), train_step(run, [make_batch(6, seed=2), nothing])
    assert other.losses == pytest.approx(one.losses)
    assert same(weights(run), weights(alone))


def test_the_generators_loss_leaves_nothing_in_the_discriminator():
    run = make_run(Gan())
    train_step(run, [make_batch(4)])
    assert all(parameter.grad is None for parameter in run.task.parameters())


def test_reported_lr_is_the_lr_that_stepped(monkeypatch):
    optim = OptimConfig(lr=1e-2, groups=[GroupRule(name="gpt", match=["gpt.*"], lr=5e-5)])
    run = make_run(Joint(), optim=optim, total_steps=20)
    used: list[dict[str, float]] = []
    name_of = {id(group.parameters[0]): group.name for group in run.optimizers.table.groups}
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        used.append({name_of[id(group["params"][0])]: group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    for seed in range(20):
        report = train_step(run, [make_batch(4, seed=seed)])
        assert report.lrs == {f"model/{name}": lr for name, lr in used[-1].items()}
    assert len(used) == 20
    assert len({lrs["gpt"] for lrs in used}) > 5


@pytest.mark.parametrize(
    ("task_class", "poison"), [(Regression, math.nan), (Regression, math.inf), (Gan, math.nan), (Counting, math.nan)]
)
def test_a_poisoned_batch_changes_nothing_but_the_counters(task_class, poison):
    run = make_run(task_class(), ema_decay=0.9)
    train_step(run, [make_batch(4)])
    before, average = weights(run), copy.deepcopy(run.ema.state_dict())
    moments = copy.deepcopy(run.optimizers.state_dict())
    report = train_step(run, [make_batch(4, seed=1, poison=poison)])
    assert report.refused
    assert run.progress.step == 1
    assert same(weights(run), before)
    torch.testing.assert_close(run.ema.state_dict(), average, rtol=0, atol=0)
    torch.testing.assert_close(run.optimizers.state_dict(), moments, rtol=0, atol=0)
    good = train_step(run, [make_batch(4, seed=2)])
    assert not good.refused
    assert all(torch.isfinite(weight).all() for weight in weights(run))


def test_a_generator_refused_after_its_discriminator_stepped_sends_both_back():
    run = make_run(Gan())
    report = train_step(run, [make_batch(4, poison=math.inf)])  # tanh hides the inf from D, G's gradient meets it
    assert (list(report.refused), report.stepped) == (["generator"], ["discriminator"])
    assert run.progress.step == 0
    assert run.guard.decide(report.refused["generator"].judgement, half_done=bool(report.stepped)) == "rollback"


def test_one_poisoned_micro_batch_refuses_the_whole_step():
    run = make_run(Regression())
    before = weights(run)
    report = train_step(run, [make_batch(4), make_batch(4, seed=1, poison=math.nan), make_batch(4, seed=2)])
    assert report.refused["model"].judgement == "non_finite_loss"
    assert same(weights(run), before)


def test_gradients_are_clipped_and_the_norm_is_reported_from_before():
    run = make_run(Regression(), optim=OptimConfig(lr=1e-2, max_grad_norm=1e-3))
    free = make_run(copy.deepcopy(run.task), optim=OptimConfig(lr=1e-2, max_grad_norm=None))
    batch = make_batch(8)
    assert train_step(run, [batch]).grad_norms == pytest.approx(train_step(free, [batch]).grad_norms)


def test_metrics_are_means_over_the_whole_batch():
    run = make_run(Regression())
    batch = make_batch(8)
    report = train_step(run, split(batch, 2, 6))
    assert report.metrics["mean_output"] == pytest.approx(2 * report.losses["model"], rel=1e-6)


def test_measured_steps_report_norms_and_ratios_per_group_and_train_alike():
    optim = OptimConfig(lr=1e-2, groups=[GroupRule(name="gpt", match=["gpt.*"], lr_scale=0.5)])
    plain, measured = make_run(Joint(), optim=optim), None
    measured = make_run(copy.deepcopy(plain.task), optim=optim)
    batch = make_batch(4)
    train_step(plain, [batch])
    report = train_step(measured, [batch], measure=True)
    assert set(report.update_ratios) == set(report.group_norms) == {"model/gpt", "model/default"}
    assert all(0 < ratio < 1 for ratio in report.update_ratios.values())
    total = math.sqrt(sum(norm**2 for norm in report.group_norms.values()))
    assert total == pytest.approx(report.grad_norms["model"], rel=1e-5)
    assert same(weights(plain), weights(measured))


def test_fp16_overflow_lowers_the_scale_and_training_goes_on():
    run = make_run(Regression(), precision="fp16", guard=GuardConfig(max_skips=1))
    run.precision.scale = 2.0**40
    refused = [bool(train_step(run, [make_batch(4, seed=seed)]).refused) for seed in range(40)]
    assert refused[0]
    assert not refused[-1]
    assert run.precision.scale < 2.0**40
    assert run.guard.rollbacks == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("task_class", [Regression, Gan, Joint])
def test_a_restored_state_goes_on_bitwise_as_if_never_stopped(task_class, precision):
    run = make_run(task_class(), precision=precision, ema_decay=0.9)
    for seed in range(3):
        train_step(run, [make_batch(4, seed=seed)])
    held = run.state.snapshot()
    resumed = make_run(task_class(), precision=precision, ema_decay=0.9)
    resumed.state.load_state_dict(held)
    for seed in range(3, 8):
        a = train_step(run, [make_batch(4, seed=seed)])
        b = train_step(resumed, [make_batch(4, seed=seed)])
        assert a == b
    assert same(weights(run), weights(resumed))
    torch.testing.assert_close(run.ema.state_dict(), resumed.ema.state_dict(), rtol=0, atol=0)


class JointGan(Joint):
    """A joint run's shape: one model's loss, a discriminator, the other model's loss into the first one's optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.ModuleDict({"gpt": self.gpt, "vae": self.vae})
        del self.gpt, self.vae
        self.discriminator = torch.nn.Linear(3, 1)
        self.bad = ""

    def optimized(self):
        return {"model": self.model, "discriminator": self.discriminator}

    def losses(self, batch):
        def spoilt(name, value):
            return value * math.nan if self.bad == name else value

        error = torch.nn.functional.mse_loss(self.model["gpt"](batch.x), batch.y)
        yield Loss(spoilt("gpt", error), name="gpt", steps=False)
        fake = self.model["vae"](batch.x)
        score = self.discriminator(batch.y).mean() - self.discriminator(fake.detach()).mean()
        yield Loss(spoilt("discriminator", score), updates="discriminator")
        yield Loss(spoilt("generator", (fake - batch.y).abs().mean() - self.discriminator(fake).mean()), name="vae")


@pytest.mark.parametrize("bad", ["gpt", "discriminator", "generator"])
def test_nan_in_any_loss_of_a_joint_run_leaves_weights_finite_and_in_step(bad):
    run = make_run(JointGan(), ema_decay=0.9)
    train_step(run, [make_batch(4)])
    held, before = run.state.snapshot(), weights(run)
    run.task.bad = bad
    report = train_step(run, [make_batch(4, seed=1)])
    assert report.refused
    assert run.progress.step == 1
    action = run.guard.decide(next(iter(report.refused.values())).judgement, half_done=bool(report.stepped))
    if bad == "generator":  # known once the discriminator has stepped
        assert (report.stepped, action) == (["discriminator"], "rollback")
        run.state.load_state_dict(held, keep=STAYS & set(run.state.parts))
    else:
        assert (report.stepped, action) == ([], "skip")
    assert same(weights(run), before)
    assert {optimizer: _updates(run, optimizer) for optimizer in run.optimizers.names} == {
        "model": {1.0},
        "discriminator": {1.0},
    }
    run.task.bad = ""
    assert not train_step(run, [make_batch(4, seed=2)]).refused
    assert all(torch.isfinite(weight).all() for weight in weights(run))


def _updates(run, optimizer) -> set[float]:
    return {state["step"].item() for state in run.optimizers.state_dict()[optimizer].values()}


# ---------------------------------------------------------------- memory


class Small(Regression):
    """Has memory for so many clips."""

    room = 3

    def losses(self, batch):
        if len(batch.ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from super().losses(batch)


def test_a_step_that_does_not_fit_leaves_nothing_changed():
    run = make_run(Small(), ema_decay=0.9)
    train_step(run, [make_batch(3)])
    before, moments = weights(run), copy.deepcopy(run.optimizers.state_dict())
    with pytest.raises(DidNotFit) as caught:
        train_step(run, [make_batch(2, seed=1), make_batch(5, seed=2)])
    assert caught.value.micro_batch.ids == make_batch(5, seed=2).ids
    assert not caught.value.half_done
    assert run.progress.step == 1
    assert same(weights(run), before)
    torch.testing.assert_close(run.optimizers.state_dict(), moments, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in run.task.parameters())


def test_memory_that_runs_out_after_the_discriminator_stepped_is_half_a_step():
    class Full(Gan):
        def losses(self, batch):
            losses = super().losses(batch)
            yield next(losses)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DidNotFit) as caught:
        train_step(make_run(Full()), [make_batch(4)])
    assert caught.value.half_done


def test_memory_that_runs_out_inside_an_optimizer_is_half_a_step(monkeypatch):
    def full(self, *_):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(DidNotFit) as caught:
        train_step(make_run(Regression()), [make_batch(4)])
    assert caught.value.half_done


@pytest.mark.parametrize(
    ("task_class", "at", "update"),
    [
        (Regression, 0, "model"),
        (Joint, 0, "model"),
        (Gan, 0, None),  # the generator's graph is still held: smaller micro-batches may help
        (Gan, 1, "generator"),
    ],
)
def test_an_update_that_does_not_fit_is_told_from_a_batch_that_does_not(monkeypatch, task_class, at, update):
    calls = []
    step = torch.optim.AdamW.step

    def full(self, *arguments):
        calls.append(self)
        if len(calls) == at + 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(DidNotFit) as caught:
        train_step(make_run(task_class()), [make_batch(4), make_batch(3)])
    assert caught.value.update == update


def test_an_average_that_does_not_fit_is_told_as_such(monkeypatch):
    def full(self, step):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run = make_run(Regression(), ema_decay=0.9)
    monkeypatch.setattr(type(run.ema), "update", full)
    with pytest.raises(DidNotFit) as caught:
        train_step(run, [make_batch(4)])
    assert (caught.value.update, caught.value.half_done) == (EMA_WEIGHTS, True)


def test_memory_that_runs_out_in_an_exchange_ends_this_process():
    """The others wait inside the exchange, where no word of this one reaches them."""

    class Two(Ranks):
        alone = False

        def sum(self, values):
            return values

        def begin_sum(self, values):
            return self.wait

        def wait(self):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="in step 1 while gradients were summed over the processes"):
        train_step(make_run(Regression(), ranks=Two()), [make_batch(4)])


class Whole:
    """Stands for shards in one process, where each is the whole."""

    def new_step(self): ...

    def rest(self): ...

    def finish_gradients(self, parameters): ...

    def next(self, losses):
        return next(losses, None)

    def leaves(self, parameters):
        return parameters


class WithAnother(Ranks):
    """This process beside one that has three micro-batches, of which none counts."""

    def sum(self, values):
        if values.dtype == torch.int64 and len(values.shape):
            values[1] = 3
        return values

    def all_fit(self, fits):
        return fits


def test_a_micro_batch_taken_again_for_shards_counts_once():
    alone, beside = make_run(Counting()), make_run(Counting(), ranks=WithAnother(world_size=2))
    beside.task.load_state_dict(alone.task.state_dict())
    beside.shards = Whole()
    pieces = split(make_batch(6), 2, 4)
    one, other = train_step(alone, pieces), train_step(beside, pieces)
    assert same(weights(beside), weights(alone))
    assert (other.losses, other.ids) == (one.losses, one.ids)


def test_a_batch_that_does_not_fit_is_no_update():
    with pytest.raises(DidNotFit) as caught:
        train_step(make_run(Small()), [make_batch(5)])
    assert caught.value.update is None


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(Regression):
        def losses(self, batch):
            raise RuntimeError("shapes do not match")
            yield

    with pytest.raises(RuntimeError, match="shapes"):
        train_step(make_run(Broken()), [make_batch(4)])
