"""Our DiT and UNetT against upstream F5-TTS 1.1.20: keys, outputs, losses, gradients and samples."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowBatch
from ttstrain.families.flow.model import FlowNet, build_net
from ttstrain.families.flow.model.cfm import FlowDraws, spans
from ttstrain.families.flow.model.sampler import durations, generate, time_grid, trajectory
from ttstrain.families.flow.planner import FlowPlanner
from ttstrain.families.flow.task import FlowTask

NETS = ["f5_dit_v1", "f5_dit_v0", "f5_e2_unett"]
FORWARDS = [
    "mask.da0.dt0",
    "mask.da0.dt1",
    "mask.da1.dt0",
    "mask.da1.dt1",
    "nomask.da0.dt0",
    "nomask.da1.dt1",
    "cfg_infer",
    "scalar_time",
    "text_long",
]
DROPS = ["keep", "drop_audio", "drop_both"]
SAMPLES = ["b1", "b1_epss7", "b1_nocfg_nosway", "b2"]
OFFICIAL = ["F5TTS_v1_Base", "F5TTS_Base", "F5TTS_v1_Small", "F5TTS_Small", "E2TTS_Base", "E2TTS_Small"]


@dataclass
class Golden:
    task: FlowTask
    config: dict[str, Any]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    grad_norms: dict[str, Any]
    keys: list[str]

    @property
    def net(self) -> FlowNet:
        return self.task.transformer


def our_config(upstream: dict[str, Any], **more: Any) -> tuple[FlowConfig, int]:
    """Translate upstream's architecture arguments."""
    arch = dict(upstream["arch"])
    num_tokens = arch.pop("text_num_embeds", 0)
    arch["n_mels"] = arch.pop("mel_dim", 100)
    if arch.pop("attn_backend", "torch") != "torch":
        raise AssertionError("fixtures use torch's attention")
    if upstream["backbone"] == "UNetT":
        arch |= {"text_dim": arch["n_mels"], "conv_layers": 0}
    return FlowConfig(backbone=upstream["backbone"].lower(), **arch, **more), num_tokens


