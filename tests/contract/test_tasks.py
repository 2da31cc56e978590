"""What the engine relies on, for every task of every family: a new family's folder and its smoke recipe are enough.

A smoke recipe is a task's small configuration. Nothing here knows what a batch holds or what a loss is.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fourth_family
import pytest
import torch
from small_runs import differences
from subjects import CLIP_S, FOURTH, SMOKE_RECIPES, Subject, cut, known, make_subject
from torch import Tensor, nn

from ttstrain import registry
from ttstrain.contract.data import Batch
from ttstrain.contract.task import DEFAULT_OPTIMIZER, Audio, HasBlocks, Mean, Prompt, Task
from ttstrain.data.audio import read_clip
from ttstrain.errors import DataError, RecipeError
from ttstrain.modules import lora
from ttstrain.modules.nf4 import hold_in_4_bits, outlines
from ttstrain.plan.parallel import ROOT, by_block
from ttstrain.plan.parameters import count_parameters
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import LoraConfig
from ttstrain.runs.new import start
from ttstrain.train.evaluation_loop import evaluating
from ttstrain.train.precision import Precision
from ttstrain.train.rng import Rng

CPU = torch.device("cpu")
UNIT_S = 0.09  # what a recording is counted in is shorter, an Orpheus frame of 85 ms included


@pytest.fixture(scope="module", params=[*SMOKE_RECIPES, pytest.param(FOURTH, id=fourth_family.NAME)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with known(request.param):
        yield make_subject(request.param)


def tensors_of(values: Mapping[str, Tensor | Mean]) -> list[Tensor]:
    pairs = [(value.total, value.count) if isinstance(value, Mean) else (value,) for value in values.values()]
    return [tensor for pair in pairs for tensor in pair]


def losses_of(task: Task, batch: Any, *, seed: int | None = None) -> list[Any]:
    if seed is not None:
        Rng(CPU).seed(seed)
    return list(task.losses(task.draw(batch).to(CPU)))


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("task", registry.tasks())
def test_every_task_has_a_smoke_recipe(task: str) -> None:
    assert task in {parse(compose(name)).task for name in SMOKE_RECIPES}, "its small configuration is missing"


def test_describing_a_task_imports_no_torch() -> None:
    code = """
import json, sys
from ttstrain import registry
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes
from ttstrain.plan.resolve import parse
for name, spec in registry.tasks().items():
    spec.planner(spec.config()).num_parameters()
for entry in list_recipes():
    recipe = parse(compose(entry.name))
    registry.planner_of(recipe).num_parameters()
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "torchaudio"))))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_the_default_configuration_is_valid_and_survives_a_recipe(subject: Subject) -> None:
    spec = registry.find_task(subject.recipe.task)
    default = spec.config()
    assert spec.read_model(json.loads(default.model_dump_json())) == default
    assert spec.read_model(subject.recipe.section()) == subject.recipe.model


def test_the_plan_knows_the_number_of_parameters(subject: Subject) -> None:
    task = subject.build()
    assert subject.planner.num_parameters() == sum(p.numel() for p in task.parameters() if p.requires_grad)


# ---------------------------------------------------------------- modules


def test_the_plan_knows_the_blocks(subject: Subject) -> None:
    task = subject.build()
    blocks = task.repeated_blocks() if isinstance(task, HasBlocks) else ()
    sizes = sorted(sum(parameter.numel() for parameter in block.parameters()) for block in blocks)
    shapes = subject.planner.parameter_shapes()
    counts = by_block(subject.recipe, shapes)
    assert sorted(count for block, count in counts.items() if block != ROOT) == sizes
    assert counts[ROOT] == subject.planner.num_parameters() - sum(sizes)


def test_optimizers_own_every_parameter_once(subject: Subject) -> None:
    task = subject.build()
    owned = [id(p) for module in task.optimized().values() for p in module.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) >= {id(p) for p in task.parameters() if p.requires_grad}
    assert set(owned) <= {id(p) for p in task.parameters()}
    assert task.optimized().keys() == {loss.updates for loss in losses_of(task, subject.batch())}


