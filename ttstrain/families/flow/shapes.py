"""Names and shapes of a net's parameters, as upstream's files hold them. Imports no torch: plans count from this."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain.families.flow.config import CONV_GROUPS, FlowConfig

CONV_KERNEL = 31  # of the convolutional position embedding
TIME_FREQUENCIES = 256
TEXT_KERNEL = 7

Shape = tuple[int, ...]

# Attention and feed-forward of both backbones; what modulates or starts at zero is left alone.
LORA_TARGETS = ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0", "*.ff.0.0", "*.ff.2")


def parameter_shapes(config: FlowConfig, *, num_tokens: int) -> dict[str, Shape]:
    """Map every parameter's name in the task to its shape."""
    return {f"transformer.{name}": shape for name, shape in _net(config, num_tokens)}


def _net(config: FlowConfig, num_tokens: int) -> Iterator[tuple[str, Shape]]:
    d, t, m = config.dim, config.text_dim, config.n_mels
    yield from _linear("time_embed.time_mlp.0", TIME_FREQUENCIES, d)
    yield from _linear("time_embed.time_mlp.2", d, d)
    yield "text_embed.text_embed.weight", (num_tokens + 1, t)
    for layer in range(config.conv_layers):
        yield from _text_block(f"text_embed.text_blocks.{layer}", t)
    yield from _linear("input_embed.proj", 2 * m + t, d)
    for layer in (0, 2):
        yield f"input_embed.conv_pos_embed.conv1d.{layer}.weight", (d, d // CONV_GROUPS, CONV_KERNEL)
        yield f"input_embed.conv_pos_embed.conv1d.{layer}.bias", (d,)
    yield from _dit(config) if config.backbone == "dit" else _unett(config)
    yield from _linear("proj_out", d, m)


def _dit(config: FlowConfig) -> Iterator[tuple[str, Shape]]:
    d = config.dim
    for layer in range(config.depth):
        block = f"transformer_blocks.{layer}"
        yield from _linear(f"{block}.attn_norm.linear", d, 6 * d)
        yield from _attention(f"{block}.attn", config)
        yield from _feed_forward(f"{block}.ff", config)
    if config.long_skip_connection:
        yield "long_skip_connection.weight", (d, 2 * d)
    yield from _linear("norm_out.linear", d, 2 * d)


def _unett(config: FlowConfig) -> Iterator[tuple[str, Shape]]:
    d = config.dim
    for layer in range(config.depth):
        if config.skip_connect_type == "concat" and layer >= config.depth // 2:
            yield f"layers.{layer}.0.weight", (d, 2 * d)
        yield f"layers.{layer}.1.g", (d,)
        yield from _attention(f"layers.{layer}.2", config)
        yield f"layers.{layer}.3.g", (d,)
        yield from _feed_forward(f"layers.{layer}.4", config)
    yield "norm_out.g", (d,)


def _attention(name: str, config: FlowConfig) -> Iterator[tuple[str, Shape]]:
    inner = config.heads * config.dim_head
    for part in ("to_q", "to_k", "to_v"):
        yield from _linear(f"{name}.{part}", config.dim, inner)
    if config.qk_norm is not None:
        yield f"{name}.q_norm.weight", (config.dim_head,)
        yield f"{name}.k_norm.weight", (config.dim_head,)
    yield from _linear(f"{name}.to_out.0", inner, config.dim)


def _feed_forward(name: str, config: FlowConfig) -> Iterator[tuple[str, Shape]]:
    hidden = config.ff_mult * config.dim
    yield from _linear(f"{name}.ff.0.0", config.dim, hidden)
    yield from _linear(f"{name}.ff.2", hidden, config.dim)


def _text_block(name: str, t: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.dwconv.weight", (t, 1, TEXT_KERNEL)
    yield f"{name}.dwconv.bias", (t,)
    yield f"{name}.norm.weight", (t,)
    yield f"{name}.norm.bias", (t,)
    yield from _linear(f"{name}.pwconv1", t, 2 * t)
    yield f"{name}.grn.gamma", (1, 1, 2 * t)
    yield f"{name}.grn.beta", (1, 1, 2 * t)
    yield from _linear(f"{name}.pwconv2", 2 * t, t)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)
