"""Training and judging the VAE, alone and together with the GPT, on small nets of the same code."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from toys import make_run

from tests.support.sovits_toys import gpt_config, model_section, vae_config
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.batch import SovitsBatch, num_tokens
from ttstrain.families.gpt_sovits.config import JointConfig, VaeConfig
from ttstrain.families.gpt_sovits.joint import JointTask
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.families.gpt_sovits.vae.task import VaeTask
from ttstrain.families.gpt_sovits.vae.training import make, make_target, starts_at, vae_losses
from ttstrain.modules.cpu.switch import VARIABLE
from ttstrain.modules.dropout import Dropout
from ttstrain.recipe.schema import GroupRule, OptimConfig
from ttstrain.tensors.loading import load_weights
from ttstrain.train.evaluation_loop import evaluating
from ttstrain.train.precision import Precision
from ttstrain.train.step import train_step

CPU = torch.device("cpu")
FRAMES = (31, 24, 40)


def vae_task(version: Any = "v2", **vae: Any) -> VaeTask:
    torch.manual_seed(0)
    section = model_section("vae", version, vae=vae_config(version, **vae).model_dump())
    return without_dropout(VaeTask(VaeConfig.model_validate(section)))


def joint_task(**vae: Any) -> JointTask:
    torch.manual_seed(0)
    changed = {"vae": vae_config(**vae).model_dump(), "gpt": gpt_config().model_dump()}
    return without_dropout(JointTask(JointConfig.model_validate(model_section("joint", **changed))))


def without_dropout(task: Any) -> Any:
    for module in task.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    return task


def make_batch(frames: tuple[int, ...] = FRAMES, *, pro: bool = False, seed: int = 0) -> SovitsBatch:
    generator = torch.Generator().manual_seed(seed)
    tokens, phones = [num_tokens(n) for n in frames], [5 + n % 7 for n in frames]
    ssl = torch.randn(len(frames), 768, 2 * max(tokens), generator=generator)
    for row, n in enumerate(frames):
        ssl[row, :, n:] = 0.0
    wav = 0.2 * torch.randn(len(frames), 640 * max(frames) + 300, generator=generator)
    lengths = tuple(640 * n + 100 * row for row, n in enumerate(frames))
    for row, length in enumerate(lengths):
        wav[row, length:] = 0.0
    return SovitsBatch(
        ids=tuple(f"clip-{row}" for row in range(len(frames))),
        weight=float(len(frames)),
        num_frames=sum(frames),
        num_padded=max(frames) * len(frames),
        phones=torch.randint(1, 300, (len(frames), max(phones)), generator=generator),
        phone_lengths=tuple(phones),
        bert=None,
        codes=torch.randint(0, 1024, (len(frames), max(tokens)), generator=generator),
        code_lengths=tuple(tokens),
        wav=wav,
        wav_lengths=lengths,
        frame_lengths=frames,
        ssl=ssl,
        speaker=torch.randn(len(frames), 20_480, generator=generator) if pro else None,
    )


def noise_of(task: Any, batch: SovitsBatch) -> Tensor:
    return torch.randn(len(batch.ids), task.config.vae.inter_channels, 2 * batch.codes.shape[1])


# ---------------------------------------------------------------- what is drawn


def test_pieces_start_anywhere_in_a_clip_and_nowhere_else() -> None:
    config, batch = vae_config(), make_batch((8, 9, 40))
    assert starts_at(torch.zeros(3), batch, config) == (0, 0, 0)
    assert starts_at(torch.full((3,), 1 - 1e-6), batch, config) == (0, 1, 32)


def test_a_clip_shorter_than_a_piece_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"clip-1.*7 frames"):
        vae_task().draw(make_batch((20, 7)))


def test_spectrograms_mirror_each_clip_at_its_own_end() -> None:
    batch, spectrograms = make_batch(), Spectrograms()
    assert batch.wav is not None
    together = spectrograms.linear(batch.wav, batch.wav_lengths, width=44)
    for row, (length, frames) in enumerate(zip(batch.wav_lengths, FRAMES, strict=True)):
        alone = spectrograms.linear(batch.wav[row : row + 1, :length], [length], width=frames)
        torch.testing.assert_close(together[row, :, :frames], alone[0])
        assert not together[row, :, frames:].any()


# ---------------------------------------------------------------- one step


def test_training_on_cached_tokens_is_training_on_hubert_features() -> None:
    """The quantizer is frozen either way: in eval mode it rounds and learns nothing."""
    on_tokens, on_ssl = vae_task(), vae_task(freeze_quantizer=False)
    on_ssl.load_state_dict(on_tokens.state_dict())
    on_ssl.vae.quantizer.eval()
    batch = make_batch()
    assert batch.ssl is not None
    batch = replace(on_tokens.draw(batch), codes=on_tokens.vae.encode(batch.ssl))
    noise = noise_of(on_tokens, batch)
    gradients = []
    for task in (on_tokens, on_ssl):
        losses = list(vae_losses(task.parts, batch, updates="generator", noise=noise))
        value = losses[-1].value - losses[-1].metrics.get("commit", torch.zeros(()))
        value.backward()
        named = {name: p.grad for name, p in task.vae.named_parameters() if not name.startswith("ssl_proj")}
        gradients.append({"loss": value.detach(), "d": losses[0].value.detach(), **named})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_neither_loss_leaves_a_gradient_in_the_other_net() -> None:
    task = vae_task()
    assert task.discriminator is not None
    losses = task.losses(task.draw(make_batch()))
    next(losses).value.backward()  # without the engine's `inputs=`
    assert all(p.grad is None for p in task.vae.parameters())
    task.discriminator.zero_grad(set_to_none=True)
    next(losses).value.backward()
    assert all(p.grad is None for p in task.discriminator.parameters())
    assert all(p.grad is not None for p in task.vae.parameters() if p.requires_grad)


def test_the_generator_is_scored_by_the_discriminator_that_has_stepped() -> None:
    task = vae_task()
    assert task.discriminator is not None
    batch = task.draw(make_batch())
    noise = noise_of(task, batch)
    losses = vae_losses(task.parts, batch, updates="generator", noise=noise)
    next(losses)
    with torch.no_grad():
        for parameter in task.discriminator.parameters():
            parameter.mul_(1.1)
    stepped = next(losses).metrics["adv"]
    [_, again] = vae_losses(task.parts, batch, updates="generator", noise=noise)
    torch.testing.assert_close(stepped, again.metrics["adv"])


def test_metrics_are_the_terms_of_the_loss() -> None:
    task = vae_task(c_mel=10.0, c_kl=0.5)
    [discriminator, generator] = task.losses(task.draw(make_batch()))
    terms = generator.metrics
    weighted = 10 * terms["mel"] + 0.5 * terms["kl"] + terms["fm"] + terms["adv"]
    torch.testing.assert_close(weighted, generator.value.detach())
    assert generator.metrics.keys() == {"mel", "kl", "fm", "adv"}
    assert discriminator.metrics.keys() == {"d_real", "d_fake"}


def test_without_a_discriminator_the_generator_learns_from_mel_and_kl_alone() -> None:
    task = vae_task(discriminator=False)
    [loss] = task.losses(task.draw(make_batch()))
    assert loss.metrics.keys() == {"mel", "kl"}
    assert task.optimized().keys() == {"generator"}
    assert {"total", "mel", "kl", "tokens_mel"} == evaluated(task, make_batch()).keys()


@pytest.mark.parametrize("version", ["v1", "v2Pro", "v2ProPlus"])
def test_every_version_trains(version: str) -> None:
    task = vae_task(version)
    run = make_run(task, optim=OptimConfig(lr=1e-4))
    report = train_step(run, [make_batch(pro="Pro" in version)])
    assert report.stepped == ["discriminator", "generator"]


def test_a_pro_version_without_a_speaker_says_what_it_lacks() -> None:
    task = vae_task("v2Pro")
    with pytest.raises(ValueError, match="v2Pro needs a speaker embedding"):
        next(task.losses(task.draw(make_batch())))


def test_losses_are_in_fp32_whatever_the_net_computes_in() -> None:
    task = vae_task()
    exact = [loss.value.item() for loss in pinned(task, Precision("fp32", CPU))]
    losses = pinned(task, Precision("bf16", CPU))
    assert all(loss.value.dtype == torch.float32 for loss in losses)
    assert [loss.value.item() for loss in losses] == pytest.approx(exact, rel=0.1)


def pinned(task: VaeTask, precision: Precision) -> list[Any]:
    torch.manual_seed(1)
    batch = task.draw(make_batch())
    with precision.autocast():
        return list(vae_losses(task.parts, batch, updates="generator", noise=noise_of(task, batch)))


def test_a_step_reads_nothing_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values stand for a device that is busy: whoever reads one of them fails."""
    monkeypatch.setenv(VARIABLE, "0")  # as on a GPU; the CPU's own dropout reads a seed on the host
    batch = vae_task().draw(make_batch())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        config = VaeConfig.model_validate(
            model_section("vae", vae=vae_config(p_dropout=0.1).model_dump(), features={"quantizer": "none"})
        )
        task = VaeTask(config)
        assert batch.wav is not None
        faked = {name: mode.from_tensor(getattr(batch, name)) for name in ("wav", "codes", "phones")}
        for loss in task.losses(replace(batch, **faked)):
            loss.value.backward(inputs=[p for p in task.parameters() if p.requires_grad and reached(task, p, loss)])
            with pytest.raises(DataDependentOutputException):
                loss.value.item()


