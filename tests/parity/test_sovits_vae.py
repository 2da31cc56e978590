"""The VAE and its discriminator against upstream's: every intermediate result, losses, gradients, three whole steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sovits_goldens import Golden, PinnedTask, checked, goldens
from torch import Tensor
from toys import make_run

from ttstrain.families.gpt_sovits.config import VaeNetConfig
from ttstrain.families.gpt_sovits.vae.discriminator import Discriminator, Judgement
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms, spectrogram
from ttstrain.families.gpt_sovits.vae.synthesizer import build_discriminator, build_vae
from ttstrain.families.gpt_sovits.vae.training import make, make_target
from ttstrain.recipe.schema import Constant, GroupRule, OptimConfig, OptimizerOverride
from ttstrain.train.step import train_step

FORWARD = 1e-4  # absolute, as the fixtures' report suggests; upstream itself is 1e-5 off its float64
GRADIENT = 10 * 1.4e-5  # of a gradient's largest entry: upstream's own move by 1.4e-5 of it with oneDNN off
FIXTURES = ["s2_v2", "s2_v2Pro"]
NAMES = {"mel": "mel", "kl": "kl", "fm": "fm", "adv": "gen"}  # of the generator's terms, ours and upstream's
WEIGHTS = {"mel": 45.0}  # upstream logs it with its weight


@pytest.fixture(params=FIXTURES, scope="module")
def golden(request: pytest.FixtureRequest, fixtures_dir: Path) -> Golden:
    return goldens(fixtures_dir, request.param)


@pytest.fixture(scope="module")
def task(golden: Golden) -> PinnedTask:
    return golden.task()


@pytest.fixture(autouse=True)
def _no_gradients_left(request: pytest.FixtureRequest) -> Any:
    yield
    if "task" in request.fixturenames:
        request.getfixturevalue("task").zero_grad(set_to_none=True)


def close(ours: Tensor, theirs: Tensor, *, atol: float = FORWARD) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=atol)


def is_key_bias(name: str) -> bool:
    """Its gradient is zero but for rounding, which Adam makes large."""
    return name.endswith(("conv_k.bias", "w_ks.bias"))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("version", ["v1", "v2", "v2Pro", "v2ProPlus"])
def test_state_dicts_have_the_published_keys_shapes_and_order(fixtures_dir: Path, version: str) -> None:
    generator = specification(fixtures_dir, f"s2G_{version}")
    discriminator = specification(fixtures_dir, "s2D_v2Pro" if "Pro" in version else "s2D_v2")
    model = generator["config"]["model"]
    config = VaeNetConfig.model_validate({name: model[name] for name in VaeNetConfig.model_fields if name in model})
    with torch.device("meta"):
        nets = build_vae(config, version), build_discriminator(config, version)  # type: ignore[arg-type]
    for net, spec in zip(nets, (generator, discriminator), strict=True):
        expected = {key: tuple(shape) for key, (shape, _) in spec["tensors"].items()}
        assert {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()} == expected
        assert list(net.state_dict()) == list(expected)  # moments of upstream's files go by this order


def specification(fixtures_dir: Path, name: str) -> dict[str, Any]:
    with gzip.open(fixtures_dir / "key_specs" / f"{name}.json.gz", "rt") as file:
        found: dict[str, Any] = json.load(file)
    return found


def test_recreated_weights_are_those_of_the_fixture(golden: Golden, task: PinnedTask) -> None:
    for net in ("G", "D"):
        assert checked(task.state_dict(), golden, net) == []


def test_what_is_never_trained_is_what_upstream_gives_no_gradient(golden: Golden, task: PinnedTask) -> None:
    frozen = [name for name, parameter in task.vae.named_parameters() if not parameter.requires_grad]
    assert frozen == golden.json("grad_norms")["G"]["no_grad"]


# ---------------------------------------------------------------- forward


def test_spectrograms_and_mels_are_upstreams(fixtures_dir: Path) -> None:
    folder = goldens(fixtures_dir, "s2_mel").folder
    wav, expected = load_file(folder / "inputs.safetensors")["wav_32k"], load_file(folder / "expected.safetensors")
    mels = Spectrograms()
    close(spectrogram(wav[0]), expected["spec"][0])
    close(mels.linear(wav, [wav.shape[1]], width=80)[..., :75], expected["spec"])
    close(mels.mel_of_linear(expected["spec"]), expected["spec_to_mel"])
    close(mels.mel(wav), expected["mel_spectrogram"], atol=1e-3)  # a logarithm near its floor


def test_padded_spectrograms_are_those_of_the_clips(golden: Golden, task: PinnedTask) -> None:
    batch = golden.batch()
    assert batch.wav is not None
    spec = task.spectrograms.linear(batch.wav, batch.wav_lengths, width=golden.inputs["spec"].shape[2])
    close(spec, golden.inputs["spec"])


def test_semantic_tokens_are_upstreams(golden: Golden, task: PinnedTask) -> None:
    assert torch.equal(task.vae.encode(golden.inputs["ssl"]), golden.expected["codes"][:, 0])


@torch.no_grad()
def test_every_intermediate_result_is_upstreams(golden: Golden, task: PinnedTask) -> None:
    batch, expected = golden.batch(), golden.expected
    target = make_target(task.parts, batch)
    made = make(task.parts, batch, target, noise=golden.inputs["draw.randn_like"])
    assert batch.segment_starts == tuple(expected["g.ids_slice"].tolist())
    assert torch.equal(made.latents.mask, expected["g.z_mask"])
    assert torch.equal(target.wav, expected["y_slice"])
    close(target.mel, expected["y_mel"], atol=1e-3)
    for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q"):
        close(getattr(made.latents, name), expected[f"g.{name}"])
    close(made.wav, expected["g.y_hat"], atol=1e-5)
    close(task.spectrograms.mel(made.wav[:, 0]), expected["y_hat_mel"])


@torch.no_grad()
def test_the_discriminators_scores_and_maps_are_upstreams(golden: Golden, task: PinnedTask) -> None:
    for kind, wav in (("real", golden.expected["y_slice"]), ("gen", golden.expected["g.y_hat"])):
        judgements = judge(task.discriminator, wav)
        for i, judgement in enumerate(judgements):
            close(judgement.score, golden.expected[f"d.{kind}.{i}"], atol=1e-5)
        if kind == "real":
            check_maps(judgements, golden.json("fmap_real_norms"))


def judge(discriminator: Discriminator | None, wav: Tensor) -> list[Judgement]:
    assert discriminator is not None
    return discriminator(wav)


def check_maps(judgements: list[Judgement], norms: dict[str, Any]) -> None:
    assert {f"{i}.{j}" for i, one in enumerate(judgements) for j in range(len(one.maps))} == norms.keys()
    for i, judgement in enumerate(judgements):
        for j, found in enumerate(judgement.maps):
            shape, norm = norms[f"{i}.{j}"]
            assert found.numel() == torch.Size(shape).numel()
            assert float(found.norm()) == pytest.approx(norm, rel=1e-5)


def test_speech_of_given_tokens_is_upstreams(golden: Golden, task: PinnedTask) -> None:
    given = golden.inputs
    codes, frames = given["decode.codes"][0], given["spec_lengths"][0]
    speaker = given.get("sv_emb")
    task.eval()
    wav = task.vae.decode(
        codes,
        given["text"][:1],
        given["spec"][:1, :, :frames],
        speaker=None if speaker is None else speaker[:1],
        noise=given["decode.randn_like"],
    )
    task.train()
    close(wav, golden.expected["decode.audio"], atol=1e-5)


# ---------------------------------------------------------------- losses and gradients


def test_losses_and_gradients_are_upstreams(golden: Golden, task: PinnedTask) -> None:
    expected, norms = golden.expected, golden.json("grad_norms")
    task.noises = iter([golden.inputs["draw.randn_like"]])
    losses = task.losses(golden.batch())

    discriminator = next(losses)
    assert discriminator.value.item() == pytest.approx(float(expected["loss.disc"]), rel=1e-5)
    assert task.discriminator is not None
    discriminator.value.backward(inputs=list(task.discriminator.parameters()))
    check_gradients(task.discriminator, norms["D"], rel=2e-3)

    generator = next(losses)  # by the same discriminator, as in this fixture
    for ours, theirs in NAMES.items():
        found = WEIGHTS.get(ours, 1.0) * float(generator.metrics[ours])
        assert found == pytest.approx(float(expected[f"loss.{theirs}"]), rel=1e-5), ours
    assert generator.value.item() == pytest.approx(float(expected["loss.g_total"]), rel=1e-5)
    generator.value.backward(inputs=[p for p in task.vae.parameters() if p.requires_grad])
    check_gradients(task.vae, norms["G"], rel=1e-3)
    named = dict(task.vae.named_parameters())
    for key, value in expected.items():
        if key.startswith("grad.G."):
            close(named[key.removeprefix("grad.G.")].grad, value, atol=GRADIENT * float(value.abs().max()))  # type: ignore[arg-type]


def check_gradients(net: torch.nn.Module, expected: dict[str, Any], *, rel: float) -> None:
    ours = {name: float(p.grad.norm()) for name, p in net.named_parameters() if p.grad is not None}
    assert ours.keys() == expected["per_param"].keys()
    for name, norm in expected["per_param"].items():
        if norm > 1e-5:  # less is rounding
            assert ours[name] == pytest.approx(norm, rel=rel), name
    total = sum(norm**2 for norm in ours.values()) ** 0.5
    assert total == pytest.approx(expected["total"], rel=rel)


def test_a_quantizer_that_is_trained_learns_as_upstreams(golden: Golden) -> None:
    task = golden.task(freeze_quantizer=False)
    task.noises = iter([golden.inputs["draw.randn_like"]])
    losses = list(task.losses(golden.batch()))
    assert float(losses[-1].metrics["commit"]) == pytest.approx(float(golden.expected["unfrozen.commit"]), rel=1e-5)
    task.learn(losses[-1].statistics)
    close(task.vae.quantizer.codebook.cluster_size, golden.expected["unfrozen.cluster_size"], atol=1e-5)
    losses[-1].value.backward(inputs=list(task.vae.ssl_proj.parameters()))
    assert all(bool(p.grad.any()) for p in task.vae.ssl_proj.parameters() if p.grad is not None)


@pytest.mark.slow
def test_three_steps_of_the_engine_are_three_of_upstreams_steps(golden: Golden) -> None:
    task = golden.task()
    run = make_run(task, optim=upstream_optim())
    task.noises = iter([golden.inputs[f"step{k}.randn_like"] for k in range(3)])
    for k, expected in enumerate(golden.json("steps")):
        report = train_step(run, [golden.batch(draw=f"step{k}")])
        rel = 1e-5 if k == 0 else 2e-3
        found = {**report.losses, **{name: WEIGHTS.get(name, 1.0) * v for name, v in report.metrics.items()}}
        for ours, theirs in {"discriminator": "disc", "generator": "total", **NAMES}.items():
            assert found[ours] == pytest.approx(expected[theirs], rel=rel), (k, ours)
        assert report.grad_norms["discriminator"] == pytest.approx(expected["grad_norm_d"], rel=5e-3)
        assert report.grad_norms["generator"] == pytest.approx(expected["grad_norm_g"], rel=5e-3)
    check_weights(task, golden.json("params_after_3_steps"), lr=1e-4, steps=3)


def upstream_optim() -> OptimConfig:
    """Four groups, as upstream's `s2_train` makes them."""
    text = {"text_embedding": "enc_p.text_embedding", "encoder_text": "enc_p.encoder_text", "mrte": "enc_p.mrte"}
    return OptimConfig(
        lr=1e-4,
        betas=(0.8, 0.99),
        eps=1e-9,
        weight_decay=0.01,
        decay_norms_and_biases=True,
        max_grad_norm=None,
        groups=[GroupRule(name=name, match=[f"vae.{part}.*"], lr_scale=0.4) for name, part in text.items()],
        optimizers={"discriminator": OptimizerOverride(lr=1e-4)},
        schedule=Constant(warmup_steps=0),
    )


def check_weights(task: PinnedTask, expected: dict[str, Any], *, lr: float, steps: int) -> None:
    """Compare norms within a part of what the steps could have moved them."""
    moved = 0
    assert task.discriminator is not None
    for net, own in (("G", task.vae), ("D", task.discriminator)):
        for name, parameter in own.named_parameters():
            if is_key_bias(name):
                continue
            _, norm = expected[net][name]
            reach = lr * steps * parameter.numel() ** 0.5
            assert parameter.detach().norm().item() == pytest.approx(norm, abs=0.02 * reach + 1e-6 * norm), name
            moved += 1
    assert moved > 600
