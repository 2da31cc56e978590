"""`resume` goes on with GPT-SoVITS' own runs: every moment where it was, and the LR of the recipe's schedule."""

from __future__ import annotations

import math
from pathlib import Path, PosixPath
from typing import Any

import pytest
import sovits_toys as toys
import torch
from small_runs import checkpoint, metrics, write_clips
from torch import Tensor, nn

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError
from ttstrain.optim.scaled_adam import ScaledAdam
from ttstrain.optim.schedule import lr_at
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.runs.resume import resume
from ttstrain.tensors.tensorfile import read_tree

UNSEEN = 731  # a phone of Cantonese: its row gets no gradient from English
STEPS, LR = 5, 1e-3


def trained_pair(folder: Path, *, epoch: int = 2) -> tuple[nn.Module, torch.optim.AdamW]:
    """Write `G_5.pth` and `D_5.pth` as upstream's trainer does, after five updates with random gradients."""
    folder.mkdir(parents=True)
    vae, critic = toys.small_vae(), toys.small_discriminator()
    text = [vae.enc_p.text_embedding, vae.enc_p.encoder_text, vae.enc_p.mrte]
    own = {id(parameter) for part in text for parameter in part.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in vae.parameters() if id(p) not in own], "lr": 1e-4}]
    groups += [{"params": list(part.parameters()), "lr": 4e-5} for part in text]
    optimizers = {
        "G": (vae, torch.optim.AdamW(groups, betas=(0.8, 0.99), eps=1e-9)),
        "D": (critic, torch.optim.AdamW(critic.parameters(), 1e-4, betas=(0.8, 0.99), eps=1e-9)),
    }
    for name, (net, optimizer) in optimizers.items():
        for _ in range(STEPS):
            for key, parameter in net.named_parameters():
                parameter.grad = None if key.startswith("ssl_proj") else 1e-3 * torch.randn_like(parameter)
            optimizer.step()
        state = {"model": net.state_dict(), "iteration": epoch, "optimizer": optimizer.state_dict()}
        torch.save({**state, "learning_rate": 1e-4}, folder / f"{name}_5.pth")
    return optimizers["G"]


def recipe(path: Path, task: str, **optim: Any) -> Path:
    return toys.write_recipe(
        path,
        task,
        data=write_clips(path.parent / "speech"),
        optim={"lr": LR, "schedule": {"kind": "cosine", "warmup_steps": 2}, **optim},
        train={"steps": STEPS + 1, "device": "cpu", "precision": "fp32"},
        checkpoint={"every": 1, "keep_last": 9},
        eval={"every": None},
    )


def test_a_pair_of_training_files_goes_on_with_its_moments_and_our_schedule(tmp_path: Path) -> None:
    vae, optimizer = trained_pair(tmp_path / "logs_s2_v2")
    asked = recipe(tmp_path / "r.yaml", "vae", weight_decay=0.0)
    run = resume(tmp_path / "logs_s2_v2", [f"run_dir={tmp_path}"], recipe=str(asked))
    first = checkpoint(run, STEPS + 1)
    name = "vae.enc_p.text_embedding.weight"
    (moments,) = [own[name] for own in first.state["optimizers"].values() if name in own]
    before: dict[str, Tensor] = optimizer.state[vae.enc_p.text_embedding.weight]
    beta1, beta2 = 0.9, 0.999  # of the recipe, whose optimizer goes on
    assert moments["step"] == STEPS + 1
    assert torch.allclose(moments["exp_avg"][UNSEEN], beta1 * before["exp_avg"][UNSEEN], rtol=1e-6, atol=0)
    assert torch.allclose(moments["exp_avg_sq"][UNSEEN], beta2 * before["exp_avg_sq"][UNSEEN], rtol=1e-6, atol=0)
    (row,) = [row for row in metrics(run) if "optim/lr/generator/default" in row]
    assert row["step"] == STEPS + 1
    schedule = parse(compose(asked)).optim.schedule
    expected = lr_at(schedule, step=STEPS, base_lr=LR, total_steps=STEPS + 1, steps_per_epoch=1.0)
    assert row["optim/lr/generator/default"] == pytest.approx(expected, rel=1e-12)  # as if all of it had been ours


def test_half_a_run_is_not_gone_on_with(tmp_path: Path) -> None:
    trained_pair(tmp_path / "logs_s2_v2")
    (tmp_path / "logs_s2_v2" / "D_5.pth").unlink()
    with pytest.raises(CheckpointError, match="does not hold the discriminator"):
        resume(
            tmp_path / "logs_s2_v2" / "G_5.pth",
            [f"run_dir={tmp_path}"],
            recipe=str(recipe(tmp_path / "r.yaml", "vae")),
        )


# ---------------------------------------------------------------- the GPT's ScaledAdam