def reached(task: VaeTask, parameter: Tensor, loss: Any) -> bool:
    return any(parameter is own for own in task.optimized()[loss.updates].parameters())


def test_nets_can_be_copied_after_a_step() -> None:
    task = vae_task()
    train_step(make_run(task), [make_batch()])
    twin = copy.deepcopy(task)
    assert twin.exported().state_dict().keys() == task.exported().state_dict().keys()
    assert all(name.startswith("vae.") for name in twin.exported().state_dict())
    assert twin.exported().vae is twin.vae


def test_a_short_run_learns_its_clip() -> None:
    task = vae_task()
    run = make_run(task, optim=OptimConfig(lr=1e-3, betas=(0.8, 0.99), max_grad_norm=None), total_steps=40)
    batch = make_batch((24, 24))
    before = evaluated(task, batch)["total"]
    for _ in range(8):
        train_step(run, [batch])
    assert evaluated(task, batch)["total"] < 0.85 * before


# ---------------------------------------------------------------- evaluation


def evaluated(task: Any, batch: SovitsBatch) -> dict[str, float]:
    with evaluating(task):
        values = task.evaluate(batch, torch.Generator().manual_seed(0))
    return {name: float(v if isinstance(v, Tensor) else v.total / v.count) for name, v in values.items()}


