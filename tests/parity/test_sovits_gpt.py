"""The GPT against upstream's: its inputs, logits, losses and gradients, and a whole training run."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.families.gpt_sovits.batch import Edit, SovitsBatch
from ttstrain.families.gpt_sovits.config import GptNetConfig
from ttstrain.families.gpt_sovits.gpt.attention import prefix_mask
from ttstrain.families.gpt_sovits.gpt.dpo import edited
from ttstrain.families.gpt_sovits.gpt.loss import clip_losses, num_targets, predict_padded
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder, build_gpt
from ttstrain.families.gpt_sovits.gpt.task import value
from ttstrain.optim.scaled_adam import ScaledAdam

HEAD: Final = "upstream-2025-07"


def gpt_config(folder: Path, **changes: Any) -> GptNetConfig:
    model = json.loads((folder / "config.json").read_text())["model"]
    known = {name: model[name] for name in GptNetConfig.model_fields if name in model}
    return GptNetConfig(**{**known, "dropout": 0.0, "loss": "sum", "compat": HEAD, **changes})


def folder_of(fixtures: Path, name: str) -> Path:
    """Return a folder of goldens, or skip: the packed copy of a clone has not all of them."""
    if not (fixtures / name).is_dir():
        pytest.skip(f"the compact fixtures hold no {name}")
    return fixtures / name


def toy_net(fixtures: Path) -> Text2SemanticDecoder:
    folder = folder_of(fixtures, "s1_t2s")
    net = build_gpt(gpt_config(folder))
    saved = torch.load(folder / "toy-e15.ckpt", weights_only=True)["weight"]
    net.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in saved.items()}, strict=True)
    return net


def batch_of(given: dict[str, Tensor], *, prefix: str = "", bert: str = "bert_feature") -> SovitsBatch:
    codes = given[f"{prefix}semantic_ids"]
    lengths = tuple(given[f"{prefix}semantic_ids_len"].tolist())
    real = torch.arange(codes.shape[1]) < torch.tensor(lengths)[:, None]
    return SovitsBatch(
        ids=tuple(str(i) for i in range(len(codes))),
        weight=float(len(codes)),
        num_frames=2 * sum(lengths),
        num_padded=2 * max(lengths) * len(codes),
        phones=given[f"{prefix}phoneme_ids"],
        phone_lengths=tuple(given[f"{prefix}phoneme_ids_len"].tolist()),
        bert=given[f"{prefix}{bert}"].float().transpose(1, 2),
        codes=codes * real,  # our padding is 0
        code_lengths=lengths,
        wav=None,
        frame_lengths=tuple(2 * length for length in lengths),
        ssl=None,
        speaker=None,
    )


@pytest.fixture
def given(fixtures_dir: Path) -> dict[str, Tensor]:
    return load_file(folder_of(fixtures_dir, "s1_t2s") / "inputs.safetensors")


@pytest.fixture
def expected(fixtures_dir: Path) -> dict[str, Tensor]:
    return load_file(folder_of(fixtures_dir, "s1_t2s") / "expected.safetensors")


@pytest.mark.parametrize("spec", ["s1_s1longer", "s1_s1longer-v2"])
def test_a_published_gpt_has_upstreams_names_and_shapes(fixtures_dir: Path, spec: str) -> None:
    wanted = json.loads(gzip.decompress((fixtures_dir / "key_specs" / f"{spec}.json.gz").read_bytes()))
    known = {name: wanted["config"][name] for name in GptNetConfig.model_fields if name in wanted["config"]}
    with torch.device("meta"):
        net = build_gpt(GptNetConfig(**{**known, "dropout": 0.1}))
    own = {f"model.{name}": list(tensor.shape) for name, tensor in net.state_dict().items()}
    assert own == {name: shape for name, (shape, _) in wanted["tensors"].items()}
    assert len(own) == 295


def test_inputs_and_mask_are_upstreams(
    fixtures_dir: Path, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    net, batch = toy_net(fixtures_dir), batch_of(given)
    num_text, num_audio = batch.phones.shape[1], batch.codes.shape[1]
    assert batch.bert is not None
    text = net.embed_text(batch.phones, batch.bert, torch.arange(num_text), longest=num_text)
    xy = expected["make_input_data.xy_pos"]
    torch.testing.assert_close(text, xy[:, :num_text], atol=1e-6, rtol=1e-6)
    inputs = expected["make_input_data.targets"][:, :-1]
    audio = net.embed_audio(inputs, torch.arange(num_audio), longest=num_audio)
    torch.testing.assert_close(audio, xy[:, num_text:], atol=1e-6, rtol=1e-6)

    hidden = num_text - torch.tensor(batch.phone_lengths)  # upstream hides the first columns
    text_visible = torch.arange(num_text) >= hidden[:, None]
    audio_visible = torch.arange(num_audio) < torch.tensor(batch.code_lengths)[:, None]
    mask = prefix_mask(torch.cat([text_visible, audio_visible], dim=1), num_text=num_text)  # (b, 1, l, l)
    heads = len(expected["make_input_data.attn_mask_is_inf"]) // len(batch.ids)
    assert torch.equal(~mask[:, 0].repeat_interleave(heads, dim=0), expected["make_input_data.attn_mask_is_inf"])


def test_logits_targets_loss_and_accuracy_are_upstreams(
    fixtures_dir: Path, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    net, batch = toy_net(fixtures_dir), batch_of(given)
    made = predict_padded(net, batch, compat=HEAD)
    torch.testing.assert_close(made.logits.view_as(expected["logits_used"]), expected["logits_used"], atol=2e-5, rtol=0)
    assert torch.equal(made.targets.view(len(batch.ids), -1), expected["make_input_data.targets"])
    losses = clip_losses(net, batch, compat=HEAD)
    torch.testing.assert_close(losses.nll.sum(), expected["old.loss"], rtol=1e-6, atol=0)
    accuracy = losses.acc_top3.total / losses.acc_top3.count
    torch.testing.assert_close(accuracy, expected["old.acc"], rtol=1e-6, atol=0)
    assert losses.num_targets == num_targets(batch, HEAD)
    assert sum(losses.num_targets) == made.targets.numel()


def test_gradients_are_upstreams(fixtures_dir: Path, given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    net, batch = toy_net(fixtures_dir), batch_of(given)
    torch.autograd.backward(clip_losses(net, batch, compat=HEAD).nll.sum())
    norms = json.loads((fixtures_dir / "s1_t2s" / "grad_norms.json").read_text())["old"]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(norms["per_param"][name], rel=1e-4), name
        if f"grad.old.{name}" in expected:
            torch.testing.assert_close(parameter.grad, expected[f"grad.old.{name}"], atol=2e-5, rtol=1e-4)


def fixture_edits(given: dict[str, Tensor], num_clips: int) -> tuple[Edit, ...]:
    edits = []
    for clip in range(num_clips):
        kind = int(given[f"dpo.randint{2 * clip:02}"])
        begin, end = sorted(given[f"dpo.randint{2 * clip + 1:02}"].tolist())
        edits.append(Edit("delete" if kind else "repeat", begin, end))
    return tuple(edits)


def test_the_preference_is_upstreams(fixtures_dir: Path, given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    net, batch = toy_net(fixtures_dir), batch_of(given)
    batch = replace(batch, edits=fixture_edits(given, len(batch.ids)))
    rows = [edited(row, edit) for row, edit in zip(given["semantic_ids"], batch.edits, strict=True)]
    assert [len(row) for row in rows] == expected["dpo.reject_y_lens"].tolist()
    for row, wanted in zip(rows, expected["dpo.reject_y"], strict=True):
        assert torch.equal(row, wanted[: len(row)])

    losses = clip_losses(net, batch, compat=HEAD)
    assert losses.preference is not None
    torch.testing.assert_close(-losses.nll, expected["dpo.A_logps"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.preference.mean(), expected["dpo.loss_2"], rtol=2e-5, atol=0)
    config = gpt_config(fixtures_dir / "s1_t2s", dpo=1.0)
    total = value(losses, config) * len(batch.ids)
    torch.testing.assert_close(total, expected["dpo.loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.acc_top3.total / losses.acc_top3.count, expected["dpo.acc"], rtol=1e-6, atol=0)
    torch.autograd.backward(total)
    norms = json.loads((fixtures_dir / "s1_t2s" / "grad_norms.json").read_text())["dpo"]["per_param"]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(norms[name], rel=2e-4), name


def test_a_replayed_run_ends_where_upstreams_did(fixtures_dir: Path) -> None:
    """With upstream's accumulation: sums, five batches in a first window, and what an epoch leaves over."""
    folder = folder_of(fixtures_dir, "s1_train_trace")
    given = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    trace = json.loads((folder / "trace.json").read_text())
    net = toy_net(fixtures_dir)
    groups = [{"params": list(net.parameters()), "lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.0}]
    optimizer = ScaledAdam(groups, eps=1e-8)
    for number, step in enumerate(trace):
        batch = batch_of(given, prefix=f"batch{step['batch_idx']}.", bert="bert_feature_fp16")
        losses = clip_losses(net, batch, compat=HEAD)
        loss = losses.nll.sum()
        torch.autograd.backward(loss)
        assert float(loss.detach()) == pytest.approx(step["loss"], rel=1e-4), number
        assert float(losses.acc_top3.total / losses.acc_top3.count) == pytest.approx(step["acc"], abs=1e-6), number
        assert (step["batch_idx"] > 0 and step["batch_idx"] % 4 == 0) == step["stepped"]
        if step["stepped"]:
            norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
            assert float(norm) == pytest.approx(step["grad_norm"], rel=1e-3), number
            optimizer.param_groups[0]["lr"] = step["lr_used"]
            optimizer.step()
            optimizer.zero_grad()
    lr = 0.002 * sum(step["stepped"] for step in trace)
    for name, parameter in net.named_parameters():
        wanted, found = expected[f"final.model.{name}"], parameter.detach().clone()
        if name.endswith("in_proj_bias"):  # a key's bias changes no attention: its gradient is rounding, blown up
            found.view(3, -1)[1] = wanted.view(3, -1)[1]
        room = 0.2 * lr * float(wanted.square().mean().sqrt())
        torch.testing.assert_close(found, wanted, atol=room, rtol=0, msg=name)

    assert_same_state(net, optimizer, json.loads((folder / "optimizer_state.json").read_text()))


def assert_same_state(net: Text2SemanticDecoder, optimizer: ScaledAdam, upstream: dict[str, Any]) -> None:
    """Compare with the shapes and norms of upstream's, which is stacked by shape with the first parameter's number."""
    stacks: dict[torch.Size, list[int]] = {}
    parameters = list(net.parameters())
    for number, parameter in enumerate(parameters):
        stacks.setdefault(parameter.shape, []).append(number)
    assert {str(members[0]) for members in stacks.values()} == set(upstream)
    for shape, members in stacks.items():
        wanted = upstream[str(members[0])]
        states = [optimizer.state[parameters[number]] for number in members]
        scalar = shape.numel() == 1  # upstream keeps sizes of these too, which nothing reads
        assert all(int(state["step"]) == wanted["step"] for state in states)
        assert wanted["delta"]["shape"] == [len(members), *shape]
        for key in ("delta", "exp_avg_sq", *(() if scalar else ("param_rms", "scale_exp_avg_sq", "scale_grads"))):
            norm = torch.stack([state[key].norm() for state in states]).norm()
            assert float(norm) == pytest.approx(wanted[key]["norm"], rel=2e-2, abs=1e-7), (shape, key)
    norms = next(state["model_norms"] for state in optimizer.state.values() if "model_norms" in state)
    kept = next(state["model_norms"] for state in upstream.values() if "model_norms" in state)
    assert list(norms.shape) == kept["shape"]
    assert float(norms.norm()) == pytest.approx(kept["norm"], rel=1e-3)
