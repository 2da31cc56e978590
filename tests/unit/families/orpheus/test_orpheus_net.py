"""Packed documents do not see each other, and the test that says so can fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_orpheus import NET
from torch import Tensor
from transformers import AttentionInterface

from ttstrain.families.orpheus import attention
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.net import build_net, hidden_states, llama_config, prove_isolation
from ttstrain.families.orpheus.planner import OrpheusPlanner
from ttstrain.families.orpheus.shapes import shapes

LENGTHS = (5, 1, 9)


def packed_states(net: Any, rows: list[Tensor]) -> Tensor:
    starts = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()], dtype=torch.int32)
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    return hidden_states(net, torch.cat(rows)[None], positions, starts)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_packed_rows_are_what_they_are_alone(checkpointed: bool) -> None:
    config = OrpheusConfig(**NET, checkpoint_activations=checkpointed)
    net = build_net(config)
    rows = [torch.randint(config.vocab_size, (length,)) for length in LENGTHS]
    together = packed_states(net, rows)
    alone = torch.cat([packed_states(net, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    plain = type(net)(llama_config(config, attention="eager"))
    plain.load_state_dict({**net.state_dict(), "lm_head.weight": net.lm_head.weight})
    theirs = torch.cat([plain.model(row[None], use_cache=False).last_hidden_state[0] for row in rows])
    torch.testing.assert_close(together, theirs, rtol=0, atol=1e-5)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        net = build_net(OrpheusConfig(**NET, checkpoint_activations=checkpointed)).train()
        packed_states(net, [torch.arange(length) for length in LENGTHS]).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_isolation_is_proven_for_what_we_ship() -> None:
    for dtype in ("fp32", "bf16"):
        prove_isolation(build_net(OrpheusConfig(**NET, param_dtype=dtype)))


def test_a_leak_is_found() -> None:
    AttentionInterface.register("leaking", _leaking)
    net = build_net(OrpheusConfig(**NET))
    net.config._attn_implementation = "leaking"
    with pytest.raises(RuntimeError, match="leaks between packed documents"):
        prove_isolation(net)


def _leaking(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    return attention.attend(module, query, key, value, mask, scaling=kwargs["scaling"])  # without `packing`


def test_attention_that_does_not_attend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1) * scale

    net = build_net(OrpheusConfig(**NET))
    monkeypatch.setattr(attention, "_causal", deaf)
    with pytest.raises(RuntimeError, match="attention does not work"):
        prove_isolation(net)


def test_a_mask_is_refused() -> None:
    tensor = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="no mask"):
        attention.attend(torch.nn.Identity(), tensor, tensor, tensor, torch.ones(1, 2), scaling=1.0)


def test_a_kernel_is_used_only_where_it_computes_what_the_ordinary_one_does() -> None:
    def right(*arguments: Any, scale: float) -> Tensor:
        return attention._each(*arguments, scale=scale).transpose(1, 2)

    def leaking(query: Tensor, key: Tensor, value: Tensor, packing: Any, *, scale: float) -> Tensor:
        return attention._causal(query, key, value, scale=scale).transpose(1, 2)

    def absent(*arguments: Any, scale: float) -> Tensor:
        raise NotImplementedError("no flash kernel for this device\nmore")

    found = [
        attention.misfit(kernel, device=torch.device("cpu"), dtype=torch.bfloat16, channels=16)
        for kernel in (right, leaking, absent)
    ]
    assert found == [None, "its results differ from those of the ordinary kernel", "no flash kernel for this device"]


def test_a_kernel_is_tried_without_a_trace_in_a_layer_that_is_computed_again() -> None:
    """A run that falls back to another format tries its kernel inside such a layer, whose tensors are counted."""
    counted: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        counted.append(tensor)
        return tensor

    def right(*arguments: Any, scale: float) -> Tensor:
        return attention._each(*arguments, scale=scale).transpose(1, 2)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        reason = attention.misfit(right, device=torch.device("cpu"), dtype=torch.float32, channels=16)
    assert reason is None
    assert counted == []


def test_rotary_frequencies_stay_in_fp32_beside_bf16_weights() -> None:
    full, half = (build_net(OrpheusConfig(**NET, param_dtype=dtype)) for dtype in ("fp32", "bf16"))
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert half.lm_head.weight is half.model.embed_tokens.weight
    assert torch.equal(full.model.rotary_emb.inv_freq, half.model.rotary_emb.inv_freq)


def test_a_tied_matrix_is_stored_once_and_stays_tied() -> None:
    one, other = (build_net(OrpheusConfig(**NET)) for _ in range(2))
    state = one.state_dict()
    assert "lm_head.weight" not in state
    other.load_state_dict(state, strict=True)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert torch.equal(other.lm_head.weight, one.lm_head.weight)
    untied = build_net(OrpheusConfig(**NET, tie_word_embeddings=False))
    assert "lm_head.weight" in untied.state_dict()


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_of_the_plan_are_those_of_the_net(tied: bool) -> None:
    config = OrpheusConfig(**NET, tie_word_embeddings=tied)
    found = {f"net.{name}": tuple(parameter.shape) for name, parameter in build_net(config).named_parameters()}
    assert found == dict(shapes(config))


def test_the_published_size_is_that_of_llama_3b_with_audio_tokens() -> None:
    assert OrpheusPlanner(OrpheusConfig()).num_parameters() == 3_300_867_072
    assert OrpheusPlanner(OrpheusConfig(tie_word_embeddings=False)).num_parameters() == 3_300_867_072 + 156_940 * 3072
