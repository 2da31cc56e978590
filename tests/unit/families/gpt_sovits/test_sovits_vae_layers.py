"""Layers of the VAE: fast ways against the plain ones, and what must hold of each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support.sovits_toys import vae_config
from ttstrain.families.gpt_sovits.vae.attention import MASKED, Attention
from ttstrain.families.gpt_sovits.vae.encoders import Flow
from ttstrain.families.gpt_sovits.vae.layers import NormedConv1d, length_mask
from ttstrain.families.gpt_sovits.vae.quantizer import DECAY, NUM_CODES, Codebook, Met, Quantizer
from ttstrain.families.gpt_sovits.vae.synthesizer import build_vae


def test_weight_norm_is_torchs_and_can_be_copied_after_use() -> None:
    ours = NormedConv1d(4, 6, 3, dilation=2)
    theirs = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, padding=2, dilation=2))
    theirs.parametrizations.weight.original0.data.copy_(ours.weight_g)
    theirs.parametrizations.weight.original1.data.copy_(ours.weight_v)
    assert theirs.bias is not None
    theirs.bias.data.copy_(ours.bias)
    x = torch.randn(2, 4, 10)
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))


@pytest.mark.parametrize("length", [2, 5, 12])
def test_relative_attention_is_what_its_formula_says(length: int) -> None:
    attention = Attention(8, 2, window=4)
    x, lengths = torch.randn(2, 8, length), (length, max(1, length - 1))
    mask = length_mask(lengths, width=length, device=x.device, dtype=x.dtype)
    pairs = (mask.mT @ mask)[:, None]
    torch.testing.assert_close(attention(x, x, pairs), by_the_formula(attention, x, pairs), rtol=1e-5, atol=1e-6)


def by_the_formula(attention: Attention, x: Tensor, pairs: Tensor) -> Tensor:
    clips, channels, length = x.shape
    width = channels // attention.heads
    parts = [conv(x).view(clips, attention.heads, width, length) for conv in (attention.conv_q, attention.conv_k)]
    query, key, value = *parts, attention.conv_v(x).view(clips, attention.heads, width, length)
    output = torch.zeros_like(query)
    for clip in range(clips):
        for head in range(attention.heads):
            for i in range(length):
                q = query[clip, head, :, i] / width**0.5
                scores = []
                for j in range(length):
                    score = q @ key[clip, head, :, j]
                    if abs(j - i) <= 4:
                        score = score + q @ attention.emb_rel_k[0, j - i + 4]
                    scores.append(score if pairs[clip, 0, i, j] else torch.tensor(MASKED))
                weights = torch.stack(scores).softmax(0)
                for j in range(length):
                    heard = value[clip, head, :, j]
                    if abs(j - i) <= 4:
                        heard = heard + attention.emb_rel_v[0, j - i + 4]
                    output[clip, head, :, i] = output[clip, head, :, i] + weights[j] * heard
    return attention.conv_o(output.view(clips, channels, length))


def test_the_flow_and_its_inverse_undo_each_other() -> None:
    config = vae_config()
    flow = Flow(config).eval()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    mask = length_mask((20, 13), width=20, device=torch.device("cpu"), dtype=torch.float32)
    z, style = torch.randn(2, config.inter_channels, 20) * mask, torch.randn(2, config.gin_channels, 1)
    there = flow(z, mask, style)
    assert not torch.allclose(there, z, atol=0.1)
    torch.testing.assert_close(flow.inverse(there, mask, style), z, rtol=1e-4, atol=1e-4)


def test_padded_clips_have_the_latent_that_they_have_alone() -> None:
    vae = build_vae(vae_config(), "v2").eval()
    mask = length_mask((20, 13), width=20, device=torch.device("cpu"), dtype=torch.float32)
    z, style = torch.randn(2, 24, 20) * mask, torch.randn(2, 512, 1)
    both = vae.flow(z, mask, style)
    alone = vae.flow(z[1:, :, :13], mask[1:, :, :13], style[1:])
    torch.testing.assert_close(both[1:, :, :13], alone, rtol=1e-4, atol=1e-5)
    assert not both[1, :, 13:].any()


# ---------------------------------------------------------------- the quantizer


def test_codes_are_the_nearest_vectors() -> None:
    codebook = Codebook()
    features = torch.randn(50, 768)
    expected = torch.cdist(features.double(), codebook.embed.double()).argmin(dim=1)
    assert torch.equal(codebook.nearest(features), expected)


def test_a_codebook_learns_from_the_sums_of_what_fell_to_its_codes() -> None:
    """A step moves it once, by moving averages of counts and sums: however the step was divided, and not before."""
    torch.manual_seed(0)
    quantizer = Quantizer()
    codebook = quantizer.codebook
    codebook.cluster_size.fill_(10.0)
    codebook.embed_avg.mul_(10.0)
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    features = torch.randn(2, 768, 30)
    codes = quantizer.encode(features).flatten()
    parts = [quantizer(part).met for part in (features[:1], features[1:])]
    assert quantizer.eval()(features).met is None
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())

    codebook.learn(Met(sum(part.counts for part in parts), sum(part.sums for part in parts)))
    counts = torch.bincount(codes, minlength=NUM_CODES)
    sums = torch.zeros(NUM_CODES, 768).index_add(0, codes, features.mT.flatten(0, 1))
    expected_size = DECAY * 10 + (1 - DECAY) * counts
    expected_avg = DECAY * before["embed_avg"] + (1 - DECAY) * sums
    torch.testing.assert_close(codebook.cluster_size, expected_size)
    torch.testing.assert_close(codebook.embed_avg, expected_avg)
    torch.testing.assert_close(codebook.embed, expected_avg / expected_size[:, None], rtol=1e-4, atol=1e-6)


def test_the_gradient_passes_through_rounding() -> None:
    quantizer = Quantizer().eval()
    features = torch.randn(1, 768, 5, requires_grad=True)
    vectors = quantizer(features).vectors
    torch.testing.assert_close(vectors, quantizer.decode(quantizer.encode(features)), rtol=1e-5, atol=1e-6)
    [gradient] = torch.autograd.grad(vectors.sum(), features)
    assert torch.equal(gradient, torch.ones_like(features))