def test_total_is_what_is_descended_without_the_discriminators_part() -> None:
    task = vae_task(c_mel=10.0, c_kl=2.0)
    values = evaluated(task, make_batch())
    assert values["total"] == pytest.approx(10 * values["mel"] + 2 * values["kl"], rel=1e-5)


def test_an_evaluation_without_the_posterior_does_not_hear_the_recording_but_for_its_style() -> None:
    """`tokens_mel` follows the tokens; the posterior encoder has no part in it."""
    task = vae_task()
    before = evaluated(task, make_batch())
    with torch.no_grad():
        for parameter in task.vae.enc_q.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = evaluated(task, make_batch())
    assert after["tokens_mel"] == pytest.approx(before["tokens_mel"], rel=1e-5)
    assert after["mel"] != pytest.approx(before["mel"], rel=1e-5)


@pytest.mark.parametrize(
    ("values", "step", "said"),
    [
        ({"kl": 0.01, "d_real": 0.6, "d_fake": 0.3}, 0, ["KL has collapsed"]),
        ({"kl": 2e4, "d_real": 0.6, "d_fake": 0.3}, 50, ["KL has exploded"]),
        ({"kl": 1.5, "d_real": 0.6, "d_fake": 0.3}, 50, []),
        ({"kl": 1.5, "d_real": 0.98, "d_fake": 0.02}, 50, ["too strong"]),
        ({"kl": 1.5, "d_real": 0.5, "d_fake": 0.49}, 50, ["too weak"]),
        ({"kl": 1.5, "d_real": 0.0, "d_fake": 0.0}, 0, []),  # a fresh discriminator
        ({"kl": 1.5}, 50, []),
    ],
)
def test_remarks_say_what_went_wrong(values: dict[str, float], step: int, said: list[str]) -> None:
    remarks = vae_task().remarks(values, step=step)
    assert len(remarks) == len(said)
    assert all(part in remark for part, remark in zip(said, remarks, strict=True))


# ---------------------------------------------------------------- bases


def opened(weights: dict[str, Tensor]) -> OpenedCheckpoint:
    return OpenedCheckpoint(
        path=Path("base.pth"),
        family="gpt_sovits",
        task="gpt_sovits/vae",
        kind="base",
        model="",
        version="",
        config={},
        unknown=(),
        weights=weights,  # type: ignore[arg-type]
    )


