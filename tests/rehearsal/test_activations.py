"""What a layer leaves for its backward pass on a GPU: by formula as much as lies there after its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended_cuda import GPU, needs_cuda_build, pretended_cuda
from real_size import make_clips
from torch import nn

from ttstrain import registry
from ttstrain.contract.model import ModelConfig
from ttstrain.families.flow import cost as flow
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.gpt_sovits import cost as sovits
from ttstrain.families.gpt_sovits.config import GptConfig, GptNetConfig, VaeNetConfig
from ttstrain.families.gpt_sovits.vae.decoder import Decoder
from ttstrain.families.gpt_sovits.vae.discriminator import Discriminator
from ttstrain.families.gpt_sovits.vae.losses import feature_loss
from ttstrain.families.orpheus import attention
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.memory import Trained, layer_bytes
from ttstrain.modules.dropout import Dropout

pytestmark = needs_cuda_build

CLOSE = 0.03
SECONDS = 4.0
FORMATS = [None, torch.bfloat16]


def left(build: Callable[[], Callable[[], Any]], *, dtype: torch.dtype | None) -> int:
    """Build a net; return the bytes that lie on the GPU after its forward pass, with its result, and not before."""
    with pretended_cuda() as gpu:
        with gpu.fake:
            run = build()
        before = gpu.live
        with torch.autocast("cuda", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            result = run()
        taken = gpu.live - before
        del result, run
    return taken


def of_a_task(name: str, config: ModelConfig) -> Callable[[], Callable[[], Any]]:
    """Return what builds a task on the GPU; what that returns computes the first loss of four clips."""
    spec = registry.find_task(name)
    batch: Any = spec.make_blank_batch(config, make_clips(4, seconds=SECONDS))

    def build() -> Callable[[], Any]:
        task = spec.build(config)
        task.to(GPU)
        return lambda: next(task.losses(task.draw(batch).to(GPU)))

    return build


def between(make: Callable[[int], Callable[[], Callable[[], Any]]], *, dtype: torch.dtype | None) -> float:
    """Return what a layer leaves: half of what four leave more than two."""
    return (left(make(4), dtype=dtype) - left(make(2), dtype=dtype)) / 2


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qk_norm": "rms_norm", "ff_mult": 4},
        {"dropout": 0.0, "heads": 2},
        {"backbone": "unett", "text_dim": 100, "conv_layers": 0, "text_mask_padding": False},
        {"backbone": "unett", "skip_connect_type": "add", "conv_layers": 0},
    ],
    ids=["dit", "normed", "undropped", "unett", "added"],
)
def test_a_block_of_a_flow_net_leaves_what_is_counted(settings: dict[str, Any], dtype: torch.dtype | None) -> None:
    def net(depth: int) -> FlowConfig:
        return FlowConfig(**{"dim": 256, "heads": 4, "tokenizer": "char", **settings, "depth": depth})

    half, config = dtype is not None, net(2)
    frames = 4 * (int(SECONDS * 24_000) // 256 + 1 + (config.backbone == "unett"))  # one more for the time
    counted = frames * flow.block_bytes(config, half=half)
    if half:  # and the weights' copies, those that modulate too
        adaptive = 6 * config.dim**2 if config.backbone == "dit" else 0
        counted += 2 * (flow.block_parameters(config) + adaptive)
    found = between(lambda depth: of_a_task("flow", net(depth)), dtype=dtype)
    assert counted == pytest.approx(found, rel=CLOSE)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("compat", ["none", "upstream-2025-07"])
def test_a_layer_of_the_gpt_leaves_what_is_counted(compat: Any, dtype: torch.dtype | None) -> None:
    def net(layers: int) -> GptConfig:
        sizes = {"embedding_dim": 256, "hidden_dim": 256, "head": 8}
        return GptConfig(gpt=GptNetConfig(**sizes, n_layer=layers, compat=compat))

    half = dtype is not None
    frames = [int(50 * SECONDS)] * 4
    more, less = (sovits.gpt_bytes(net(layers).gpt, frames, half=half) for layers in (4, 2))
    weights = 2 * 12 * 256**2 if half else 0
    found = between(lambda layers: of_a_task("gpt_sovits/gpt", net(layers)), dtype=dtype)
    assert (more - less) / 2 + weights == pytest.approx(found, rel=0.08)  # the text's length is an estimate


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_decoder_leaves_what_is_counted(dtype: torch.dtype | None) -> None:
    config = VaeNetConfig(upsample_initial_channel=128, gin_channels=64, inter_channels=32)

    def build() -> Callable[[], Any]:
        decoder = Decoder(config).to(GPU)
        z, style = torch.zeros(8, 32, 32, device=GPU), torch.zeros(8, 64, 1, device=GPU)
        return lambda: decoder(z, style)

    counted = 8 * 32 * sovits.decoder_bytes(config, half=dtype is not None)
    with pretended_cuda() as gpu, gpu.fake:
        weights = sum(p.numel() for p in Decoder(config).parameters() if p.ndim > 1)
    assert counted + weights * (4 if dtype is None else 2) == pytest.approx(left(build, dtype=dtype), rel=CLOSE)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("version", ["v2", "v2Pro"])
def test_what_is_judged_leaves_what_is_counted(version: Any, dtype: torch.dtype | None) -> None:
    config = VaeNetConfig(discriminator_channels=64)
    clips, samples = 4, 32 * 640

    def build() -> Callable[[], Any]:
        discriminator: nn.Module = Discriminator(config, version).to(GPU)
        kind = dtype or torch.float32
        real, fake = (torch.zeros(clips, 1, samples, device=GPU, dtype=kind) for _ in range(2))
        fake.requires_grad_()

        def judge() -> Any:
            with torch.no_grad():
                fixed = discriminator.fixed()
                known = fixed(real)
            return feature_loss(known, made := fixed(fake)), known, made

        return judge

    counted = clips * samples * sovits.judged_bytes(config, version, half=dtype is not None)
    assert counted == pytest.approx(left(build, dtype=dtype), rel=0.05)


def test_dropout_leaves_a_mask_of_bytes() -> None:
    """In place it would leave one as wide as what it drops."""
    drop, number = Dropout(0.1, inplace=True).train(), 1 << 20

    def build() -> Callable[[], Any]:
        x = torch.zeros(number, device=GPU, dtype=torch.bfloat16, requires_grad=True)
        return lambda: drop(x * 2)

    assert left(build, dtype=None) == (2 + 1) * number


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [*FORMATS, torch.float16])
def test_a_layer_of_the_language_model_leaves_what_is_counted(
    dtype: torch.dtype | None, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel's own check makes a backward pass, which needs a process without one before.
    monkeypatch.setattr(attention, "misfit", lambda *_args, **_more: None)
    attention.has_varlen.cache_clear()

    def net(layers: int) -> OrpheusConfig:
        return OrpheusConfig(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            param_dtype=weights,
            rows={"tokenizer": "package:toy", "codec": "package:toy"},
            text_vocab_size=4096,
            bos_token_id=0,
            eot_token_id=9,
            vocab_size=40_000,
        )

    names: dict[torch.dtype | None, Any] = {None: None, torch.bfloat16: "bf16", torch.float16: "fp16"}
    way = Trained(names[dtype], weights, rank=0, recomputed=False)
    spec = registry.find_task("orpheus")
    tokens = spec.make_blank_batch(net(2), make_clips(4, seconds=SECONDS)).num_padded
    copies = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512) if way.copies_weights else 0
    found = between(lambda layers: of_a_task("orpheus", net(layers)), dtype=dtype)
    assert tokens * layer_bytes(net(2), way) + copies == pytest.approx(found, rel=CLOSE)
    attention.has_varlen.cache_clear()  # nothing was checked
