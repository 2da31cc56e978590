"""transformers' Llama with attention within documents, and the parts of it that the task uses.

Legend: n tokens, h width, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from ttstrain.families.orpheus.attention import NAME, Packing
from ttstrain.families.orpheus.config import OrpheusConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROBE_TOKENS = 8  # of each of the two documents that must not see each other
# A changed neighbour moves a leaking document's states by about their own size; a kernel that is cut elsewhere, by
# rounding at most.
LEAK = 1e-2


def llama_config(config: OrpheusConfig, *, attention: str = NAME) -> LlamaConfig:
    """Translate a `model:` section into transformers' configuration."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {"rope_type": "llama3", **config.rope_scaling.model_dump()}
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=rope,
        tie_word_embeddings=config.tie_word_embeddings,
        use_cache=False,  # True silently joins packed documents: the cache replaces the block mask
        attn_implementation=attention,
        bos_token_id=config.ids.bos,
        eos_token_id=config.ids.eos,
    )


def build_net(config: OrpheusConfig) -> LlamaForCausalLM:
    """Make a fresh net in its parameters' type."""
    net = LlamaForCausalLM(llama_config(config))
    if config.checkpoint_activations:
        net.activation_checkpointing_enable({"use_reentrant": False})
    for parameter in net.parameters():  # not the buffers: rotary frequencies in bf16 are other frequencies
        parameter.data = parameter.data.to(DTYPES[config.param_dtype])
    if config.tie_word_embeddings:
        net.register_state_dict_post_hook(_leave_out_tied_head)
        net.register_load_state_dict_pre_hook(_put_in_tied_head)
    return net


def _leave_out_tied_head(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Name a tied matrix once, as published folders do."""
    state.pop(f"{prefix}lm_head.weight", None)


def _put_in_tied_head(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if (matrix := state.get(f"{prefix}model.embed_tokens.weight")) is not None:
        state.setdefault(f"{prefix}lm_head.weight", matrix)


def hidden_states(net: LlamaForCausalLM, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the states (n, h) that the head reads, of packed tokens (1, n); `cu_seqlens` lies on the CPU."""
    packing = Packing.of(cu_seqlens, input_ids.device)
    output = net.model(input_ids=input_ids, position_ids=position_ids, use_cache=False, packing=packing)
    states: Tensor = output.last_hidden_state[0]
    return states


@torch.no_grad()
def prove_isolation(net: LlamaForCausalLM) -> None:
    """Check that attention stays within documents. Raises RuntimeError if changing one document changes another.

    Also raises if the changed document's own output does not change, since the check would then prove nothing.
    """
    device, v = net.lm_head.weight.device, net.config.vocab_size
    n = PROBE_TOKENS
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(v, (1, 3 * n), generator=generator)
    changed = first.clone()
    changed[:, n : 2 * n - 1] = (changed[:, n : 2 * n - 1] + 1 + v // 2) % v  # all of the middle document but its end
    positions = torch.arange(n).repeat(3)[None].to(device)
    cu_seqlens = torch.tensor([0, n, 2 * n, 3 * n], dtype=torch.int32)
    before, after = (hidden_states(net, ids.to(device), positions, cu_seqlens).float() for ids in (first, changed))
    size = before.abs().mean()
    moved = (after - before).abs().amax(dim=1) / size  # (3n,)
    others, tokens, end = torch.cat([moved[:n], moved[2 * n :]]), moved[n : 2 * n - 1], moved[2 * n - 1]
    neighbours, themselves, last = torch.stack([others.max(), tokens.max(), end]).tolist()
    if neighbours > LEAK:
        raise RuntimeError(
            f"attention leaks between packed documents: changing one changes its neighbours by {neighbours:.2g}"
        )
    if last == 0 < themselves:
        raise RuntimeError("attention does not work: a document's last token does not depend on its first ones")