def gradients(net: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        parameter.grad = 0.1 * torch.randn(parameter.shape, generator=generator)


def optimizer_of(net: nn.Module) -> ScaledAdam:
    group = {"params": list(net.parameters()), "lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.0}
    return ScaledAdam([group], eps=1e-8)


def write_lightning(path: Path, net: nn.Module, optimizer: ScaledAdam, *, step: int) -> Path:
    """Write what Lightning saves of upstream's training: ScaledAdam's state, stacked by shape."""
    weights = {f"model.{key}": value for key, value in net.state_dict().items()}
    alike: dict[tuple[int, ...], list[tuple[int, nn.Parameter]]] = {}
    for index, parameter in enumerate(net.parameters()):
        alike.setdefault(tuple(parameter.shape), []).append((index, parameter))
    state: dict[int, dict[str, Any]] = {}
    for shape, members in alike.items():
        own = [optimizer.state[parameter] for _, parameter in members]
        one = (1,) * len(shape)
        stack: dict[str, Any] = {"step": step}
        stack |= {key: torch.stack([some[key] for some in own]) for key in ("delta", "exp_avg_sq")}
        if math.prod(shape) > 1:
            for key in ("param_rms", "scale_exp_avg_sq"):
                stack[key] = torch.stack([some[key].reshape(one) for some in own])
            stack["scale_grads"] = torch.stack([some["scale_grads"].reshape(-1, *one) for some in own], dim=1)
        else:  # upstream keeps zeros there that nothing reads
            stack |= {key: torch.zeros(len(own), *one) for key in ("param_rms", "scale_exp_avg_sq")}
            stack["scale_grads"] = torch.zeros(4, len(own), *one)
        state[members[0][0]] = stack
    norms = next(some["model_norms"] for some in optimizer.state.values() if "model_norms" in some)
    state[next(iter(state))]["model_norms"] = norms
    config = toys.gpt_config().model_dump()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "epoch": 3,
            "global_step": step,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": weights,
            "optimizer_states": [{"state": state, "param_groups": [{"lr": 2e-3, "params": list(range(len(weights)))}]}],
            "hyper_parameters": {"config": {"model": config}, "output_dir": PosixPath("logs")},
        },
        path,
    )
    return path


@pytest.mark.parametrize("step", [3, 6])  # before a size has moved, and after
def test_scaled_adam_goes_on_bit_for_bit_from_a_stacked_state(tmp_path: Path, step: int) -> None:
    net = toys.small_gpt()
    optimizer = optimizer_of(net)
    for number in range(step):
        gradients(net, number)
        optimizer.step()
    path = write_lightning(tmp_path / f"epoch=3-step={step}.ckpt", net, optimizer, step=step)
    opened = open_checkpoint(path, task="gpt_sovits/gpt")
    moments = read_tree(opened.optimizer_state)
    other = toys.small_gpt(seed=1)
    other.load_state_dict({key.removeprefix("gpt."): tensor for key, tensor in read_tree(opened.weights).items()})
    again = optimizer_of(other)
    for name, parameter in other.named_parameters():
        again.state[parameter] = moments[f"gpt.{name}"]
    for number in range(step, step + 5):
        for model, own in ((net, optimizer), (other, again)):
            gradients(model, number)
            own.step()
    for (name, one), two in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def lightning(folder: Path) -> Path:
    net = toys.small_gpt()
    optimizer = optimizer_of(net)
    for number in range(STEPS):
        gradients(net, number)
        optimizer.step()
    return write_lightning(folder / "ckpt" / f"epoch=3-step={STEPS}.ckpt", net, optimizer, step=STEPS)


def test_a_lightning_file_goes_on_with_its_own_kind_of_optimizer(tmp_path: Path) -> None:
    path = lightning(tmp_path / "logs_s1_v2")
    asked = recipe(tmp_path / "r.yaml", "gpt", kind="scaled_adam")
    run = resume(tmp_path / "logs_s1_v2", [f"run_dir={tmp_path}"], recipe=str(asked))
    name = "gpt.ar_text_embedding.word_embeddings.weight"
    (moments,) = [own[name] for own in checkpoint(run, STEPS + 1).state["optimizers"].values() if name in own]
    opened = open_checkpoint(path, task="gpt_sovits/gpt").optimizer_state
    assert opened is not None
    before: Tensor = opened[name]["exp_avg_sq"].read()
    assert moments["step"] == STEPS + 1
    beta2 = float(moments["exp_avg_sq"][UNSEEN].sum() / before[UNSEEN].sum())
    assert torch.allclose(moments["exp_avg_sq"][UNSEEN], beta2 * before[UNSEEN], rtol=1e-5, atol=0)
    assert 0.9 < beta2 < 1


def test_another_kind_of_optimizer_resets_the_optimizer_state_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lightning(tmp_path / "logs_s1_v2")
    run = resume(path, [f"run_dir={tmp_path}"], recipe=str(recipe(tmp_path / "r.yaml", "gpt")))
    name = "gpt.bert_proj.bias"
    (moments,) = [own[name] for own in checkpoint(run, STEPS + 1).state["optimizers"].values() if name in own]
    assert moments["step"] == 1
    assert "optimizer state (the file's is of another kind of optimizer than AdamW)" in capsys.readouterr().err