@pytest.fixture(scope="module", params=NETS)
def golden(request: pytest.FixtureRequest, fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    folder = fixtures_dir / request.param
    upstream = json.loads((folder / "config.json").read_text())
    vocab = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocab.write_text("".join(f"{number}\n" for number in range(upstream["arch"]["text_num_embeds"])))
    config, _ = our_config(upstream, tokenizer="custom", vocab=str(vocab))
    task = FlowTask(config)
    weights = load_file(folder / "model_1250000.safetensors")
    prefix = "ema_model."
    task.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    return Golden(
        task=task.eval(),
        config=upstream,
        inputs=load_file(folder / "inputs.safetensors"),
        expected=load_file(folder / "expected.safetensors"),
        grad_norms=json.loads((folder / "grad_norms.json").read_text()),
        keys=list(json.loads((folder / "state_dict_spec.json").read_text())),
    )


def velocity(
    net: FlowNet,
    x: Tensor,
    cond: Tensor,
    text: Tensor,
    time: Tensor,
    *,
    lengths: Tensor | None = None,
    drop_audio: Tensor | None = None,
    drop_text: Tensor | None = None,
) -> Tensor:
    """Call a net as upstream's `forward` is called."""
    mask = None if lengths is None else torch.arange(x.shape[1]) < lengths[:, None]
    if drop_audio is not None:
        cond = cond.masked_fill(drop_audio[:, None, None], 0)
    embedded = net.text_embed(text, num_frames=x.shape[1], lengths=lengths, drop=drop_text)
    out: Tensor = net(x, cond, embedded, time, mask=mask)
    return out


def test_state_dict_has_upstreams_keys_in_upstreams_order(golden: Golden) -> None:
    assert list(golden.task.state_dict()) == golden.keys


@pytest.mark.parametrize("case", FORWARDS)
@torch.no_grad()
def test_velocity_is_upstreams(golden: Golden, case: str) -> None:
    given = golden.inputs
    x, cond, text, time, lengths = given["x"], given["cond"], given["text"], given["time"], given["lens"]
    drop_audio = torch.full((len(x),), "da1" in case)
    drop_text = torch.full((len(x),), "dt1" in case)
    if case == "text_long":
        text = given["text_long"]
    if case == "scalar_time":
        time = given["time_scalar"].expand(len(x))
    if case == "cfg_infer":
        x, cond, text, time, lengths = (torch.cat([each, each]) for each in (x, cond, text, time, lengths))
        drop_audio = drop_text = torch.arange(len(x)) >= len(x) // 2
    out = velocity(
        golden.net,
        x,
        cond,
        text,
        time,
        lengths=None if case.startswith("nomask") else lengths,
        drop_audio=drop_audio,
        drop_text=drop_text,
    )
    torch.testing.assert_close(out, golden.expected[f"fwd.{case}"], atol=2e-5, rtol=0)


def pinned_batch(golden: Golden, case: str) -> FlowBatch:
    """Make the batch of a loss case with upstream's draws."""
    given = golden.inputs
    lengths = given["lens"]
    start, end = spans(
        lengths,
        fraction=given[f"loss.{case}.frac_lengths"],
        position=given[f"loss.{case}.span_rand"],
        kind="upstream",
    )
    draws = FlowDraws(
        span_start=start,
        span_end=end,
        drop_audio=given[f"loss.{case}.drop_audio"].bool().expand(len(lengths)),
        drop_text=given[f"loss.{case}.drop_text"].bool().expand(len(lengths)),
        noise=given[f"loss.{case}.x0"],
        time=given[f"loss.{case}.time"],
    )
    return FlowBatch(
        ids=["a", "b", "c"],
        mel=given["mel"],
        mel_lengths=lengths,
        lengths=lengths,
        text=given["text"],
        weight=float((end - start).sum()),
        num_frames=int(lengths.sum()),
        num_padded=given["mel"].shape[0] * given["mel"].shape[1],
        draws=draws,
    )


@pytest.mark.parametrize("case", DROPS)
def test_spans_are_upstreams(golden: Golden, case: str) -> None:
    draws = pinned_batch(golden, case).draws
    assert draws is not None
    frame = torch.arange(golden.inputs["mel"].shape[1])
    hidden = (frame >= draws.span_start[:, None]) & (frame < draws.span_end[:, None])
    assert torch.equal(hidden, golden.inputs[f"loss.{case}.span_mask"])


@pytest.mark.parametrize("case", DROPS)
def test_loss_and_gradients_are_upstreams(golden: Golden, case: str) -> None:
    golden.task.zero_grad()
    (loss,) = golden.task.losses(pinned_batch(golden, case))
    loss.value.backward()
    expected = golden.expected[f"loss.{case}.loss"]
    torch.testing.assert_close(loss.value.detach(), expected, rtol=1e-5, atol=0)

    norms = golden.grad_norms[case]
    assert norms["no_grad"] == []
    for name, parameter in golden.task.named_parameters():
        assert parameter.grad is not None, name
        norm = float(parameter.grad.double().norm())
        if norms["per_param"][name] < 1e-5:  # exactly zero but for rounding: key biases
            assert norm < 1e-5, name
        else:
            assert norm == pytest.approx(norms["per_param"][name], rel=1e-4), name
        if case == "keep" and f"grad.keep.{name}" in golden.expected:
            torch.testing.assert_close(parameter.grad, golden.expected[f"grad.keep.{name}"], atol=1e-5, rtol=1e-4)
    total = math.sqrt(
        sum(float(p.grad.double().square().sum()) for p in golden.task.parameters() if p.grad is not None)
    )
    assert total == pytest.approx(norms["total"], rel=1e-4)


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_are_upstreams(golden: Golden, case: str) -> None:
    given = {
        key.removeprefix(f"sample.{case}."): value
        for key, value in golden.inputs.items()
        if key.startswith(f"sample.{case}.")
    }
    options = golden.config["sample"][case]
    prompt, text = given["cond"], given["text"]
    prompt_lengths = given.get("lens", torch.full((len(prompt),), prompt.shape[1]))
    wanted = given.get("duration", torch.tensor([options.get("duration", 0)]))
    lengths = durations(wanted, text=text, prompt_lengths=prompt_lengths)
    times = time_grid(options["steps"], sway=options["sway_sampling_coef"], epss=True)
    torch.testing.assert_close(times, given["t_grid"], atol=1e-7, rtol=0)
    call = partial(
        trajectory,
        golden.net,
        prompt,
        text,
        lengths=lengths,
        prompt_lengths=prompt_lengths,
        noise=[given[f"noise{row}"] for row in range(len(prompt))],
        times=times,
        cfg_strength=options["cfg_strength"],
    )
    states = list(call())
    out = generate(*call.args, **call.keywords)
    torch.testing.assert_close(out, golden.expected[f"sample.{case}.out"], atol=1e-4, rtol=0)
    for name, state in (("traj_step1", states[0]), ("traj_last", states[-1])):
        if f"sample.{case}.{name}" in golden.expected:
            torch.testing.assert_close(state, golden.expected[f"sample.{case}.{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configurations_have_upstreams_tensors(fixtures_dir: Path, name: str) -> None:
    with gzip.open(fixtures_dir / "key_specs" / f"{name}.json.gz") as file:
        spec = json.load(file)
    config, _ = our_config(spec["config"])
    with torch.device("meta"):
        net = build_net(config, num_tokens=spec["config"]["text_num_embeds"])
    ours = {f"transformer.{key}": [list(t.shape), str(t.dtype)[6:]] for key, t in net.state_dict().items()}
    assert list(ours.items()) == list(spec["tensors"].items())  # order counts: it is the optimizer's
    assert FlowPlanner(config).num_parameters() == spec["n_params"]


# ---------------------------------------------------------------- optional parts that no released net uses

V1 = {
    "dim": 64,
    "heads": 2,
    "dim_head": 32,
    "depth": 2,
    "ff_mult": 2,
    "text_dim": 32,
    "conv_layers": 2,
    "text_mask_padding": True,
}
V0 = {**V1, "text_mask_padding": False, "pe_attn_head": 1}
E2 = {**V0, "backbone": "unett", "depth": 4, "ff_mult": 4, "text_dim": 100, "conv_layers": 0}
# Of upstream's output: sum, sum of absolute values, out[0, 0, :3], out[1, 10, 5].
TABLE: list[tuple[dict[str, Any], str, float, float, tuple[float, ...], float]] = [
    (V1, "", 11.69395, 1932.567, (0.498670, -0.307332, -0.500217), -0.197220),
    (V1, "mask", 11.03215, 1972.537, (0.498670, -0.307332, -0.500217), -0.199144),
    (V1, "drop", 14.78765, 2306.063, (0.793614, -0.498885, -0.840284), -0.201486),
    ({**V1, "attn_mask_enabled": True}, "mask", 11.03215, 1972.527, (0.498670, -0.307332, -0.500217), -0.199127),
    (V0, "", 5.78865, 1223.272, (0.446734, -0.316706, -0.450489), -0.141320),
    (V0, "mask", 6.48029, 1424.415, (0.446734, -0.316706, -0.450489), -0.169124),
    (V0, "drop", 6.86476, 1353.589, (0.718135, -0.520579, -0.769916), -0.129161),
    ({**V1, "qk_norm": "rms_norm"}, "", 11.51513, 1918.770, (0.492230, -0.308840, -0.494132), -0.201681),
    (
        {**V1, "text_embedding_average_upsampling": True},
        "",
        10.79615,
        1834.617,
        (0.449120, -0.367128, -0.464753),
        -0.194469,
    ),
    ({**V1, "long_skip_connection": True}, "", -2.62695, 207.159, (0.013603, -0.073113, -0.026366), -0.108611),
    (E2, "", -3.68307, 126.364, (0.043578, 0.030464, 0.009822), -0.035615),
    (E2, "mask", -3.68291, 126.403, (0.043578, 0.030464, 0.009822), -0.035615),
]


def sine_net(options: dict[str, Any]) -> FlowNet:
    """Build a net whose k-th parameter by name is 0.05 sin(0.37 j + k)."""
    net = build_net(FlowConfig(**options), num_tokens=9).eval()
    for k, (_, parameter) in enumerate(sorted(net.named_parameters())):
        j = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data = (0.05 * torch.sin(0.37 * j + k)).float().view_as(parameter)
    return net


def sine(*shape: int, phase: float) -> Tensor:
    j = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.011 * j + phase).float().view(shape)


@pytest.mark.parametrize("row", TABLE)
@torch.no_grad()
def test_every_option_gives_upstreams_numbers(
    row: tuple[dict[str, Any], str, float, float, tuple[float, ...], float],
) -> None:
    options, call, total, size, first, single = row
    drop = torch.full((2,), call == "drop")
    out = velocity(
        sine_net(options),
        sine(2, 20, 100, phase=0),
        sine(2, 20, 100, phase=1),
        torch.tensor([[1, 2, 3, 4, 0, 5], [6, 7, -1, -1, -1, -1]]),
        torch.tensor([0.3, 0.7]),
        lengths=torch.tensor([20, 14]) if call == "mask" else None,
        drop_audio=drop,
        drop_text=drop,
    )
    assert float(out.double().abs().sum()) == pytest.approx(size, rel=1e-5)
    assert float(out.double().sum()) == pytest.approx(total, abs=1e-5 * size)
    assert out[0, 0, :3].tolist() == pytest.approx(first, abs=2e-5)
    assert float(out[1, 10, 5]) == pytest.approx(single, abs=2e-5)


def test_seeded_sample_is_upstreams() -> None:
    prompt = sine(1, 30, 100, phase=0)
    out = generate(
        sine_net(V1),
        prompt,
        torch.tensor([[1, 2, 3, 4, 0, 5]]),
        lengths=torch.tensor([50]),
        prompt_lengths=torch.tensor([30]),
        noise=[torch.randn(50, 100, generator=torch.Generator().manual_seed(123))],
        times=time_grid(7, sway=-1.0, epss=True),
        cfg_strength=2.0,
    )
    assert float(out.double().sum()) == pytest.approx(86.77827, abs=1e-3)
    assert out[0, 40, :3].tolist() == pytest.approx([0.484720, -0.799285, 0.056500], abs=1e-4)
