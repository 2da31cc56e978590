"""Names and shapes of a Llama's parameters in the task. Imports no torch: plans count from this."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain.families.orpheus.config import PREFIX, OrpheusConfig


def shapes(config: OrpheusConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every parameter's name and shape; a tied matrix is one, under the embedding's name."""
    h, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    yield f"{PREFIX}model.embed_tokens.weight", (config.vocab_size, h)
    for number in range(config.num_hidden_layers):
        layer = f"{PREFIX}model.layers.{number}"
        yield f"{layer}.self_attn.q_proj.weight", (queries, h)
        yield f"{layer}.self_attn.k_proj.weight", (keys, h)
        yield f"{layer}.self_attn.v_proj.weight", (keys, h)
        yield f"{layer}.self_attn.o_proj.weight", (h, queries)
        yield f"{layer}.mlp.gate_proj.weight", (inner, h)
        yield f"{layer}.mlp.up_proj.weight", (inner, h)
        yield f"{layer}.mlp.down_proj.weight", (h, inner)
        yield f"{layer}.input_layernorm.weight", (h,)
        yield f"{layer}.post_attention_layernorm.weight", (h,)
    yield f"{PREFIX}model.norm.weight", (h,)
    if not config.tie_word_embeddings:
        yield f"{PREFIX}lm_head.weight", (config.vocab_size, h)