def test_what_is_exported_is_part_of_the_task_under_its_names(subject: Subject) -> None:
    task = subject.build()
    own, exported = task.state_dict(keep_vars=True), task.exported().state_dict(keep_vars=True)
    assert exported
    assert [name for name, tensor in exported.items() if own.get(name) is not tensor] == []
    assert task.exported() is task.exported()


def test_a_state_dict_makes_another_task_the_same(subject: Subject) -> None:
    task, other = subject.build(), subject.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(task.state_dict(), strict=True)
    assert differences(task.state_dict(), other.state_dict()) == []
    for one in (task, other):
        one.eval()
    batch = subject.batch()
    assert differences(evaluated(task, [batch]), evaluated(other, [batch])) == []


# ---------------------------------------------------------------- losses


def test_losses_are_finite_and_reach_every_trainable_parameter(subject: Subject) -> None:
    task = subject.build()
    precision = Precision("fp32", CPU)
    trained = {name: [p for p in module.parameters() if p.requires_grad] for name, module in task.optimized().items()}
    first, *others = subject.clips
    polyglot = [replace(first, text="今天天气很好。", language="zh"), *others]  # parts may read one language alone
    Rng(CPU).seed(0)
    drawn: Any = task.draw(subject.batch(polyglot))
    assert drawn.weight > 0
    for loss in task.losses(drawn.to(CPU)):
        assert loss.value.shape == ()
        assert bool(torch.isfinite(loss.value))
        assert all(value.shape == () and bool(torch.isfinite(value)) for value in tensors_of(loss.metrics))
        precision.backward(loss.value, into=trained[loss.updates])
    without = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in task.parameters() if p.grad is not None)
    still = [name for name, p in task.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still == []  # connected, yet without effect


def test_an_adapter_on_any_linear_layer_is_trained_or_refused(subject: Subject) -> None:
    """A layer whose weights are read past it would be adapted, counted and never trained."""
    pytest.importorskip("peft")
    layers = [name for name, layer in subject.build().exported().named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        pytest.skip("has no linear layer")
    try:
        without = adapters_without_gradient(subject, layers)
    except RecipeError as error:
        (refused,) = re.findall(r"leave `([\w.]+)` out of `lora.targets`", error.hint or "")
        without = adapters_without_gradient(subject, [name for name in layers if not name.endswith(refused)])
    assert without == []


def adapters_without_gradient(subject: Subject, layers: list[str]) -> list[str]:
    task = subject.build()
    lora.add_lora(task.exported(), LoraConfig(rank=2, targets=layers))
    adapters = {name: parameter for name, parameter in task.named_parameters() if lora.is_up(name)}
    assert len(adapters) == len(layers)
    first, *others = subject.clips
    drawn: Any = task.draw(subject.batch([replace(first, text="今天天气很好。", language="zh"), *others]))
    for loss in task.losses(drawn.to(CPU)):
        if loss.value.requires_grad:
            loss.value.backward(inputs=list(adapters.values()), retain_graph=True)
    return [name for name, parameter in adapters.items() if parameter.grad is None]


def test_over_a_base_in_4_bits_adapters_learn_as_over_its_rounded_weights(subject: Subject) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    targets = subject.planner.lora_targets()
    held, plain = subject.build(), subject.build()
    if not targets or not isinstance(held, HasBlocks):
        pytest.skip("has no layers that LoRA adapts by itself, or no blocks")
    config = LoraConfig(rank=2, base="nf4")
    for task in (held, plain):
        lora.add_lora(task.exported(), config, default_targets=targets)
    weights = {
        name: 0.1 * torch.randn_like(t) if lora.is_up(name) else t.clone() for name, t in plain.state_dict().items()
    }
    hold_in_4_bits(held.repeated_blocks())
    held.load_state_dict(weights)
    rounded = {name: layer.rounded() for name, layer in outlines(held).items()}
    plain.load_state_dict({**weights, **rounded})
    assert differences(weights, plain.state_dict()) == sorted(rounded)
    recipe = subject.recipe.model_copy(update={"lora": config})
    assert sum(weight.numel() for weight in rounded.values()) == count_parameters(recipe).in_4_bits > 0
    found = []
    for task in (held, plain):
        losses = losses_of(task, subject.batch(), seed=5)
        torch.stack([loss.value for loss in losses if loss.value.requires_grad]).sum().backward()
        gradients = [p.grad for _, p in task.named_parameters() if p.grad is not None]
        found.append([*(loss.value for loss in losses), *gradients])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_losses_have_names_of_their_own_and_the_last_of_each_optimizer_steps(subject: Subject) -> None:
    losses = losses_of(subject.build(), subject.batch())
    assert len({loss.label for loss in losses}) == len(losses)
    for name in {loss.updates for loss in losses}:
        steps = [loss.steps for loss in losses if loss.updates == name]
        assert steps == [False] * (len(steps) - 1) + [True]
    if len({loss.updates for loss in losses}) == 1:
        assert losses[0].updates == DEFAULT_OPTIMIZER


def test_losses_depend_on_the_generators_that_a_checkpoint_holds_and_on_nothing_else(subject: Subject) -> None:
    task, batch = subject.build(), subject.batch()
    first, again = losses_of(task, batch, seed=7), losses_of(task, batch, seed=7)
    assert [loss.value.item() for loss in first] == [loss.value.item() for loss in again]
    assert differences([dict(loss.metrics) for loss in first], [dict(loss.metrics) for loss in again]) == []


def test_losses_leave_what_is_saved_as_it_was(subject: Subject) -> None:
    """A refused step puts nothing back: what a whole step teaches a buffer is for `Task.learn`."""
    task, batch = subject.build(), subject.batch()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    losses_of(task, batch, seed=1)
    assert differences(task.state_dict(), before) == []


@pytest.fixture
def nothing_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's generators return one number, so that a loss is a function of its batch."""

    def constant(like: Callable[..., Tensor], value: float) -> Callable[..., Tensor]:
        return lambda *args, generator=None, **options: like(*args, **options).fill_(value)

    def fill(self: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.fill_(0.5)

    for name in ("rand", "randn"):
        monkeypatch.setattr(torch, name, constant(torch.empty, 0.5))
        monkeypatch.setattr(torch, f"{name}_like", constant(torch.empty_like, 0.5))
    for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_"):
        monkeypatch.setattr(Tensor, name, fill)


def test_unequal_micro_batches_weigh_as_much_as_one_batch(subject: Subject, request: pytest.FixtureRequest) -> None:
    task = subject.build().eval()  # without dropout
    request.getfixturevalue("nothing_random")  # from here on: weights are random
    whole: Any = task.draw(subject.batch())
    parts: list[Any] = [task.draw(subject.batch(clips)) for clips in (subject.clips[:1], subject.clips[1:])]
    assert sum(part.weight for part in parts) == pytest.approx(whole.weight)
    expected = list(task.losses(whole))
    sums = [0.0] * len(expected)
    for part in parts:
        for i, loss in enumerate(task.losses(part)):
            sums[i] += loss.value.item() * part.weight / whole.weight
    assert sums == pytest.approx([loss.value.item() for loss in expected], rel=1e-5)


# ---------------------------------------------------------------- evaluation


def evaluated(task: Task, batches: list[Batch]) -> dict[str, Tensor]:
    """Return the weighted means over batches that share one generator; what was not met is left out."""
    generator = torch.Generator().manual_seed(3)
    sums: dict[str, Mean] = {}
    nothing = Mean(torch.zeros(()), torch.zeros(()))
    with evaluating(task):
        for batch in batches:
            for name, value in task.evaluate(batch.to(CPU), generator).items():
                weight = torch.tensor(batch.weight)
                mean = value if isinstance(value, Mean) else Mean(value * weight, weight)
                before = sums.get(name, nothing)
                sums[name] = Mean(before.total + mean.total, before.count + mean.count)
    return {name: mean.total / mean.count for name, mean in sums.items() if mean.count}


def test_an_evaluation_repeats_exactly_and_draws_from_its_own_generator(subject: Subject) -> None:
    task, batch = subject.build(), subject.batch()
    torch.manual_seed(1)
    first = evaluated(task, [batch])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = evaluated(task, [batch])
    assert torch.equal(torch.get_rng_state(), before)
    assert "total" in first
    assert differences(first, again) == []
    assert all(value.shape == () and bool(torch.isfinite(value)) for value in tensors_of(first))
    assert task.training


def test_an_evaluation_does_not_depend_on_the_batching(subject: Subject) -> None:
    task = subject.build()
    whole = evaluated(task, [subject.batch()])
    parts = evaluated(task, [subject.batch(subject.clips[:1]), subject.batch(subject.clips[1:])])
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=name)


# ---------------------------------------------------------------- speech


def test_a_sample_is_sound(subject: Subject) -> None:
    if subject.recipe.sample.every is None:
        pytest.skip(f"does not speak: `{subject.smoke}` has `sample.every: null`")
    task = subject.build().eval()
    clip, other = subject.clips[:2]
    voice = Audio(read_clip(other, subject.data.sample_rate), subject.data.sample_rate)
    prompt = Prompt(text=clip.text, reference=voice, reference_text=other.text, duration_s=CLIP_S)
    with torch.no_grad():
        first, again = task.sample(prompt), task.sample(prompt)
    assert torch.equal(first.audio.wav, again.audio.wav)  # the seed is part of the prompt
    spoken = [first]
    with suppress(DataError):  # a family may refuse to speak in nobody's voice
        spoken.append(task.sample(Prompt(text=clip.text)))
    for sample in spoken:
        wav = sample.audio.wav
        assert (wav.dim(), wav.dtype, wav.device) == (1, torch.float32, CPU)
        assert len(wav) > 0.1 * sample.audio.sample_rate
        assert bool(torch.isfinite(wav).all())
        assert float(wav.abs().max()) <= 1.0
        if sample.mel is not None:
            assert sample.mel.dim() == 2
            assert bool(torch.isfinite(sample.mel).all())


# ---------------------------------------------------------------- data


def test_clips_become_features_examples_and_batches(subject: Subject) -> None:
    data = subject.data
    batch = subject.batch()
    assert isinstance(batch, Batch)
    assert list(batch.ids) == [clip.id for clip in subject.clips]
    assert batch.weight > 0
    assert batch.num_frames == sum(data.length(clip) for clip in subject.clips)
    assert batch.num_frames <= batch.num_padded
    assert type(batch.to(CPU)) is type(batch)
    for clip in subject.clips:
        assert subject.planner.length(clip) == data.length(clip)
        half = cut(clip, seconds=CLIP_S / 2)
        added = (clip.duration_s - half.duration_s) * data.frames_per_s
        assert abs(data.length(clip) - data.length(half) - added) <= max(2, UNIT_S * data.frames_per_s)
        features = data.features(read_clip(clip, data.sample_rate), clip)
        assert features
        assert all(isinstance(value, Tensor) and value.device == CPU for value in features.values())
        reference = data.reference(features)
        assert reference is None or reference.dim() == 2


def test_unequal_clips_are_padded_and_counted(subject: Subject) -> None:
    clips = [cut(subject.clips[0], seconds=CLIP_S / 2), *subject.clips[1:3]]
    batch = subject.batch(clips)
    assert batch.num_frames == sum(subject.data.length(clip) for clip in clips)
    assert batch.num_padded >= batch.num_frames
    assert all(bool(torch.isfinite(loss.value)) for loss in losses_of(subject.build(), batch))


def test_data_classes_and_their_batches_travel_to_other_processes(subject: Subject) -> None:
    copy = pickle.loads(pickle.dumps(subject.data))
    assert copy.fingerprint == subject.data.fingerprint
    clip = subject.clips[0]
    wav = read_clip(clip, copy.sample_rate)
    assert differences(copy.features(wav, clip), subject.data.features(wav, clip)) == []
    batch = pickle.loads(pickle.dumps(subject.batch()))
    task = subject.build()
    here, there = losses_of(task, subject.batch(), seed=5), losses_of(task, batch, seed=5)
    assert [loss.value.item() for loss in here] == [loss.value.item() for loss in there]


# ---------------------------------------------------------------- all of it at once


@pytest.mark.slow
def test_its_smoke_recipe_trains_to_the_end(subject: Subject, tmp_path: Path) -> None:
    run = start(compose(subject.smoke, ["tracking.wandb=off", f"run_dir={tmp_path}"]))
    assert (run / "checkpoints" / "last").read_text() == f"step-{subject.recipe.train.steps:08d}\n"