def test_a_base_of_more_nets_gives_those_that_are_trained() -> None:
    base = opened({**joint_task().state_dict()})
    task = vae_task()
    fitted = task.fitted(base)
    assert load_weights(task, fitted.weights, source="base").perfect
    assert fitted.notes == ("not loaded from the base, because this task does not have it: gpt",)


@pytest.mark.parametrize(
    ("part", "said", "hint"),
    [
        ("discriminator.", "discriminator", "model.vae.discriminator=false"),
        ("vae.enc_q.", "posterior encoder", "s2G"),
        ("vae.", "the VAE", "s2G"),
    ],
)
def test_a_base_without_a_part_is_refused_with_what_to_add(part: str, said: str, hint: str) -> None:
    task = vae_task()
    weights = {name: value for name, value in task.state_dict().items() if not name.startswith(part)}
    with pytest.raises(CheckpointError, match=said) as caught:
        task.fitted(opened(weights))
    assert hint in str(caught.value.hint)


def test_a_base_with_another_quantizer_is_refused_unless_it_is_trained() -> None:
    task = vae_task()
    other = {name: value.clone() for name, value in task.state_dict().items()}
    other["vae.quantizer.vq.layers.0._codebook.embed"] += 0.1
    with pytest.raises(CheckpointError, match=r"the quantizer of .* is not that of"):
        task.fitted(opened(other))
    assert vae_task(freeze_quantizer=False).fitted(opened(other)).weights.keys() == other.keys()


def test_a_base_of_the_small_encoders_is_known_where_another_machine_rounded_them() -> None:
    task = vae_task()
    other = {name: value.clone() for name, value in task.state_dict().items()}
    for name in ("ssl_proj.weight", "quantizer.vq.layers.0._codebook.embed"):
        other[f"vae.{name}"] += 1e-3 * torch.rand_like(other[f"vae.{name}"])
    assert task.fitted(opened(other)).weights.keys() == other.keys()


# ---------------------------------------------------------------- both nets


def test_both_nets_step_once_after_the_generators_loss() -> None:
    task = joint_task()
    losses = list(task.losses(task.draw(make_batch())))
    assert [(loss.label, loss.updates, loss.steps) for loss in losses] == [
        ("gpt", "model", False),
        ("discriminator", "discriminator", True),
        ("generator", "model", True),
    ]
    report = train_step(make_run(task), [make_batch()])
    assert report.stepped == ["discriminator", "model"]


def test_a_joint_step_is_a_step_of_either_net_alone() -> None:
    """With gradients clipped apart, the other net changes nothing."""
    rule = GroupRule(name="gpt", match=["gpt.*"], lr=5e-4, max_grad_norm=0.3)
    optim = OptimConfig(lr=1e-3, max_grad_norm=0.5, groups=[rule])
    joint = joint_task()
    alone = vae_task()
    alone.load_state_dict({k: v for k, v in joint.state_dict().items() if not k.startswith("gpt.")})
    shared = make_run(joint, optim=optim)
    single = make_run(alone, optim=OptimConfig(lr=1e-3, max_grad_norm=0.5))
    for seed in range(2):
        for run in (shared, single):
            torch.manual_seed(seed)
            train_step(run, [make_batch(seed=seed)])
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(joint.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_joint_evaluation_is_the_sum_of_both() -> None:
    joint = joint_task()
    values = evaluated(joint, make_batch())
    alone = vae_task()
    alone.load_state_dict({k: v for k, v in joint.state_dict().items() if not k.startswith("gpt.")})
    assert values["vae"] == pytest.approx(evaluated(alone, make_batch())["total"], rel=1e-5)
    assert values["total"] == pytest.approx(values["gpt"] + values["vae"], rel=1e-5)
    assert all(name.startswith(("gpt.", "vae.")) for name in joint.exported().state_dict())


def test_a_target_has_as_many_frames_as_its_piece() -> None:
    task = vae_task()
    batch = task.draw(make_batch())
    target = make_target(task.parts, batch)
    made = make(task.parts, batch, target)
    assert made.wav.shape == target.wav.shape == (3, 1, 5120)
    assert target.mel.shape == (3, 128, 8) == task.spectrograms.mel(made.wav[:, 0]).shape
